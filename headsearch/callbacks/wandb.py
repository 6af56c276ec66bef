"""A run in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from headsearch.callbacks.base import Callback, figures, found, missing


class WandB(Callback):
    """Logs heads removed, metric, loss and bounds, by evaluations, and the result as a summary.

    Into the run that `wandb.init` began, or else into one of its own. Where the search of one of
    its own did not end, the next search that is told of finishes it as failed.

    Raises:
        InputError: wandb is not installed.
    """

    # A run of some callback's own that is not finished.
    _open: ClassVar[Any] = None

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise missing("wandb") from None
        self._wandb: Any = wandb
        self._run: Any = None

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if step["step"] == 0:  # not before: a search that is refused leaves no run
            self._begin()
        values = {**figures(step), "evaluations": step["evaluations"]}
        self._run.log({f"search/{name}": value for name, value in values.items()})

    def on_end(self, result: Any) -> None:
        """See `Callback`."""
        self._run.summary.update({**found(result), "mask": result.mask})
        if self._run is WandB._open:
            WandB._open = None
            self._run.finish()

    def _begin(self) -> None:
        left, WandB._open = WandB._open, None
        if left is not None and left is self._wandb.run:
            left.finish(exit_code=1)
        if self._wandb.run is None:
            WandB._open = self._wandb.init()
        self._run = WandB._open or self._wandb.run
        self._run.define_metric("search/*", step_metric="search/evaluations")
