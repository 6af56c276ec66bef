"""What is chosen where there are GPUs; what they compute is measured by `benchmarks/gpu.py`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from headsearch.engine import worker
from headsearch.engine.ray_cluster import Capacity
from headsearch.errors import InputError
from headsearch.run import engines, verify
from headsearch.run.config import RunConfig
from headsearch.run.prepare import Task
from headsearch.scoring import base
from headsearch.task.metric import make_objective
from tests.engine.tasks import BUNDLE, DATA, MODEL, SHAPE

GIB = 1 << 30
CONFIG = RunConfig(model="m", data="d")
TASK = Task(
    MODEL, BUNDLE, DATA, make_objective("accuracy", DATA.labels, 3), SHAPE, fingerprint="none"
)


def cluster(monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int) -> None:
    """A running cluster that has so much."""
    found = Capacity(cpus, gpus, None)
    monkeypatch.setattr("headsearch.engine.ray_cluster.capacity", lambda address: found)


@pytest.fixture(name="gpu")
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has one GPU of 40 GiB; nothing can be computed there."""
    memory = type("Properties", (), {"total_memory": 40 * GIB})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 * GIB, 40 * GIB))


@pytest.mark.parametrize("answer", [True, False])
def test_whether_examples_may_be_scored_in_any_order_is_tried_out_on_the_gpu(
    answer: bool, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def tried(bundle: Any, data: Any, dtype: str, gpus: float) -> bool:
        asked.append((dtype, gpus))
        return answer

    monkeypatch.setattr(engines, "independent", tried)
    choice = engines.choose(dataclasses.replace(CONFIG, dtype="bfloat16"), TASK)
    assert asked == [("bfloat16", 1.0)]
    assert choice.inline
    assert choice.plan.gpus == 1
    assert choice.plan.layout.independent == answer
    assert choice.plan.cache_bytes is None


def test_a_cluster_is_asked_where_this_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int | None]] = []

    def there(bundle: Any, data: Any, dtype: str, gpus: float, threads: int | None) -> bool:
        asked.append((gpus, threads))
        return True

    monkeypatch.setattr("headsearch.engine.ray_workers.independent_there", there)
    cluster(monkeypatch, cpus=4, gpus=8)
    choice = engines.choose(dataclasses.replace(CONFIG, ray_address="auto"), TASK)
    assert asked == [(1.0, 1)]
    assert choice.plan.layout.independent
    assert choice.plan.gpus == 1


@pytest.mark.parametrize(
    ("gpus", "share", "workers"), [(2, 0.4, 4), (2, 0.25, 8), (3, 1.0, 3), (5, 2.0, 2)]
)
def test_a_workers_share_is_of_one_gpu(
    gpus: int, share: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SCORES_PER_WORKER", 1)
    monkeypatch.setattr("headsearch.engine.ray_workers.independent_there", lambda *_: True)
    cluster(monkeypatch, cpus=64, gpus=gpus)
    config = dataclasses.replace(CONFIG, ray_address="auto", gpus_per_worker=share)
    assert engines.choose(config, TASK).plan.workers == workers


def test_workers_that_no_machine_of_a_cluster_has_cpus_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster(monkeypatch, cpus=2, gpus=0)
    config = dataclasses.replace(CONFIG, ray_address="auto", threads_per_worker=4)
    with pytest.raises(InputError, match="1 worker with 4 threads each need 4 CPUs but the clus"):
        engines.choose(config, TASK)


@pytest.mark.parametrize(
    ("engine", "given", "used"), [("inline", 3, 3), ("inline", None, None), ("ray", None, 1)]
)
def test_independence_is_tried_with_as_many_threads_as_workers_have(
    engine: str, given: int | None, used: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def tried(*_: Any) -> bool:
        seen.append(torch.get_num_threads())
        return True

    monkeypatch.setattr(engines, "independent", tried)
    torch.set_num_threads(2)
    try:
        config = dataclasses.replace(CONFIG, engine=engine, threads_per_worker=given)
        plan = engines.choose(config, TASK).plan
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert plan.threads == used
    assert seen == [used or 2]


def test_on_a_cpu_nothing_else_is_asked() -> None:
    plan = engines.choose(dataclasses.replace(CONFIG, engine="inline"), TASK).plan
    assert plan.gpus == 0
    assert plan.layout.independent


@pytest.mark.parametrize(("asked", "expected"), [(0, 0), (3 << 20, 3 << 20), (None, 20 * GIB)])
def test_the_parent_cache_takes_half_of_a_gpu(
    asked: int | None, expected: int, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(worker, "evaluator_for", lambda *args, **named: made.update(named))
    worker.make_evaluator(BUNDLE, DATA, dtype="float32", gpus=1.0, cache_bytes=asked)
    assert made["device"] == "cuda"
    assert made["cache_bytes"] == expected
    worker.make_evaluator(BUNDLE, DATA, dtype="float32", gpus=0.25, cache_bytes=None)
    assert made["cache_bytes"] == 5 * GIB
    worker.make_evaluator(BUNDLE, DATA, dtype="float32", gpus=0, cache_bytes=None)
    assert made["cache_bytes"] == base.DEFAULT_CACHE_BYTES


def test_a_backward_pass_takes_a_part_of_a_gpu(gpu: None) -> None:
    assert base.most_backward_bytes(torch.device("cuda")) == 5 * GIB
    assert base.most_backward_bytes(torch.device("cpu")) == base.BACKWARD_BYTES


class Moving(nn.Module):
    """A model that notes where it is moved to."""

    def __init__(self, gigabytes: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(int(gigabytes * GIB / 4), device="meta"))
        self.places: list[str] = []

    def to(self, device: str) -> None:  # type: ignore[override]  # as it is called here
        self.places.append(device)


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "places"),
    [
        (1.5, 1.0, ["cuda", "cpu"]),
        (2.0, 1.0, []),  # 8 GiB are free, and four times as much and another are needed
        (1.5, 0.0, []),
    ],
)
def test_the_plain_path_is_on_the_gpu_if_there_is_room(
    gigabytes: float, gpus: float, places: list[str], gpu: None
) -> None:
    model = Moving(gigabytes)
    tf32 = torch.backends.cudnn.allow_tf32
    with verify.on_gpu(model, gpus):
        assert model.places == places[:1]
        assert torch.backends.cudnn.allow_tf32 == (tf32 and not places)
    assert model.places == places
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_it_comes_back_when_something_fails(gpu: None) -> None:
    model = Moving(0.1)
    with pytest.raises(ZeroDivisionError), verify.on_gpu(model, 1.0):
        raise ZeroDivisionError
    assert model.places == ["cuda", "cpu"]
