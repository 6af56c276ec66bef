"""What happens when workers die."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from headsearch.engine import ray_engine
from headsearch.engine.executor import Job, Plan
from headsearch.engine.ray_engine import RayExecutor, ScoringActor
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle
from headsearch.model.plain import plain_outputs
from headsearch.scoring.item import OUTPUTS, WorkItem
from headsearch.task.batches import Span
from tests.tiny import tiny_data, tiny_model

MODEL = tiny_model("BERT")
DATA = tiny_data(MODEL)
WHOLE = Span(0, 5)
PLAN = Plan(workers=2, shards=(WHOLE,), threads=1, gpus=0, dtype="float32", cache_bytes=1 << 20)


def jobs(count: int) -> list[Job]:
    return [
        Job(i, WorkItem(OUTPUTS, HeadSet(), (HeadSet.of([i % 12]),)), WHOLE) for i in range(count)
    ]


def drain(executor: RayExecutor, numbers: list[int]) -> None:
    while some := executor.collect():
        numbers += [job.number for job, _ in some]


def test_a_killed_worker_costs_time_and_nothing_else(ray_cluster: None) -> None:
    executor = RayExecutor(bundle(MODEL), DATA, PLAN)
    try:
        for job in jobs(40):
            executor.submit(job)
        victim = executor.worker_pids()[0]
        done = executor.collect()
        os.kill(victim, signal.SIGKILL)
        while some := executor.collect():
            done += some
    finally:
        executor.close()
    assert sorted(job.number for job, _ in done) == list(range(40))
    for job, found in done:
        expected = plain_outputs(MODEL, DATA.batches, job.item.children[0])
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


def test_a_job_that_kills_three_workers_fails_the_run_and_is_named(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = HeadSet.of([5]).to_bytes()

    class Fragile(ScoringActor):
        def run(self, kind: str, parent: bytes, children: list[bytes], *span: int) -> Any:
            if poison in children:
                os._exit(1)
            return super().run(kind, parent, children, *span)

    monkeypatch.setattr(ray_engine, "ScoringActor", Fragile)
    executor = RayExecutor(bundle(MODEL), DATA, PLAN)
    done: list[int] = []
    try:
        for job in jobs(12):
            executor.submit(job)
        with pytest.raises(EngineError, match=r"^job 5 .* 3 workers that died"):
            drain(executor, done)
    finally:
        executor.close()
    # Jobs beside the poisoned one are suspects for a while, and are then computed by themselves.
    assert 5 not in done
    assert len(done) == len(set(done))


def test_an_unreachable_cluster_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("ray cluster not found\nlong explanation")

    monkeypatch.setattr(ray_engine.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_engine.ray, "init", refuse)
    with pytest.raises(EngineError) as caught:
        ray_engine.connect("10.0.0.1:6379")
    assert str(caught.value) == (
        "could not reach a Ray cluster at '10.0.0.1:6379': ray cluster not found"
    )
