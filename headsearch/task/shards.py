"""Rounds, pieces and shards: how the batches are cut, for early decisions and for workers.

Rounds cut the batches for the search's sake: a child that can't meet the threshold any more after
a round is not scored further. They depend on the number of batches alone. Pieces cut the rounds
for the workers' sake: a piece is what one job covers, and a shard is a set of pieces that is
served by the same workers, whose caches hold the parents' layer inputs for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from headsearch.errors import InputError
from headsearch.task.batches import ROUNDS, BatchedData, Span, round_of

# Pieces of each round for every shard; more than one, so that a worker that is done early can take
# what is left of another's.
PIECES_PER_SHARD = 2


@dataclass(frozen=True)
class Piece:
    """A run of whole batches within one round.

    Attributes:
        span: the batches.
        round: the round that they lie in.
        shard: whose workers serve it.
        load: positions in it, padding included.
    """

    span: Span
    round: int
    shard: int
    load: int


@dataclass(frozen=True)
class Layout:
    """How a task's batches are cut.

    Attributes:
        offsets: first row of each batch, and the number of rows at the end, (batches + 1,).
        rounds: runs of batches that cover them all, in order.
        pieces: cover every round, in order.
        shards: how many shards there are.
    """

    offsets: tuple[int, ...]
    rounds: tuple[Span, ...]
    pieces: tuple[Piece, ...]
    shards: int

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return self.offsets[-1]

    @cached_property
    def load(self) -> int:
        """Positions in all batches."""
        return sum(piece.load for piece in self.pieces)

    @cached_property
    def pieces_of_round(self) -> tuple[range, ...]:
        """Which pieces make up each round."""
        found = []
        for number in range(len(self.rounds)):
            places = [i for i, piece in enumerate(self.pieces) if piece.round == number]
            found.append(range(places[0], places[-1] + 1))
        return tuple(found)

    @cached_property
    def mask_of_round(self) -> tuple[int, ...]:
        """The pieces of each round and of all before it, as bits."""
        return tuple((1 << places.stop) - 1 for places in self.pieces_of_round)

    def rows_of(self, span: Span) -> int:
        """How many examples a span holds."""
        return self.offsets[span.stop] - self.offsets[span.first]

    @cached_property
    def load_of_shard(self) -> tuple[int, ...]:
        """Positions of each shard."""
        loads = [0] * self.shards
        for piece in self.pieces:
            loads[piece.shard] += piece.load
        return tuple(loads)

    @cached_property
    def _homes(self) -> list[int]:
        return list(range(self.shards))

    def home(self, slot: int) -> int:
        """Return the shard that a worker serves, by the number of its place among the workers.

        First one for each shard, then each where there is most to do for one worker: by the
        highest average, as seats are given to parties (D'Hondt).
        """
        while len(self._homes) <= slot:
            served = Counter(self._homes)
            loads = self.load_of_shard
            self._homes.append(
                max(range(self.shards), key=lambda shard: (loads[shard] / served[shard], -shard))
            )
        return self._homes[slot]


def rounds(batches: int) -> tuple[Span, ...]:
    """Return the rounds of so many batches: about a half, a quarter, an eighth and the rest."""
    sizes = [0] * ROUNDS
    for number in range(batches):
        sizes[round_of(number)] += 1
    spans, first = [], 0
    for size in sizes:
        if size:
            spans.append(Span(first, first + size))
            first += size
    return tuple(spans)


def lay_out(data: BatchedData, shards: int) -> Layout:
    """Cut the batches.

    Raises:
        InputError: there are fewer batches than shards.
    """
    most = len(data.batches)
    if not 1 <= shards <= most:
        raise InputError(
            f"--shards must be between 1 and {most}, the number of batches, but got {shards}"
        )
    loads = [batch.examples * batch.tokens for batch in data.batches]
    spans: list[tuple[int, Span, int]] = []
    for number, whole in enumerate(rounds(most)):
        size = whole.stop - whole.first
        count = 1 if shards == 1 else min(size, PIECES_PER_SHARD * shards)
        for first, stop in cut(loads[whole.first : whole.stop], count):
            span = Span(whole.first + first, whole.first + stop)
            spans.append((number, span, sum(loads[span.first : span.stop])))
    homes = _spread([load for _, _, load in spans], shards)
    return Layout(
        offsets=tuple(int(row) for row in data.offsets),
        rounds=rounds(most),
        pieces=tuple(
            Piece(span, number, home, load)
            for (number, span, load), home in zip(spans, homes, strict=True)
        ),
        shards=shards,
    )


def cut(loads: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cut loads into `count` runs [first, stop) whose largest sum is as small as can be."""
    low, high = max(loads), sum(loads)
    while low < high:  # the least sum that `count` runs can be kept to
        middle = (low + high) // 2
        if _runs_needed(loads, middle) <= count:
            high = middle
        else:
            low = middle + 1
    runs: list[tuple[int, int]] = []
    first, load, most = 0, 0, len(loads)
    for i, size in enumerate(loads):
        # A new run where this one is full, or where every load left is needed for one.
        if i > first and (load + size > low or most - i < count - len(runs)):
            runs.append((first, i))
            first, load = i, 0
        load += size
    runs.append((first, most))
    return runs


def _runs_needed(loads: Sequence[int], most: int) -> int:
    count, load = 1, 0
    for size in loads:
        if load + size > most:
            count, load = count + 1, 0
        load += size
    return count


def _spread(loads: Sequence[int], shards: int) -> list[int]:
    """Give each load a shard: the heaviest first, to the shard that has least so far."""
    sums, homes = [0] * shards, [0] * len(loads)
    for place in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        home = min(range(shards), key=lambda shard: (sums[shard], shard))
        homes[place] = home
        sums[home] += loads[place]
    return homes
