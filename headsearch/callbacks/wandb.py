"""A run in Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headsearch.callbacks.base import Callback, figures, found, missing


class WandB(Callback):
    """Logs heads removed, metric, loss and bounds, by evaluations, and the result as a summary.

    Into the run that `wandb.init` began, or else into one of its own.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise missing("wandb") from None
        self._wandb: Any = wandb
        self._run: Any = None
        self._own = False

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if self._run is None:  # not before: a search that is refused leaves no run
            self._own = self._wandb.run is None
            self._run = self._wandb.init() if self._own else self._wandb.run
            self._run.define_metric("search/*", step_metric="search/evaluations")
        values = {**figures(step), "evaluations": step["evaluations"]}
        self._run.log({f"search/{name}": value for name, value in values.items()})

    def on_end(self, result: Any) -> None:
        """See `Callback`."""
        run, self._run = self._run, None
        run.summary.update({**found(result), "mask": result.mask})
        if self._own:
            run.finish()
