"""What a callback is told, and the one place that tells it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from headsearch.errors import InputError

METHODS = ("on_expansion", "on_incumbent", "on_end")


class Callback:
    """Is told how `headsearch.search(…, callbacks=[…])` goes; any object with some of these is one.

    All are called in the process that searches, one after the other, in the order of the list.
    They decide nothing: what they return is not looked at. What one of them raises ends the search,
    which raises it; scores that a memo file has by then stay there.
    """

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """A step was committed: the full model, a rollout's, a round of proposals, an expansion, ….

        Args:
            step: what `transcript.jsonl` holds of it. `kind` says what it was, `removed` where it
                began; `best` is [heads removed, metric, loss] of the best state so far; `bound`
                holds upper limits on the `heads` that can go, proved, and `assumed`;
                `evaluations` is what all of the search has cost, in sets of heads scored.
        """

    def on_incumbent(self, point: Any) -> None:
        """A better state was found than all before; the full model is none.

        Args:
            point: an `OperatingPoint`. It meets the budget as the search scores it; the plain
                transformers forward has its say at the end.
        """

    def on_end(self, result: Any) -> None:
        """The search has ended, with this `SearchResult`; not called where an error ended it."""


class Callbacks:
    """Tells several callbacks, in order.

    Args:
        callbacks: objects that have some of the methods of `Callback`.

    Raises:
        InputError: they are no list, or one has none of these methods, or is a class.
    """

    def __init__(self, callbacks: Iterable[object]) -> None:
        if not isinstance(callbacks, Iterable):
            raise InputError(f"`callbacks` must be a list of callbacks but got {callbacks!r}")
        self._callbacks = list(callbacks)
        for each in self._callbacks:
            if isinstance(each, type) or not any(hasattr(each, name) for name in METHODS):
                raise InputError(
                    f"a callback must be an object with some of the methods {', '.join(METHODS)} "
                    f"but got {each!r}"
                )

    def tell(self, method: str, value: Any) -> None:
        """Call a method of all that have it, each with a copy: none can change what is found."""
        for each in self._callbacks:
            if (function := getattr(each, method, None)) is not None:
                function(copy.deepcopy(value))


def figures(step: Mapping[str, Any]) -> dict[str, float]:
    """Return what the ready callbacks log of a step; without a loss that is not finite."""
    heads, metric, loss = step["best"]
    values = {
        "heads_removed": heads,
        "metric": metric,
        "loss": loss,
        "bound": step["bound"]["heads"],
        "bound_assumed": step["bound"]["assumed"],
    }
    return {name: value for name, value in values.items() if value is not None}


def found(result: Any) -> dict[str, float]:
    """Return what the ready callbacks log of a `SearchResult`."""
    best = result.best
    values = {
        "result_heads_removed": best.heads_removed,
        "result_metric": best.metric,
        "result_loss": best.loss,
        "result_evaluations": result.details["evaluations"],
    }
    return {name: value for name, value in values.items() if value is not None}


def missing(extra: str) -> InputError:
    """Return the error that says what to install for a ready callback."""
    return InputError(
        f"this callback needs {extra}, which is not installed: pip install 'headsearch[{extra}]'"
    )
