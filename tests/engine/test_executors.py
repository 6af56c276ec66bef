"""One conformance suite for all executors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from headsearch.engine.executor import Executor, Job, Plan
from headsearch.engine.inline import InlineExecutor
from headsearch.engine.ray_engine import RayExecutor
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle
from headsearch.model.plain import plain_outputs
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.task.batches import Span
from tests.tiny import tiny_data, tiny_model

MODEL = tiny_model("BERT")
DATA = tiny_data(MODEL)
SPANS = (Span(0, 2), Span(2, 5))


def plan(workers: int, shards: tuple[Span, ...] = SPANS) -> Plan:
    return Plan(
        workers=workers, shards=shards, threads=1, gpus=0, dtype="float32", cache_bytes=1 << 20
    )


def inline() -> Executor:
    return InlineExecutor(bundle(MODEL), DATA, plan(1))


def ray_with(workers: int) -> Callable[[], Executor]:
    return lambda: RayExecutor(bundle(MODEL), DATA, plan(workers))


# One executor for all tests of a kind: starting Ray's actors takes seconds.
@pytest.fixture(
    scope="module",
    params=[inline, ray_with(1), ray_with(3)],
    ids=["inline", "ray1", "ray3"],
)
def executor(request: pytest.FixtureRequest, ray_cluster: None) -> Iterator[Executor]:
    made = request.param()
    yield made
    made.close()


def drain(executor: Executor) -> list[tuple[Job, np.ndarray]]:
    done = []
    while some := executor.collect():
        done += some
    return done


def test_every_job_comes_back_once_with_its_own_result(executor: Executor) -> None:
    jobs = [
        Job(2 * head + i, WorkItem(OUTPUTS, HeadSet(), (HeadSet.of([head]),)), span)
        for head in range(12)
        for i, span in enumerate(SPANS)
    ]
    for job in jobs:
        executor.submit(job)
    done = drain(executor)
    assert sorted(job.number for job, _ in done) == list(range(24))
    for job, found in done:
        batches = DATA.batches[job.span.first : job.span.stop]
        expected = plain_outputs(MODEL, batches, job.item.children[0])
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


def test_gradients_have_one_row_for_the_state(executor: Executor) -> None:
    executor.submit(Job(0, WorkItem(GRADIENTS, HeadSet.of([1])), SPANS[0]))
    ((_, found),) = drain(executor)
    assert found.shape == (1, 10, 3, 12)
    assert np.abs(found).max() > 0


def test_nothing_pending_gives_nothing(executor: Executor) -> None:
    assert executor.collect() == []


def test_results_can_be_kept_and_written_to(executor: Executor) -> None:
    executor.submit(Job(0, WorkItem(OUTPUTS, HeadSet(), (HeadSet(),)), SPANS[0]))
    ((_, found),) = drain(executor)
    found += 1.0


def test_a_job_that_fails_is_named(executor: Executor) -> None:
    executor.submit(Job(7, WorkItem("unheard of", HeadSet(), (HeadSet.of([1]),)), SPANS[0]))
    with pytest.raises(EngineError, match=r"^job 7 \(unheard of of 1 states"):
        drain(executor)


def test_describes_itself(executor: Executor) -> None:
    found = executor.describe()
    assert found["name"] == executor.name
    assert found["workers"] == executor.plan.workers
    assert found["shards"] == 2


@pytest.mark.parametrize("make", [inline, ray_with(1)], ids=["inline", "ray1"])
def test_close_may_be_called_twice(make: Callable[[], Executor], ray_cluster: None) -> None:
    executor = make()
    executor.close()
    executor.close()


def test_inline_puts_torchs_thread_count_back() -> None:
    before = torch.get_num_threads()
    executor = inline()
    assert torch.get_num_threads() == 1
    executor.close()
    assert torch.get_num_threads() == before
