"""Same search, byte for byte, whatever computes it; and the memo answers what it can."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Executor, Job, Plan
from headsearch.engine.inline import InlineExecutor
from headsearch.engine.ray_engine import RayExecutor
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.model.bundle import bundle
from headsearch.model.plain import plain_outputs
from headsearch.search.astar import Settings, search
from headsearch.search.problem import Problem
from headsearch.task.metric import make_objective
from tests.tiny import learnt, tiny_data, tiny_model

SHAPE = HeadMap((4, 4, 4))
MODEL = tiny_model("BERT")
DATA = learnt(MODEL, tiny_data(MODEL, examples=60, per_batch=7))
SETTINGS = Settings(max_evaluations=150, patience=None)


def make(kind: type, workers: int, shards: int) -> Executor:
    plan = Plan(
        workers=workers,
        shards=DATA.shards(shards),
        threads=1,
        gpus=0,
        dtype="float32",
        cache_bytes=1 << 20,
    )
    made: Executor = kind(bundle(MODEL), DATA, plan)
    return made


def transcript(executor: Executor, memo: MemoryStore, max_drop: float = 0.1) -> tuple[str, Any]:
    """The transcript of a search as bytes would be written, and the dispatcher's counts."""
    dispatcher = Dispatcher(executor, memo, SHAPE)
    objective = make_objective("accuracy", DATA.labels, 3)
    steps: list[dict[str, Any]] = []
    try:
        search(Problem(SHAPE, objective, max_drop), dispatcher, SETTINGS, on_step=steps.append)
    finally:
        executor.close()
    return "\n".join(json.dumps(step) for step in steps), dispatcher.counts


@pytest.fixture(scope="module")
def reference() -> str:
    return transcript(make(InlineExecutor, 1, 1), MemoryStore())[0]


@pytest.mark.parametrize(("workers", "shards"), [(1, 1), (2, 2), (2, 1), (3, 3), (2, 5)])
def test_ray_gives_the_inline_transcript(
    workers: int, shards: int, reference: str, ray_cluster: None
) -> None:
    assert transcript(make(RayExecutor, workers, shards), MemoryStore())[0] == reference


@pytest.mark.parametrize("shards", [2, 3, 9])
def test_shards_do_not_matter(shards: int, reference: str) -> None:
    assert transcript(make(InlineExecutor, 1, shards), MemoryStore())[0] == reference


def test_a_full_memo_answers_everything(reference: str) -> None:
    memo = MemoryStore()
    first = transcript(make(InlineExecutor, 1, 2), memo)
    again, counts = transcript(make(InlineExecutor, 1, 3), memo)  # other shards too
    assert again == first[0] == reference
    assert counts.computed == counts.gradients == 0
    assert counts.reused == round(first[1].computed) == 150


def test_another_budget_reuses_what_it_can() -> None:
    memo = MemoryStore()
    transcript(make(InlineExecutor, 1, 1), memo, max_drop=0.1)
    known = memo.count()
    _, counts = transcript(make(InlineExecutor, 1, 1), memo, max_drop=0.2)
    assert counts.reused > 20
    assert memo.count() - known == counts.computed + counts.gradients
    assert counts.computed + counts.reused == 150


def test_outputs_are_in_the_order_asked_and_equal_the_plain_path() -> None:
    executor = make(InlineExecutor, 1, 3)
    dispatcher = Dispatcher(executor, MemoryStore(), SHAPE)
    children = [HeadSet.of([j]) for j in (11, 0, 7, 3)]
    found = dispatcher.outputs(HeadSet(), children)
    for child, outputs in zip(children, found, strict=True):
        expected = plain_outputs(MODEL, DATA.batches, child)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)
    executor.close()


class CountingStore(MemoryStore):
    """Knows how many batches its records cover in all."""

    def batches(self) -> int:
        return sum(stop - first for spans in self._records.values() for first, stop in spans)


class DiesAfter:
    """An executor that stops the process, so to speak, after some jobs."""

    def __init__(self, inner: Executor, jobs: int) -> None:
        self._inner, self._left = inner, jobs
        self.name, self.plan = inner.name, inner.plan

    def submit(self, job: Job) -> None:
        self._inner.submit(job)

    def collect(self) -> list[tuple[Job, np.ndarray]]:
        done = self._inner.collect()
        self._left -= len(done)
        if self._left < 0:
            raise KeyboardInterrupt
        return done

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("jobs", [0, 1, 2, 9, 30])
def test_after_a_stop_the_same_transcript_and_nothing_kept_is_computed_again(
    jobs: int, reference: str
) -> None:
    memo = CountingStore()
    with pytest.raises(KeyboardInterrupt):
        transcript(DiesAfter(make(InlineExecutor, 1, 2), jobs), memo)
    kept_batches = memo.batches()
    again, counts = transcript(make(InlineExecutor, 1, 2), memo)
    assert again == reference
    # Every record that was missing was computed once: the shares of the batches add up.
    full = MemoryStore()
    transcript(make(InlineExecutor, 1, 2), full)
    assert memo.count() == full.count()
    assert memo.batches() - kept_batches == pytest.approx(
        (counts.computed + counts.gradients) * len(DATA.batches)
    )


def test_a_job_is_one_transaction() -> None:
    class Watched(MemoryStore):
        sizes: ClassVar[list[int]] = []

        def add(self, records: Any) -> Any:
            self.sizes.append(len(records))
            return super().add(records)

    memo = Watched()
    dispatcher = Dispatcher(make(InlineExecutor, 1, 2), memo, SHAPE)
    dispatcher.outputs(HeadSet(), [HeadSet.of([j]) for j in range(12)])
    assert memo.sizes == [12, 12]


def test_the_value_that_stands_in_the_memo_is_the_one_used() -> None:
    """Two processes that computed the same state a bit differently go on with the same bytes."""
    memo = MemoryStore()
    dispatcher = Dispatcher(make(InlineExecutor, 1, 1), memo, SHAPE)
    state = HeadSet.of([4])

    class Races(MemoryStore):
        def add(self, records: Any) -> Any:
            memo.add(
                [type(r)(r.state, r.kind, r.first, r.stop, other_value(r.value)) for r in records]
            )
            return memo.add(records)

    def other_value(value: bytes) -> bytes:
        from headsearch.memo.codec import pack_array, unpack_array

        dtype, shape, data = unpack_array(value)
        array = np.frombuffer(data, dtype).reshape(shape) + 1
        return pack_array(dtype, shape, array.astype(dtype).tobytes())

    plain = dispatcher.outputs(HeadSet(), [state])[0]
    raced = Dispatcher(make(InlineExecutor, 1, 1), Races(), SHAPE)
    memo._records.clear()
    np.testing.assert_allclose(raced.outputs(HeadSet(), [state])[0], plain + 1)


def test_spans_that_straddle_the_new_shards_are_used_where_they_cover_the_whole() -> None:
    memo = MemoryStore()
    first = Dispatcher(make(InlineExecutor, 1, 2), memo, SHAPE)
    state = HeadSet.of([4])
    expected = first.outputs(HeadSet(), [state])[0]
    second = Dispatcher(make(InlineExecutor, 1, 4), memo, SHAPE)
    np.testing.assert_array_equal(second.outputs(HeadSet(), [state])[0], expected)
    assert second.counts.computed == 0
