"""Answers the search from the memo, and has workers compute what is not there yet.

Every score is a function of its HeadSet alone, so it does not matter who computed it, in which
job, for whom or when: how work is cut into jobs follows how many workers there are, idle workers
compute what is likely to be asked next, and what another search stored is used like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from headsearch.engine.ahead import ASKS_AHEAD, Ahead
from headsearch.engine.executor import Job, Workers
from headsearch.engine.scheduler import Scheduler
from headsearch.engine.wants import Key, Want
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.codec import pack_array
from headsearch.memo.store import MemoStore, Record
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.search.problem import Ask

# Most children of one item: a parent's own forward, which every item may have to repeat, is then
# a small part of the work.
ITEM_CHILDREN = 16
# Where there are many workers, items are made smaller, so that each gets so many of an ask.
JOBS_PER_WORKER = 4
# Work that nobody asked for yet comes in small jobs: what is asked for must not wait behind it.
SPECULATIVE_SECONDS = 0.2
# Forward passes that a gradient pass costs, about; only for the order and size of jobs.
GRADIENT_COST = 4.0

_PRESENT = np.empty(0)  # stands for an array that the memo has


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


class Dispatcher:
    """The search's oracle.

    Args:
        workers: compute jobs.
        memo: holds all scores; whatever it has is not computed again.
        shape: the heads.
        on_result: called with the counts after jobs were done.
    """

    def __init__(
        self,
        workers: Workers,
        memo: MemoStore,
        shape: HeadMap,
        on_result: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self._workers, self._memo, self._shape = workers, memo, shape
        self._layout = layout = workers.plan.layout
        self._on_result = on_result
        self._place_of = {piece: place for place, piece in enumerate(layout.pieces)}
        self._shares = [layout.rows_of(piece.span) / layout.rows for piece in layout.pieces]
        self._places: list[list[int]] = [[] for _ in range(layout.shards)]
        for place, piece in enumerate(layout.pieces):
            self._places[piece.shard].append(place)
        self._next_job = 0
        self._wants: dict[Key, Want] = {}
        self._given: dict[Key, int] = {}  # rounds that the search was given already
        self._under_way: set[tuple[Key, int]] = set()  # (state, piece) that wait or are in flight
        self._unasked: dict[Key, int] = {}  # pieces computed ahead and not asked for, as bits
        self._refused: set[Key] = set()  # what could not be computed ahead
        self._expected: dict[Key, Want] = {}  # what may be asked next
        self._ahead = self._nothing_ahead()
        self.counts = Counts()
        self.scheduler = Scheduler(workers, lambda shard: self._ahead.job(shard), self._may_drop)

    def ask(
        self, asks: Sequence[Ask], ahead: Callable[[], Iterable[Ask]] = tuple
    ) -> list[list[np.ndarray]]:
        """See `search.problem.Oracle.ask`.

        Raises:
            EngineError: something can't be computed.
            MemoError: the memo can't be read or written.
        """
        wants = [Want(ask, state, self._layout) for ask in asks for state in ask.states]
        self._wants = {want.key: want for want in wants}
        self._recall(wants)
        self._ahead = Ahead(self._sources(wants, ahead), self._places, self._cut_small)
        unfinished, changed = set(self._wants), wants
        try:
            while True:
                open_still = [want for want in changed if not want.decide()]
                unfinished -= {want.key for want in changed if want.rounds}
                if not unfinished:
                    break
                self._request(open_still)
                changed = self._collect()
            return [[self._answer((ask.kind, state)) for state in ask.states] for ask in asks]
        finally:
            self._ahead = self._nothing_ahead()
            self._wants, self._expected = {}, {}

    def _recall(self, wants: Sequence[Want]) -> None:
        """Take what the memo has."""
        for kind in (OUTPUTS, GRADIENTS):
            keys = {want.state.to_bytes(): want for want in wants if want.ask.kind == kind}
            if keys:
                for key, records in self._memo.find(kind, list(keys)).items():
                    keys[key].recall(records)

    def _answer(self, key: Key) -> np.ndarray:
        want = self._wants[key]
        given = self._given.get(key, 0)
        unasked = self._unasked.get(key, 0)
        if unasked or want.recalled:
            recalled = set(want.recalled)
            for place, piece in enumerate(self._layout.pieces):
                if not given <= piece.round < want.rounds:
                    continue
                if unasked >> place & 1:
                    unasked &= ~(1 << place)
                    self.counts.used += self._shares[place]
                elif place in recalled and key[0] == OUTPUTS:
                    self.counts.reused += self._shares[place]
            self._unasked.pop(key, None)
            if unasked:
                self._unasked[key] = unasked
        self._given[key] = max(given, want.rounds)
        return want.answer()

    # Jobs

    def _request(self, wants: Sequence[Want]) -> None:
        """Have the pieces computed that the wants need next."""
        rounds = self._layout.pieces_of_round
        groups: dict[tuple[int, int, int], list[Want]] = {}
        for want in wants:
            if want.requested < want.needed:
                groups.setdefault((id(want.ask), want.requested, want.needed), []).append(want)
                want.requested = want.needed
        workers = max(self.scheduler.live_workers, self._workers.plan.workers)
        for (_, first, stop), members in groups.items():
            places = range(rounds[first].start, rounds[stop - 1].stop)
            size = math.ceil(len(members) * len(places) / (workers * JOBS_PER_WORKER))
            for job in self._cut(members, places, min(ITEM_CHILDREN, size)):
                self.scheduler.submit(job)

    def _cut(
        self, wants: Sequence[Want], places: Iterable[int], size: int, speculative: bool = False
    ) -> Iterator[Job]:
        """Make jobs of at most `size` states of one ask, for what is not there or under way."""
        ordered = sorted(wants, key=lambda want: (self._first_layer(want), len(want.state)))
        for start in range(0, len(ordered), size):
            for place in places:
                missing = [
                    want
                    for want in ordered[start : start + size]
                    if want.arrays[place] is None and (want.key, place) not in self._under_way
                ]
                if missing:
                    self._under_way.update((want.key, place) for want in missing)
                    yield self._job(missing, place, speculative)

    def _job(self, wants: Sequence[Want], place: int, speculative: bool) -> Job:
        ask, piece = wants[0].ask, self._layout.pieces[place]
        if ask.kind == GRADIENTS:
            item = WorkItem(GRADIENTS, wants[0].state)
        else:
            item = WorkItem(OUTPUTS, ask.parent, tuple(want.state for want in wants))
        cost = sum(self._passes(want) for want in wants) * piece.load
        self._next_job += 1
        return Job(self._next_job - 1, item, piece, cost, speculative)

    def _passes(self, want: Want) -> float:
        """How many forward passes a state costs, about."""
        if want.ask.kind == GRADIENTS:
            return GRADIENT_COST
        return 1 - self._first_layer(want) / (self._shape.layers + 1)

    def _first_layer(self, want: Want) -> int:
        return self._shape.first_layer(want.state ^ want.ask.parent)

    def _collect(self) -> list[Want]:
        """Wait for jobs, store what they computed, and return the wants that gained by it."""
        records, gained = [], dict[Key, Want]()
        for job, arrays in self.scheduler.collect():
            kind, place = job.item.kind, self._place_of[job.piece]
            amount = self._shares[place] * len(job.item.states)
            if kind == OUTPUTS:
                self.counts.computed += amount
            else:
                self.counts.gradients += amount
            if job.speculative:
                self.counts.speculative += amount
            for state, array in zip(job.item.states, arrays, strict=True):
                key = (kind, state)
                self._under_way.discard((key, place))
                records.append(_record(job, state, array))
                want = self._wants.get(key)
                if want is not None:
                    want.arrays[place] = array
                    gained[key] = want
                elif key in self._expected:
                    self._expected[key].arrays[place] = _PRESENT
                if job.speculative:
                    self._unasked[key] = self._unasked.get(key, 0) | 1 << place
        self._memo.add(records)
        self._on_result(self.counts)
        return list(gained.values())

    def _may_drop(self, job: Job) -> bool:
        """Drop a job that can't be computed, if it is one that nobody asked for."""
        keys = [(job.item.kind, state) for state in job.item.states]
        if not job.speculative or any(key in self._wants for key in keys):
            return False
        place = self._place_of[job.piece]
        self._under_way.difference_update((key, place) for key in keys)
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
            for want in (Want(ask, state, self._layout) for state in ask.states)
            if not any(want.key in known for known in (self._wants, self._expected, self._refused))
        ]
        self._expected |= {want.key: want for want in wants}
        spans = self._memo.spans(ask.kind, [want.state.to_bytes() for want in wants])
        for want in wants:
            held = {
                batch
                for first, stop in spans.get(want.state.to_bytes(), ())
                for batch in range(first, stop)
            }
            for place, piece in enumerate(self._layout.pieces):
                if held.issuperset(range(piece.span.first, piece.span.stop)):
                    want.arrays[place] = _PRESENT
        return wants

    def _cut_small(self, wants: list[Want], places: Iterable[int]) -> Iterator[Job]:
        if not wants:
            return iter(())
        load = max(piece.load for piece in self._layout.pieces)
        each = self.scheduler.seconds(max(self._passes(want) for want in wants) * load)
        size = int(SPECULATIVE_SECONDS / each) if each else 1
        return self._cut(wants, places, min(ITEM_CHILDREN, max(1, size)), speculative=True)

    def _nothing_ahead(self) -> Ahead:
        return Ahead(iter(()), self._places, self._cut_small)


def _record(job: Job, state: HeadSet, array: np.ndarray) -> Record:
    span = job.piece.span
    value = pack_array("float32", array.shape, np.ascontiguousarray(array).tobytes())
    return Record(state.to_bytes(), job.item.kind, span.first, span.stop, value)
