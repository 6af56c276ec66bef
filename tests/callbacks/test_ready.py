"""The ready callbacks, by what can be read back; those whose package is missing are skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import headsearch
from headsearch.callbacks import MLflow, TensorBoard, WandB
from headsearch.errors import InputError
from tests.callbacks.told import Told, searched

CURVES = ("heads_removed", "metric", "loss", "bound", "bound_assumed")


def play(told: Told, callback: Any) -> None:
    """Tell a callback what was told in a real search."""
    for name, value in told.calls:
        getattr(callback, name)(value)


def expected(told: Told) -> dict[str, list[float]]:
    """The curves, from the steps themselves."""
    steps = [value for name, value in told.calls if name == "on_expansion"]
    best = [dict(zip(CURVES, step["best"], strict=False)) for step in steps]
    return {
        **{name: [values[name] for values in best] for name in CURVES[:3]},
        "bound": [step["bound"]["heads"] for step in steps],
        "bound_assumed": [step["bound"]["assumed"] for step in steps],
        "evaluations": [step["evaluations"] for step in steps],
    }


@pytest.fixture(scope="module")
def told() -> Told:
    told = Told()
    told.returned = searched(callbacks=[told])
    return told


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own packages
def test_tensorboard_holds_the_curves_and_the_result(told: Told, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an optional extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play(told, TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    curves = expected(told)
    steps = [int(each) for each in curves.pop("evaluations")]
    for name, values in curves.items():
        read = events.Scalars(f"search/{name}")
        assert [event.value for event in read] == pytest.approx(values, rel=1e-6)
        assert [event.step for event in read] == steps
    (heads,) = events.Scalars("result/heads_removed")
    assert heads.value == told.returned.best.heads_removed
    (text,) = events.Tensors("result/text_summary")
    assert str(told.returned) in text.tensor_proto.string_val[0].decode()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # likewise
def test_tensorboard_keeps_what_was_told_before_an_error(told: Told, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an optional extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = TensorBoard(tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []  # a search that is refused leaves nothing
    callback.on_expansion(told.calls[0][1])
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert len(events.Scalars("search/metric")) == 1


@pytest.mark.filterwarnings("ignore")  # of MLflow's own, about stores and Python
@pytest.mark.parametrize("active", [False, True])
def test_mlflow_holds_the_curves_and_the_result(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: bool
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an optional extra")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # or a database would be needed
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    if active:
        mlflow.start_run()
    play(told, MLflow())
    assert (mlflow.active_run() is not None) == active, "only a run of its own is ended"
    mlflow.end_run()

    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    curves = expected(told)
    steps = [int(each) for each in curves.pop("evaluations")]
    for name, values in curves.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert sorted((each.step, each.value) for each in history) == sorted(
            zip(steps, values, strict=True)
        )
    assert run.data.metrics["result_heads_removed"] == told.returned.best.heads_removed
    assert run.data.params == {"metric": "accuracy", "max_drop": "0.05"}
    written = Path(client.download_artifacts(run.info.run_id, "mask.json", str(tmp_path)))
    assert json.loads(written.read_text()) == told.returned.mask


@pytest.mark.filterwarnings("ignore")  # likewise
@pytest.mark.parametrize("same", [False, True], ids=["another", "the same"])
def test_mlflow_keeps_a_search_that_failed_apart(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an optional extra")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    client, failed = mlflow.MlflowClient(), MLflow()
    failed.on_expansion(told.calls[0][1])
    assert mlflow.active_run() is None, "what a user logs next is none of the search's"
    (begun,) = client.search_runs(["0"])
    assert begun.info.status == "RUNNING"
    play(told, failed if same else MLflow())
    del failed
    ended = {run.info.run_id: run for run in client.search_runs(["0"])}
    assert ended.pop(begun.info.run_id).info.status == "FAILED"
    ((run_id, run),) = ended.items()
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(begun.info.run_id, "metric")) == 1
    assert len(client.get_metric_history(run_id, "metric")) == len(expected(told)["metric"])


class FakeRun:
    """What `WandB` calls of a run, written down."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.logged: list[dict[str, float]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.finished = 0

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int = 0) -> None:
        self.finished += 1
        self.exit_code = exit_code


@pytest.mark.parametrize("active", [False, True])
def test_wandb_gets_the_curves_and_the_result(
    told: Told, monkeypatch: pytest.MonkeyPatch, active: bool
) -> None:
    run = FakeRun()
    fake = SimpleNamespace(run=run if active else None, init=lambda: run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    play(told, WandB())
    assert run.metrics == {"search/*": "search/evaluations"}
    for name, values in expected(told).items():
        assert [each[f"search/{name}"] for each in run.logged] == values
    assert run.summary["result_heads_removed"] == told.returned.best.heads_removed
    assert run.summary["mask"] == told.returned.mask
    assert run.finished == (0 if active else 1), "only a run of its own is ended"


@pytest.mark.parametrize("same", [False, True], ids=["another", "the same"])
def test_wandb_keeps_a_search_that_failed_apart(
    told: Told, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    runs: list[FakeRun] = []

    class Active(FakeRun):
        def __init__(self) -> None:
            super().__init__()
            runs.append(self)
            fake.run = self

        def finish(self, exit_code: int = 0) -> None:
            super().finish(exit_code)
            fake.run = None

    fake = SimpleNamespace(run=None, init=Active)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    failed = WandB()
    failed.on_expansion(told.calls[0][1])
    play(told, failed if same else WandB())
    begun, ended = runs
    assert (begun.finished, begun.exit_code, len(begun.logged)) == (1, 1, 1)
    assert (ended.finished, ended.exit_code) == (1, 0)
    assert len(ended.logged) == len(expected(told)["metric"])


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: TensorBoard("logs"), "torch.utils.tensorboard", "tensorboard"),
        (MLflow, "mlflow", "mlflow"),
        (WandB, "wandb", "wandb"),
    ],
)
def test_a_missing_package_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, make: Any, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"pip install 'headsearch\[{extra}\]'"):
        make()


def test_they_are_named_without_loading_their_packages() -> None:
    code = (
        "import sys, headsearch.callbacks; "
        "print(sorted({'torch', 'mlflow', 'wandb', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert headsearch.callbacks.__all__ == sorted(headsearch.callbacks.__all__)
