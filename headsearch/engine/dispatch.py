"""Answers the search from the memo, and has workers compute what is not there yet.

Every score is a function of its HeadSet alone, so it does not matter who computed it, in which
job, for whom or when: how work is cut into jobs follows how many workers there are, idle workers
compute what is likely to be asked next, and what another search stored is used like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from headsearch.engine.ahead import ASKS_AHEAD, Ahead
from headsearch.engine.cutting import Cutter
from headsearch.engine.executor import Job, Workers
from headsearch.engine.scheduler import SEND_SECONDS, Scheduler
from headsearch.engine.wants import Key, Want, key_of
from headsearch.errors import EngineError
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.codec import array_head
from headsearch.memo.store import Block, MemoStore
from headsearch.scoring.item import GRADIENTS, OUTPUTS
from headsearch.search.problem import Ask, Order, Ready
from headsearch.task.batches import Span
from headsearch.task.shards import Layout, lay_out_in_order

# Work that nobody asked for yet comes in small jobs: what is asked for must not wait behind it.
SPECULATIVE_SECONDS = 0.1
# Where a search thinks longer than so many seconds, workers get work for that long; if it is so
# many times as long as sending it to all of them takes, since it can't think meanwhile.
LEAST_THOUGHT = 0.05
FILL_FACTOR = 4
# How long it thinks depends on whether it asked for a few states or for an expansion's.
FEW_STATES = 8
# Layouts of other orders that are kept: a climb asks several times in its parent's.
ORDERS_KEPT = 16
# Sums of shares of examples are not exact.
LEAST_SHARE = 1e-9
# Pieces of examples that are remembered; what some other of a state was scored on is not known, and
# it is not scored ahead.
NUMBERS_KEPT = 1 << 15


@dataclass
class Counts:
    """What this process did. Parts of a HeadSet are counted by the share of its examples.

    Attributes:
        computed: HeadSets scored by workers.
        reused: HeadSets answered from the memo, as they were there before.
        gradients: states whose gradients were computed.
        speculative: HeadSets and gradients that were computed before they were asked for.
        used: those of them that were asked for later.
    """

    computed: float = 0.0
    reused: float = 0.0
    gradients: float = 0.0
    speculative: float = 0.0
    used: float = 0.0

    @property
    def asked_for(self) -> bool:
        """Whether anything was computed that was asked for, then or later."""
        return self.computed + self.gradients - self.speculative + self.used > LEAST_SHARE


class Dispatcher:
    """The search's oracle.

    Args:
        workers: compute jobs.
        memo: holds all scores; whatever it has is not computed again.
        shape: the heads.
        on_result: called with the counts after jobs were done, and now and then in between.
    """

    def __init__(
        self,
        workers: Workers,
        memo: MemoStore,
        shape: HeadMap,
        on_result: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self._workers, self._memo, self._shape = workers, memo, shape
        self._layout = workers.plan.layout
        self._on_result = on_result
        self._orders: OrderedDict[int, tuple[Order, Layout]] = OrderedDict()  # by identity
        self._wants: dict[Key, Want] = {}
        self._given: dict[Key, int] = {}  # examples that the search was given already, as bits
        self._unasked: dict[Key, int] = {}  # those computed ahead and not asked for, as bits
        self._refused: set[Key] = set()  # what could not be computed ahead
        self._expected: dict[Key, Want] = {}  # what may be asked next
        # Examples as bits by the number that stands for them; see `Piece.span`.
        self._bits_of_number: dict[int, int] = {}
        self._ahead = self._nothing_ahead()
        self._asked: tuple[str, bool, bool] = ("", True, False)  # what sort of question it was
        self._answered: tuple[tuple[str, bool, bool], float] | None = None  # and when
        self._thinks: dict[tuple[str, bool, bool], float] = {}  # seconds thought after each sort
        self.counts = Counts()
        self.scheduler = Scheduler(
            workers,
            lambda shard: self._ahead.job(shard),
            self._may_drop,
            lambda: self._on_result(self.counts),
        )
        self.cutter = Cutter(self.scheduler.seconds)

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        """See `search.problem.Oracle.ask`.

        Raises:
            EngineError: something can't be computed.
            MemoError: the memo can't be read or written.
        """
        wants = [self._want(ask, state) for ask in asks for state in ask.states]
        self._wants = {want.key: want for want in wants}
        self._recall(wants)
        if self._ends_soon(wants):
            ahead = tuple
        self._ahead = Ahead(self._sources(wants, ahead), self._cut_small)
        self._thought(asks)
        unfinished, changed = set(self._wants), wants
        try:
            while True:
                open_still = [want for want in changed if not want.decide()]
                decided = [want for want in changed if want.rounds and want.key in unfinished]
                unfinished -= {want.key for want in decided}
                self._request(open_still)
                if decided:
                    self.scheduler.pump()  # first work for the workers, then for the search
                for want in decided:
                    ready(want.state, want.answer())
                if not unfinished:
                    break
                changed = self._collect()
                if not changed and not self.scheduler.pending:
                    raise EngineError(f"{len(unfinished)} states are awaited but nobody has them")
            self._fill_while_it_thinks()
            return [[self._answer(key_of(ask.kind, state)) for state in ask.states] for ask in asks]
        finally:
            self._ahead = self._nothing_ahead()
            self._wants, self._expected = {}, {}

    @property
    def _crew(self) -> int:
        """How many workers there are, or are still to come up."""
        return max(self.scheduler.live_workers, self._workers.plan.workers)

    def _ends_soon(self, wants: Sequence[Want]) -> bool:
        """Whether gradients keep all workers busy but for a moment at the end.

        What is asked next depends on them, so what a worker could compute in that moment is rarely
        of use, and holds up what is asked. Where workers outnumber the jobs it is worth it.
        """
        jobs = len(wants) * len(self._layout.pieces)
        return wants[0].ask.kind == GRADIENTS and jobs >= 2 * self._crew

    def _recall(self, wants: Sequence[Want]) -> None:
        """Take what the memo has."""
        for kind in (OUTPUTS, GRADIENTS):
            keys = {want.state.to_bytes(): want for want in wants if want.ask.kind == kind}
            if keys:
                for key, records in self._memo.find(kind, list(keys)).items():
                    keys[key].recall(records)

    def _want(self, ask: Ask, state: HeadSet) -> Want:
        return Want(ask, state, self._layout_of(ask), self._shape)

    def _layout_of(self, ask: Ask) -> Layout:
        """Return how the examples are cut for an ask.

        Raises:
            EngineError: they are to be in another order, but depend on each other.
        """
        order = ask.order
        if order is None:
            return self._layout
        if not self._layout.independent:
            raise EngineError("examples can't be scored in another order: they depend on others")
        if id(order) not in self._orders:
            layout = lay_out_in_order(self._layout, order.examples, order.ends)
            self._orders[id(order)] = order, layout
            if len(self._orders) > ORDERS_KEPT:
                self._orders.popitem(last=False)
        self._orders.move_to_end(id(order))
        return self._orders[id(order)][1]

    def _answer(self, key: Key) -> np.ndarray:
        want, total = self._wants[key], self._layout.rows
        given, unasked = self._given.get(key, 0), self._unasked.get(key, 0)
        new = want.examples & ~given
        if used := new & unasked:
            self.counts.used += used.bit_count() / total
            if unasked & ~used:
                self._unasked[key] = unasked & ~used
            else:
                del self._unasked[key]
        if want.ask.kind == OUTPUTS:
            self.counts.reused += (new & want.recalled & ~unasked).bit_count() / total
        self._given[key] = given | new
        return want.answer()

    # While the search thinks, nobody looks at the workers: they get work for that long before.

    def _thought(self, asks: Sequence[Ask]) -> None:
        """Note how long the search thought about its last answers."""
        if self._answered is not None:
            kind, when = self._answered
            self._thinks[kind] = self._workers.now() - when
        states = sum(len(ask.states) for ask in asks)
        self._asked = (asks[0].kind, asks[0].decide is None, states > FEW_STATES)

    def _fill_while_it_thinks(self) -> None:
        expected = self._thinks.get(self._asked, 0.0)
        if self._workers.depth > 1 and expected > max(LEAST_THOUGHT, self._to_fill):
            self.scheduler.fill(expected)
        self._answered = (self._asked, self._workers.now())

    @property
    def _to_fill(self) -> float:
        """Seconds of thought that are worth giving every worker something to do meanwhile."""
        return FILL_FACTOR * SEND_SECONDS * self.scheduler.live_workers

    # Jobs

    def _request(self, wants: Sequence[Want]) -> None:
        """Have the pieces computed that the wants need next."""
        groups: dict[tuple[int, int, int], list[Want]] = {}
        for want in wants:
            if want.requested < want.needed:
                groups.setdefault((id(want.ask), want.requested, want.needed), []).append(want)
                want.requested = want.needed
        workers = self._crew
        for (_, first, stop), members in groups.items():
            layout = members[0].layout
            rounds = layout.pieces_of_round
            places = range(rounds[first].start, rounds[stop - 1].stop)
            load = sum(layout.pieces[place].load for place in places)
            cost = sum(want.passes for want in members) * load
            for job in self.cutter.cut(members, places, *self.cutter.sizes(cost, workers)):
                self.scheduler.submit(job)

    def _collect(self) -> list[Want]:
        """Wait for jobs, store what they computed, and return the wants that gained by it."""
        blocks, gained = list[Block](), dict[Key, Want]()
        for job, arrays in self.scheduler.collect():
            kind, (wants, bits, where) = job.item.kind, self.cutter.end(job)
            amount = bits.bit_count() / self._layout.rows * len(wants)
            if kind == OUTPUTS:
                self.counts.computed += amount
            else:
                self.counts.gradients += amount
            if job.speculative:
                self.counts.speculative += amount
            span = job.piece.span
            if span.first < 0:
                self._bits_of_number[span.first] = bits
                if len(self._bits_of_number) > NUMBERS_KEPT:
                    del self._bits_of_number[next(iter(self._bits_of_number))]
            states = tuple(want.key[1:] for want in wants)
            stack = np.asarray(arrays, np.float32)  # (states, examples, …)
            head = array_head("float32", stack.shape[1:], job.piece.rows)
            blocks.append(Block(kind, span.first, span.stop, states, head, stack.tobytes()))
            for cut_from, array in zip(wants, arrays, strict=True):
                key = cut_from.key
                want = self._wants.get(key)
                if want is not None:
                    want.take(bits, where, array)
                    gained[key] = want
                elif key in self._expected:
                    self._expected[key].known |= bits
                if job.speculative:
                    self._unasked[key] = self._unasked.get(key, 0) | bits
        self._memo.add(blocks)
        self._on_result(self.counts)
        return list(gained.values())

    def _may_drop(self, job: Job) -> bool:
        """Drop a job that can't be computed, if it is one that nobody asked for."""
        keys = [want.key for want in self.cutter.wants_of(job)]
        if not job.speculative or any(key in self._wants for key in keys):
            return False
        self.cutter.end(job)
        self._refused.update(keys)
        return True

    # Ahead of the search

    def _sources(
        self, wants: Sequence[Want], ahead: Callable[[], Iterable[Ask]]
    ) -> Iterator[list[Want]]:
        """The later rounds of what is being decided, then what the search may ask next."""
        by_ask: dict[int, list[Want]] = {}
        for want in wants:
            if want.ask.decide is not None:
                by_ask.setdefault(id(want.ask), []).append(want)
        for members in by_ask.values():
            undecided = [want for want in members if not want.rounds]
            if undecided:
                yield undecided
        for ask in islice(ahead(), ASKS_AHEAD):
            if wants := self._planned(ask):
                yield wants

    def _planned(self, ask: Ask) -> list[Want]:
        """Return wants of a possible ask that know which pieces the memo has."""
        wants = [
            want
            for want in (self._want(ask, state) for state in ask.states)
            if not any(want.key in known for known in (self._wants, self._expected, self._refused))
        ]
        spans = self._memo.spans(ask.kind, [want.state.to_bytes() for want in wants])
        planned = list[Want]()
        for want in wants:
            for first, stop in spans.get(want.state.to_bytes(), ()):
                if first >= 0:
                    bits: int | None = want.layout.where(Span(first, stop), None)[0]
                else:
                    own = want.layout.bits_of_number
                    bits = self._bits_of_number.get(first, own.get(first))
                if bits is None:  # scored by another search, or long ago
                    break
                want.known |= bits
            else:
                planned.append(want)
        self._expected |= {want.key: want for want in planned}
        return planned

    def _cut_small(self, wants: list[Want], places: Iterable[int]) -> Iterator[Job]:
        if not wants:
            return iter(())
        each = self.scheduler.seconds(1.0)
        seconds = max(SPECULATIVE_SECONDS, self.scheduler.least_call)
        expected = self._thinks.get(self._asked, 0.0)
        if expected <= self._to_fill:  # who is idle now will have nothing else to do meanwhile
            seconds += expected
        size = seconds / each if each else 0.0
        if wants[0].ask.decide is None:  # in any order: the longest first
            pieces = wants[0].layout.pieces
            places = sorted(places, key=lambda place: (-pieces[place].load, place))
        return self.cutter.cut(wants, places, size, size, True)

    def _nothing_ahead(self) -> Ahead:
        return Ahead(iter(()), self._cut_small)
