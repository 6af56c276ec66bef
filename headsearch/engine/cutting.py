"""Cuts what is wanted into jobs, and knows which parts of it are under way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from headsearch.engine.executor import Job
from headsearch.engine.scheduler import SEND_SECONDS
from headsearch.engine.wants import Key, Want
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.task.shards import Where

# Most children of one item; a parent's own forward, which every item may have to repeat, is then
# a small part of the work. More only where they are known to take no longer than so many seconds:
# as much may be lost with a worker.
ITEM_CHILDREN = 16
MOST_CHILDREN = 64
ITEM_SECONDS = 2.0
# Where there are many workers, items are made smaller, the more so the less of an ask is left, so
# that all workers come to its end at about the same time (factoring: Hummel, Schonberg and Flynn,
# CACM 1992). The first are 1 / FIRST of what a worker gets of the ask in all, the last 1 / LAST; a
# worker then gets about FIRST * (1 + ln(LAST / FIRST)) of them.
FIRST, LAST = 3, 32
# Where sending so many to each worker would take longer than the work itself, all are of one size:
# n calls take n * SEND_SECONDS one after the other, and the last of them work / n when it comes to
# its worker, in all the least at n = sqrt(work / SEND_SECONDS).
JOBS_PER_WORKER = 8


class Cut(NamedTuple):
    """What a job was cut from.

    Attributes:
        wants: its states.
        bits, where: its examples, as bits and as an index.
    """

    wants: list[Want]
    bits: int
    where: Where


class Cutter:
    """Makes jobs of wants; a part of a want that is under way is in no second job.

    Args:
        seconds: how long something of a given cost takes; None: not known yet.

    Attributes:
        made: how many jobs were made so far.
    """

    def __init__(self, seconds: Callable[[float], float | None]) -> None:
        self._seconds = seconds
        self.made = 0
        self._under_way: dict[Key, int] = {}  # examples that wait or are in flight, as bits
        self._of_job: dict[int, Cut] = {}  # what jobs that are under way were cut from

    def sizes(self, cost: float, workers: int) -> tuple[float, float]:
        """Return the costs of the first and of the last jobs that an ask is cut into."""
        share, each = cost / workers, self._seconds(1.0)
        if workers == 1:  # nobody to wait for at the end
            return share, share
        if each and share * each < JOBS_PER_WORKER * workers * SEND_SECONDS:
            size = math.sqrt(cost * SEND_SECONDS / each)
            return size, size
        return share / FIRST, share / LAST

    def cut(
        self,
        wants: Sequence[Want],
        places: Iterable[int],
        most: float,
        least: float,
        speculative: bool = False,
    ) -> Iterator[Job]:
        """Make jobs of states of one ask and layout, for what is not there or under way.

        Args:
            wants: the states.
            places: pieces that they are wanted on.
            most: cost that a job should not exceed, times the share of the states that are left;
                it may, if it is of one state.
            least: cost that a job may have however few are left.
            speculative: see `Job`.
        """
        ordered = sorted(wants, key=lambda want: want.first_layer)
        passes = sum(want.passes for want in wants) / len(wants)
        each, layout = self._seconds(1.0), wants[0].layout
        items: dict[tuple[int, ...], tuple[WorkItem, float]] = {}
        for place in places:
            piece, all_bits = layout.pieces[place], layout.bits[place]
            child = passes * piece.load
            limit = ITEM_CHILDREN
            if each:
                limit = min(MOST_CHILDREN, max(limit, int(ITEM_SECONDS / (each * child))))
            start = stop = 0
            while stop < len(ordered):
                start, left = stop, 1 - stop / len(ordered)
                stop += min(limit, max(1, int(max(most * left, least) / child)))
                # One group after the other is taken to be under way only as its job is made: who
                # takes the jobs may stop half way, and meanwhile others may be asked for.
                taken: dict[Key, int] = {}
                while missing := self._missing(ordered[start:stop], all_bits, taken):
                    bits, group = missing
                    for want in group:
                        key = want.key
                        taken[key] = taken.get(key, 0) | bits
                        self._under_way[key] = self._under_way.get(key, 0) | bits
                    # Mostly, all pieces miss the same states.
                    who: tuple[int, ...] = (start, stop)
                    if len(group) < stop - start:
                        who = tuple(id(want) for want in group)
                    if who not in items:
                        items[who] = _item(group), sum(want.passes for want in group)
                    item, cost = items[who]
                    some = piece if bits == all_bits else layout.part(piece, bits)
                    number = self.made
                    self.made += 1
                    self._of_job[number] = Cut(group, *layout.where(some.span, some.rows))
                    yield Job(number, item, some, cost * some.load, speculative)
                    if len(group) == len(ordered[start:stop]):
                        break  # as mostly: nothing else is missing

    def _missing(
        self, wants: Sequence[Want], bits: int, taken: Mapping[Key, int]
    ) -> tuple[int, list[Want]] | None:
        """Return which of some examples are neither known, nor under way, nor taken, of whom.

        Of wants that lack the same ones, until there are none.
        """
        whole, parts = list[Want](), dict[int, list[Want]]()
        for want in wants:
            under_way = self._under_way.get(want.key, 0) | taken.get(want.key, 0)
            there = bits & (want.known | under_way)
            if not there or (there != bits and not want.any_part):
                whole.append(want)
            elif there != bits:
                parts.setdefault(bits ^ there, []).append(want)
        return (bits, whole) if whole else next(iter(parts.items()), None)

    def wants_of(self, job: Job) -> list[Want]:
        """Return what a job that is under way was cut from."""
        return self._of_job[job.number].wants

    def end(self, job: Job) -> Cut:
        """Note that a job is under way no more, and return what it was cut from."""
        made = self._of_job.pop(job.number)
        for want in made.wants:
            left = self._under_way[want.key] & ~made.bits
            if left:
                self._under_way[want.key] = left
            else:
                del self._under_way[want.key]
        return made


def _item(wants: Sequence[Want]) -> WorkItem:
    ask = wants[0].ask
    if ask.kind == GRADIENTS:
        return WorkItem(GRADIENTS, wants[0].state)
    return WorkItem(OUTPUTS, ask.parent, tuple(want.state for want in wants))
