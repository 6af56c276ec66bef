"""A run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headsearch.callbacks.base import Callback, figures, found, missing


class MLflow(Callback):
    """Logs heads removed, metric, loss and bounds, by evaluations, and the result.

    Into the active run, or else into one of its own, where `mlflow.set_tracking_uri` and
    `mlflow.set_experiment` say. The result's files, `result.json` and `mask.json`, are artifacts.

    Raises:
        InputError: MLflow is not installed.
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError:
            raise missing("mlflow") from None
        self._mlflow: Any = mlflow
        self._run: str | None = None
        self._own = False

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if self._run is None:  # not before: a search that is refused leaves no run
            active = self._mlflow.active_run()
            self._own = active is None
            self._run = (active or self._mlflow.start_run()).info.run_id
        self._mlflow.log_metrics(figures(step), step=int(step["evaluations"]), run_id=self._run)

    def on_end(self, result: Any) -> None:
        """See `Callback`."""
        run, self._run = self._run, None
        self._mlflow.log_metrics(found(result), run_id=run)
        self._mlflow.log_params(
            {"metric": result.details["metric"], "max_drop": result.details["max_drop"]}, run_id=run
        )
        self._mlflow.log_dict(result.details, "result.json", run_id=run)
        self._mlflow.log_dict(result.mask, "mask.json", run_id=run)
        if self._own:
            self._mlflow.end_run()
