"""One conformance suite for all kinds of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import ObjectLostError

from headsearch.engine.executor import Done, Lost, Up, Workers
from headsearch.engine.inline import InlineWorkers
from headsearch.engine.ray_memo import RayMemo
from headsearch.engine.ray_workers import RayWorkers, independent_there
from headsearch.engine.scheduler import Scheduler
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import Block
from headsearch.model.plain import plain_outputs
from headsearch.run.engines import open_memo
from headsearch.scoring.item import GRADIENTS, WorkItem
from tests.engine import tables
from tests.engine.tasks import BUNDLE, DATA, MODEL, drain, inline, job, plan


def ray_with(workers: int) -> Callable[[], Workers]:
    return lambda: RayWorkers(BUNDLE, DATA, plan(workers, 2))


# One engine for all tests of a kind: starting Ray's actors takes seconds.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda: inline(2), id="inline"),
        pytest.param(ray_with(1), id="ray1", marks=pytest.mark.slow),
        pytest.param(ray_with(2), id="ray2"),
    ],
)
def workers(request: pytest.FixtureRequest, ray_cluster: None) -> Iterator[Workers]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(scope="module")
def scheduler(workers: Workers) -> Scheduler:
    return Scheduler(workers)


def test_every_job_comes_back_once_with_its_own_result(scheduler: Scheduler) -> None:
    pieces = plan(1, 2).layout.pieces
    jobs = [
        job(head * len(pieces) + place, piece, head)
        for head in range(12)
        for place, piece in enumerate(pieces)
    ]
    for each in jobs:
        scheduler.submit(each)
    done = drain(scheduler)
    assert sorted(each.number for each, _ in done) == list(range(len(jobs)))
    for each, found in done:
        batches = DATA.batches[each.piece.span.first : each.piece.span.stop]
        expected = plain_outputs(MODEL, batches, each.item.children[0])
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)
    assert not scheduler.pending
    assert scheduler.waiting == scheduler.in_flight == scheduler.sent_twice == 0


def test_gradients_have_one_row_for_the_state(scheduler: Scheduler) -> None:
    piece = plan(1, 2).layout.pieces[0]
    asked = job(0, piece, kind=GRADIENTS)
    scheduler.submit(type(asked)(0, WorkItem(GRADIENTS, HeadSet.of([1])), piece, 1.0))
    ((_, found),) = drain(scheduler)
    rows = DATA.offsets[piece.span.stop] - DATA.offsets[piece.span.first]
    assert found.shape == (1, rows, 3, 12)
    assert np.abs(found).max() > 0


def test_scores_go_through_the_memo_actor_where_others_may_use_the_cluster(
    workers: Workers, tmp_path: Path
) -> None:
    # The tests' Ray was there before these workers.
    memo = open_memo(workers, tmp_path / "memo.sqlite", "f")
    assert type(memo) is (SqliteStore if workers.name == "inline" else RayMemo)
    memo.add([Block("outputs", 0, 1, (b"state",), b"", b"value")])
    memo.close()
    with closing(SqliteStore(tmp_path / "memo.sqlite", "f")) as again:
        assert again.count() == 1


def test_a_search_that_started_ray_itself_writes_its_memo_itself(tmp_path: Path) -> None:
    workers = RayWorkers.__new__(RayWorkers)
    workers.alone = True  # as `connect` says
    with closing(open_memo(workers, tmp_path / "memo.sqlite", "f")) as memo:
        assert type(memo) is SqliteStore


def test_nothing_pending_gives_nothing(scheduler: Scheduler) -> None:
    assert scheduler.collect() == []


@pytest.mark.parametrize("make", [inline, partial(tables.on_ray, 1, 1)], ids=["inline", "ray1"])
def test_a_job_that_fails_is_named(make: Callable[[], Workers], ray_cluster: None) -> None:
    workers = make()
    scheduler = Scheduler(workers)
    scheduler.submit(job(7, workers.plan.layout.pieces[0], 1, kind="unheard of"))
    with pytest.raises(EngineError, match=r"^job 7 \(unheard of of 1 states.*unknown kind of"):
        drain(scheduler)
    workers.close()
    workers.close()


def test_describes_itself(workers: Workers) -> None:
    found = workers.describe()
    assert found["name"] == workers.name
    assert found["workers"] == workers.plan.workers
    assert (found["shards"], found["replicas"]) == (2, 1)


def test_a_worker_tells_whether_examples_depend_on_each_other_on_its_device(
    ray_cluster: None,
) -> None:
    """As where the workers have GPUs and this process has none."""
    assert independent_there(BUNDLE, DATA, "float32", 0.0, 1)
    with pytest.raises(EngineError, match="could not try out a worker's device:"):
        independent_there(BUNDLE, DATA, "float31", 0.0, None)


def test_inline_puts_torchs_thread_count_back() -> None:
    before = torch.get_num_threads()
    workers = InlineWorkers(BUNDLE, DATA, plan())
    assert torch.get_num_threads() == 1
    workers.close()
    assert torch.get_num_threads() == before


def test_of_answers_taken_together_one_may_be_lost_and_the_others_count(
    monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    workers = tables.on_ray(1, 1)
    try:
        while not any(isinstance(event, Up) for event in workers.poll(10)):
            pass
        for number in range(4):
            piece = workers.plan.layout.pieces[number]
            workers.send(0, number, [job(number, piece, number)])
        references = list(workers._running)
        ray.wait(references, num_returns=4)
        get, asked = ray.get, list[Any]()

        def losing(reference: Any, **options: Any) -> Any:
            asked.append(reference)
            if isinstance(reference, list) or reference == references[2]:
                raise ObjectLostError("0" * 56, None, "")
            return get(reference, **options)

        monkeypatch.setattr(ray, "get", losing)
        events = workers.poll(10)
        assert isinstance(asked[0], list), "together"
        assert len(asked[0]) == 4
        assert sorted(e.call for e in events if isinstance(e, Done)) == [0, 1, 3]
        assert [e.call for e in events if isinstance(e, Lost)] == [2]
    finally:
        monkeypatch.undo()
        workers.close()
