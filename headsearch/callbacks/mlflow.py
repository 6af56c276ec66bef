"""A run in MLflow."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from headsearch.callbacks.base import Callback, figures, found, missing


class MLflow(Callback):
    """Logs heads removed, metric, loss and bounds, by evaluations, and the result.

    Into the active run, or else into one of its own, where `mlflow.set_tracking_uri` and
    `mlflow.set_experiment` say. The result's files, `result.json` and `mask.json`, are artifacts.
    A run of its own whose search did not end is marked as failed: when this callback is told of
    another search, or when it is gone.

    Raises:
        InputError: MLflow is not installed.
    """

    def __init__(self) -> None:
        try:
            import mlflow
        except ImportError:
            raise missing("mlflow") from None
        self._mlflow: Any = mlflow
        self._client: Any = None
        self._run: str | None = None
        self._fail: weakref.finalize[[str, str], MLflow] | None = None

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if step["step"] == 0:  # not before: a search that is refused leaves no run
            self._run = self._begin()
        self._mlflow.log_metrics(figures(step), step=int(step["evaluations"]), run_id=self._run)

    def on_end(self, result: Any) -> None:
        """See `Callback`."""
        run = self._run
        self._mlflow.log_metrics(found(result), run_id=run)
        self._mlflow.log_params(
            {"metric": result.details["metric"], "max_drop": result.details["max_drop"]}, run_id=run
        )
        self._mlflow.log_dict(result.details, "result.json", run_id=run)
        self._mlflow.log_dict(result.mask, "mask.json", run_id=run)
        if self._fail is not None:
            self._fail.detach()
            self._client.set_terminated(run)

    def _begin(self) -> str:
        if self._fail is not None:
            self._fail()  # nothing, of a search that ended
            self._fail = None
        active = self._mlflow.active_run()
        if active is not None:
            return str(active.info.run_id)
        # Not left active: what is logged after a search that failed is none of its own.
        with self._mlflow.start_run() as made:
            run = str(made.info.run_id)
        self._client = self._mlflow.MlflowClient()
        self._client.update_run(run, status="RUNNING")
        self._fail = weakref.finalize(self, self._client.set_terminated, run, "FAILED")
        return run
