"""Same search, byte for byte, whatever computes it; and the memo answers what it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import pytest

from headsearch.engine import cutting
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Event, Job, Workers
from headsearch.engine.ray_workers import RayWorkers
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import Block
from headsearch.model.plain import plain_outputs
from headsearch.scoring.item import GRADIENTS, OUTPUTS
from headsearch.search.astar import Settings
from headsearch.search.problem import Ask, Order
from headsearch.task.batches import BatchedData, Span
from tests.engine import tables
from tests.engine.tasks import BUNDLE, DATA, MODEL, PROPOSING, SHAPE, inline, plan, run, simulated


@pytest.fixture(scope="module")
def reference() -> str:
    return run(inline())[0]


@pytest.fixture(scope="module")
def table_reference() -> str:
    return tables.run(tables.undisturbed())[0]


class Recording:
    """Workers that note every job which is sent."""

    def __init__(self, inner: Workers, data: BatchedData = DATA) -> None:
        self._inner, self._offsets = inner, data.offsets
        self.name, self.plan, self.depth = inner.name, inner.plan, inner.depth
        self.sent: list[Job] = []
        self.states: list[int] = []  # of each call

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        self.sent += jobs
        self.states.append(sum(len(job.item.states) for job in jobs))
        self._inner.send(slot, call, jobs)

    def poll(self, timeout: float) -> list[Event]:
        return self._inner.poll(timeout)

    def now(self) -> float:
        return self._inner.now()

    def show(self, figures: Any) -> None:
        self._inner.show(figures)

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()

    def computed(self) -> Counter[tuple[str, HeadSet, int]]:
        """How often each example of each state was computed."""
        found = Counter[tuple[str, HeadSet, int]]()
        for job in self.sent:
            where = job.piece.where
            if isinstance(where, Span):
                where = np.arange(*self._offsets[[where.first, where.stop]])
            found.update(
                (job.item.kind, state, int(example))
                for state in job.item.states
                for example in where
            )
        return found


def test_ray_gives_the_inline_transcript_and_computes_nothing_twice(
    reference: str, ray_cluster: None
) -> None:
    recording = Recording(RayWorkers(BUNDLE, DATA, plan(2, 5)))
    transcript, dispatcher = run(recording)
    assert transcript == reference
    check_once(recording, dispatcher)


# The scores are off a table: how many workers share them is not a question of models.
@pytest.mark.parametrize(("workers", "shards"), [(1, 1), (2, 1), (2, 2), (4, 2), (4, 3)])
def test_so_it_is_for_any_number_of_workers_and_shards(
    workers: int, shards: int, table_reference: str, ray_cluster: None
) -> None:
    recording = Recording(tables.on_ray(workers, shards), tables.DATA)
    transcript, dispatcher = tables.run(recording)
    assert transcript == table_reference
    check_once(recording, dispatcher)


def check_once(recording: Recording, dispatcher: Dispatcher) -> None:
    assert set(recording.computed().values()) == {1}
    assert dispatcher.counts.reused == 0
    assert 0 <= dispatcher.counts.used <= dispatcher.counts.speculative


@pytest.mark.parametrize(("workers", "shards"), [(2, 3), (4, 3)])
def test_proposals_are_the_same_whoever_scores_them(
    workers: int, shards: int, ray_cluster: None
) -> None:
    expected, _ = tables.run(tables.undisturbed(), settings=PROPOSING)
    assert '"proposals"' in expected
    recording = Recording(tables.on_ray(workers, shards), tables.DATA)
    transcript, _ = tables.run(recording, settings=PROPOSING)
    assert transcript == expected
    assert set(recording.computed().values()) == {1}


def test_batches_may_have_to_stay_together(reference: str) -> None:
    """On devices where an example's outputs depend on those beside it, to the last bit."""
    recording = Recording(inline(3, independent=False))
    transcript, _ = run(recording)
    assert set(recording.computed().values()) == {1}
    assert all(job.piece.rows is None for job in recording.sent)
    assert transcript != reference, "states are given up after other examples"
    asked = Ask(OUTPUTS, HeadSet(), (HeadSet(),), order=Order(np.arange(60), (60,)))
    dispatcher = Dispatcher(inline(3, independent=False), MemoryStore(), SHAPE)
    with pytest.raises(EngineError, match="depend on others"):
        dispatcher.ask([asked])


@pytest.mark.parametrize("shards", [1, 3])
def test_examples_are_scored_in_the_order_asked_for(shards: int) -> None:
    order = Order(np.random.default_rng(0).permutation(60), (13, 30, 60))
    seen: list[np.ndarray] = []

    def decide(outputs: np.ndarray, examples: np.ndarray) -> bool:
        np.testing.assert_array_equal(outputs, whole[examples])
        seen.append(examples)
        return len(examples) < 30

    state = HeadSet.of([2, 7])
    ((whole,),) = Dispatcher(inline(), MemoryStore(), SHAPE).ask(
        [Ask(OUTPUTS, HeadSet(), (state,))]
    )
    memo, recording = MemoryStore(), Recording(inline(shards))
    dispatcher = Dispatcher(recording, memo, SHAPE)
    ((part,),) = dispatcher.ask([Ask(OUTPUTS, HeadSet(), (state,), decide, order)])
    for examples, end in zip(seen, (13, 30), strict=True):
        np.testing.assert_array_equal(examples, np.sort(order.examples[:end]))
    np.testing.assert_array_equal(part, whole[np.sort(order.examples[:30])])
    assert dispatcher.counts.computed == pytest.approx(0.5)
    # What is left is computed, in this process or another, and no more; now with its parent's
    # other children, of which nothing is known.
    for again in (dispatcher, Dispatcher(recording, memo, SHAPE)):
        sent = len(recording.sent)
        ((all_of_it, _),) = again.ask([Ask(OUTPUTS, HeadSet(), (state, HeadSet.of([2])))])
        np.testing.assert_array_equal(all_of_it, whole)
    assert len(recording.sent) == sent
    assert set(recording.computed().values()) == {1}
    assert sum(recording.computed().values()) == 120
    # Another order finds all it needs, and decides after its own rounds.
    other = Order(order.examples[::-1], (20, 40, 60))
    ((part,),) = again.ask([Ask(OUTPUTS, HeadSet(), (state,), lambda *_: False, other)])
    np.testing.assert_array_equal(part, whole[np.sort(other.examples[:20])])
    assert len(recording.sent) == sent


@pytest.mark.parametrize("shards", [2, 3, 9])
def test_shards_do_not_matter(shards: int, reference: str) -> None:
    recording = Recording(inline(shards))
    transcript, dispatcher = run(recording)
    assert transcript == reference
    assert set(recording.computed().values()) == {1}
    assert dispatcher.counts.speculative == 0, "one worker that is never idle"


@pytest.mark.parametrize(("workers", "shards"), [(4, 9), (9, 9), (30, 9)])
def test_work_ahead_changes_nothing_and_some_of_it_is_used(
    workers: int, shards: int, table_reference: str
) -> None:
    recording = Recording(tables.simulated(workers, shards), tables.DATA)
    transcript, dispatcher = tables.run(recording)
    assert transcript == table_reference
    assert set(recording.computed().values()) == {1}
    counts = dispatcher.counts
    assert counts.speculative > 0
    assert counts.used > 0
    assert counts.reused == 0, "what was computed ahead was not there before"
    asked_for = counts.computed + counts.gradients - counts.speculative + counts.used
    _, plain = tables.run(tables.undisturbed())
    assert asked_for == pytest.approx(plain.counts.computed + plain.counts.gradients)


def test_a_full_memo_answers_everything(reference: str) -> None:
    memo = MemoryStore()
    first, done = run(inline(2), memo)
    again, dispatcher = run(inline(3), memo)  # other pieces too
    assert again == first == reference
    assert dispatcher.counts.computed == dispatcher.counts.gradients == 0
    assert dispatcher.counts.reused == pytest.approx(done.counts.computed)


def test_scores_of_any_other_search_may_be_in_the_memo(reference: str) -> None:
    """Partial ones, of other budgets and other pieces: no decision hangs on them."""
    memo = MemoryStore()
    run(inline(4), memo, max_drop=0.0)
    run(inline(2), memo, max_drop=0.3)
    transcript, dispatcher = run(inline(3), memo)
    assert transcript == reference
    assert dispatcher.counts.reused > 5


def ask(*heads: int, decide: Any = None) -> Ask:
    return Ask(OUTPUTS, HeadSet(), tuple(HeadSet.of([j]) for j in heads), decide)


def test_answers_are_in_the_order_asked_and_equal_the_plain_path() -> None:
    dispatcher = Dispatcher(inline(3), MemoryStore(), SHAPE)
    slopes = Ask(GRADIENTS, HeadSet.of([2]), (HeadSet.of([2]),))
    asked = [ask(11, 0, 7), slopes, Ask(OUTPUTS, HeadSet.of([1]), (HeadSet.of([1, 3]),))]
    answers = dispatcher.ask(asked)
    assert answers[1][0].shape == (60, 3, 12)
    for which in (0, 2):
        for state, outputs in zip(asked[which].states, answers[which], strict=True):
            expected = plain_outputs(MODEL, DATA.batches, state)
            np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_a_state_is_given_up_after_the_round_that_says_so_whatever_is_known() -> None:
    seen: list[int] = []

    def decide(outputs: np.ndarray, examples: np.ndarray) -> bool:
        seen.append(len(outputs))
        return len(outputs) < 40

    memo = MemoryStore()
    for shards in (1, 3):  # the second time it is all in the memo
        dispatcher = Dispatcher(inline(shards), memo, SHAPE)
        ((part, other),) = dispatcher.ask([ask(4, 5, decide=decide)])
        assert len(part) == len(other) == 49  # batches of 7: rounds of 5, 2, 1 and 1
        ((whole,),) = dispatcher.ask([ask(4)])
        assert len(whole) == 60
        np.testing.assert_array_equal(whole[:49], part)
        if shards == 1:
            assert dispatcher.counts.computed == pytest.approx(49 / 60 + 1)
        else:
            assert dispatcher.counts.computed == 0
            assert dispatcher.counts.reused == pytest.approx(49 / 60 + 1)
    assert sorted(set(seen)) == [35, 49]


class DiesAfter(Recording):
    """Workers that stop the process, so to speak, after some calls."""

    def __init__(self, inner: Workers, calls: int) -> None:
        super().__init__(inner, tables.DATA)
        self._left = calls

    def poll(self, timeout: float) -> list[Event]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._inner.poll(timeout)


class CountingStore(MemoryStore):
    """Knows how many examples its records cover in all."""

    def examples(self) -> int:
        layout = tables.plan().layout
        return sum(
            layout.rows_of(Span(first, stop))
            for spans in self._places.values()
            for first, stop in spans
        )


@pytest.mark.parametrize("calls", [0, 2, 3, 9, 30])
def test_after_a_stop_the_same_transcript_and_nothing_kept_is_computed_again(
    calls: int, table_reference: str
) -> None:
    memo = CountingStore()
    with pytest.raises(KeyboardInterrupt):
        tables.run(DiesAfter(tables.undisturbed(2), calls), memo)
    kept = memo.examples()
    recording = Recording(tables.undisturbed(2), tables.DATA)
    again, _ = tables.run(recording, memo)
    assert again == table_reference
    full = CountingStore()
    tables.run(tables.undisturbed(2), full)
    assert memo.examples() == full.examples() == kept + sum(recording.computed().values())


def test_what_a_call_brings_is_one_transaction() -> None:
    class Watched(MemoryStore):
        sizes: ClassVar[list[int]] = []

        def add(self, blocks: Sequence[Block]) -> None:
            self.sizes.append(sum(len(block.states) for block in blocks))
            super().add(blocks)

    recording = Recording(inline())
    Dispatcher(recording, Watched(), SHAPE).ask([ask(*range(12))])
    assert Watched.sizes == recording.states
    assert sum(Watched.sizes) == 12 * 4, "twelve states on four rounds"
    assert len(recording.sent) < 12 * 4


def test_what_is_under_way_for_nobody_is_waited_for_when_it_is_asked_for() -> None:
    recording = Recording(simulated(4, 9))
    dispatcher = Dispatcher(recording, MemoryStore(), SHAPE)
    try:
        for head in range(11):
            dispatcher.ask([ask(head)], lambda head=head: [ask(head + 1)])
    finally:
        recording.close()
    assert set(recording.computed().values()) == {1}
    assert any(job.speculative for job in recording.sent)
    assert dispatcher.counts.used > 0


@pytest.mark.parametrize("same_search", [True, False])
def test_what_was_given_up_in_one_order_is_not_computed_again_ahead_in_another(
    same_search: bool,
) -> None:
    """Another search can't tell on which examples, and leaves it until it is asked for."""
    draw = np.random.default_rng(1)
    first, other = (Order(draw.permutation(60), (20, 60)) for _ in range(2))
    state, memo = HeadSet.of([2, 7]), MemoryStore()
    recording, before = Recording(simulated(4, 3)), Recording(inline())
    dispatcher = Dispatcher(recording, memo, SHAPE)
    earlier = dispatcher if same_search else Dispatcher(before, memo, SHAPE)
    earlier.ask([Ask(OUTPUTS, HeadSet(), (state,), lambda *_: False, first)])
    asked = Ask(OUTPUTS, HeadSet.of([2]), (state,), lambda *_: False, other)
    dispatcher.ask([ask(1)])  # now it is known how long work takes
    dispatcher.ask([ask(3)], lambda: [asked])
    ahead = [job for job in recording.sent if job.speculative]
    assert bool(ahead) == same_search
    assert all(job.item.states == (state,) for job in ahead)
    ((part,),) = dispatcher.ask([asked])
    assert len(part) == 20
    assert set((recording.computed() + before.computed()).values()) == {1}


@pytest.mark.parametrize(("workers", "expected"), [(2, False), (40, True)])
def test_nothing_is_computed_ahead_of_gradients_that_keep_all_workers_busy(
    workers: int, expected: bool
) -> None:
    recording = Recording(simulated(workers, 2))
    dispatcher = Dispatcher(recording, MemoryStore(), SHAPE)
    try:
        dispatcher.ask([ask(1)])  # now it is known how long work takes
        dispatcher.ask([Ask(GRADIENTS, HeadSet(), (HeadSet(),))], lambda: [ask(*range(2, 9))])
    finally:
        recording.close()
    assert any(job.speculative for job in recording.sent) == expected


def items_of(states: Sequence[HeadSet], workers: int, seconds: float) -> list[int]:
    """How many states each item of an ask has, where scoring one of them takes so long."""
    made = plan(workers, 1)
    answers = {
        piece: np.zeros((made.layout.rows_of(piece.span), 3)) for piece in made.layout.pieces
    }
    each = seconds / made.layout.load
    simulated = SimulatedWorkers(
        made,
        Costs(lambda job, cached: each * job.cost),
        lambda job: [answers[job.piece]] * len(job.item.states),
        coordinator=False,
    )
    recording = Recording(simulated)
    dispatcher = Dispatcher(recording, MemoryStore(), SHAPE)
    dispatcher.ask([Ask(OUTPUTS, HeadSet(), (HeadSet(),))])  # from then on it is known
    recording.sent.clear()
    dispatcher.ask([Ask(OUTPUTS, HeadSet(), tuple(states))])
    return [len(job.item.states) for job in recording.sent]


TRIPLES = [HeadSet.of(heads) for heads in combinations(range(12), 3)]


def test_items_are_larger_where_they_are_short() -> None:
    assert max(items_of(TRIPLES, 1, 10.0)) == cutting.ITEM_CHILDREN
    assert max(items_of(TRIPLES, 1, 0.001)) == cutting.MOST_CHILDREN
    assert sum(items_of(TRIPLES, 1, 10.0)) == sum(items_of(TRIPLES, 1, 0.001)) == 220 * 4


def test_there_are_no_more_items_than_sending_them_is_worth() -> None:
    for seconds in (0.005, 0.02):
        passes = sum(1 - SHAPE.first_layer(state) / (SHAPE.layers + 1) for state in TRIPLES)
        best = sqrt(seconds * passes / cutting.SEND_SECONDS)
        assert best / 2 < len(items_of(TRIPLES, 200, seconds)) < 2 * best
    many = len(items_of(TRIPLES, 40, 100.0))
    assert many / 40 == pytest.approx(cutting.JOBS_PER_WORKER, rel=0.5), "long work: for balance"


def test_each_answer_is_ready_once_before_or_when_all_are() -> None:
    dispatcher = Dispatcher(simulated(3, 3), MemoryStore(), SHAPE)
    dispatcher.ask([ask(0)])  # is in the memo from now on
    found: list[tuple[HeadSet, np.ndarray]] = []
    open_at: list[bool] = []

    def ready(state: HeadSet, answer: np.ndarray) -> None:
        found.append((state, answer))
        open_at.append(dispatcher.scheduler.pending)

    asks = [ask(*range(12)), ask(3, decide=lambda outputs, examples: False)]
    asks[1] = Ask(OUTPUTS, HeadSet(), (HeadSet.of([0, 1]),), asks[1].decide)
    answers = dispatcher.ask(asks, ready=ready)
    expected = {
        state: answer
        for asked, given in zip(asks, answers, strict=True)
        for state, answer in zip(asked.states, given, strict=True)
    }
    assert Counter(state for state, _ in found) == Counter(list(expected))
    for state, answer in found:
        np.testing.assert_array_equal(answer, expected[state])
    assert len(expected[HeadSet.of([0, 1])]) < len(DATA.labels)
    assert open_at[0], "the memo's answer, while the others are computed"


# What is computed ahead, and left half way


def quick(workers: int) -> SimulatedWorkers:
    """Workers to which a state is so little that jobs ahead of the search are of several."""
    costs = Costs(lambda job, cached: job.cost * 1e-4)
    return SimulatedWorkers(tables.plan(workers, 1), costs, tables.computed, coordinator=False)


def test_what_was_not_computed_ahead_after_all_is_computed_when_it_is_asked_for() -> None:
    """Jobs ahead are made one by one; a question that comes between ends that."""
    root, first, second = HeadSet(), HeadSet.of([0]), HeadSet.of([1])
    random = np.random.default_rng(0)
    orders = [Order(random.permutation(60), ends) for ends in ((13, 30, 60), (20, 60))]
    dispatcher = Dispatcher(quick(2), MemoryStore(), SHAPE)
    dispatcher.ask([Ask(OUTPUTS, root, (root,))])
    dispatcher.ask([Ask(OUTPUTS, root, (second,), lambda outputs, examples: False, orders[0])])
    ahead = Ask(OUTPUTS, root, (first, second), lambda outputs, examples: True, orders[1])
    for head in range(2, 8):
        dispatcher.ask([Ask(OUTPUTS, root, (HeadSet.of([head]),))], lambda: [ahead])
        held = dict.fromkeys(dispatcher.cutter._under_way, 0)
        for made in dispatcher.cutter._of_job.values():
            for want in made.wants:
                held[want.key] |= made.bits
        assert held == dispatcher.cutter._under_way, "a job has all that is under way"
    (outputs,) = dispatcher.ask([ahead])
    for state, found in zip((first, second), outputs, strict=True):
        (expected,) = Dispatcher(quick(1), MemoryStore(), SHAPE).ask([Ask(OUTPUTS, root, (state,))])
        np.testing.assert_array_equal(found, expected[0])


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("max_drop", [0.1, 0.2])
def test_a_search_with_much_computed_ahead_comes_to_its_end(workers: int, max_drop: float) -> None:
    settings = Settings(max_evaluations=300, patience=4, proposals=0, bound_evaluations=60)
    found, dispatcher = tables.run(quick(workers), None, max_drop, settings)
    assert found == tables.run(tables.undisturbed(), None, max_drop, settings)[0]
    assert dispatcher.counts.speculative > 0
