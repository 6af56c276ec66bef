"""Rounds, pieces and shards: how the batches are cut, for early decisions and for workers.

Rounds cut the batches for the search's sake: a child that can't meet the threshold any more after
a round is not scored further. They depend on the number of batches alone. Pieces cut the rounds
for the workers' sake: a piece is what one job covers, and a shard is a set of pieces that is
served by the same workers, whose caches hold the parents' layer inputs for it.

Where an example's outputs do not depend on those beside it, rounds may be runs of any order of the
examples, the likeliest errors first: then pieces are of examples, not of batches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from headsearch.errors import InputError
from headsearch.task.batches import ROUNDS, BatchedData, Span, round_of
from headsearch.task.readout import EXAMPLES

# Pieces of each round for every shard; more than one, so that a worker that is done early can take
# what is left of another's.
PIECES_PER_SHARD = 2
# A piece of examples is not cut smaller than this.
LEAST_EXAMPLES = 16
# What one job computes of a piece is no larger, in bytes: it travels and is stored in one, and
# SQLite takes no more than 1e9.
PIECE_BYTES = 1 << 27


# Examples as an index of arrays.
Where = slice | np.ndarray


@dataclass(frozen=True)
class Piece:
    """A run of whole batches within one round, or any examples.

    Attributes:
        span: the batches; where it is of examples, a negative number that stands for them, and how
            many they are.
        round: the round that they lie in.
        shard: whose workers serve it.
        load: tokens in it.
        rows: of examples, their places in the order of the batches as int32, little-endian.
    """

    span: Span
    round: int
    shard: int
    load: int
    rows: bytes | None = None

    @property
    def where(self) -> Span | np.ndarray:
        """The batches, or the places of the examples, (examples,)."""
        return self.span if self.rows is None else places_of(self.rows)


@dataclass(frozen=True)
class Layout:
    """How a task's examples are cut.

    Attributes:
        offsets: first row of each batch, and the number of rows at the end, (batches + 1,); a row
            is what is scored one by one, an example where nothing else is said.
        rounds: runs of batches, or of places in an order of the examples, in order.
        pieces: cover every round, in order.
        shards: how many shards there are.
        lengths: tokens of each example.
        independent: whether an example's outputs do not depend on those beside it, to the last bit.
        row_bytes: of an example in the largest answer of a job.
    """

    offsets: tuple[int, ...]
    rounds: tuple[Span, ...]
    pieces: tuple[Piece, ...]
    shards: int
    lengths: tuple[int, ...] = ()
    independent: bool = False
    row_bytes: int = 0

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return self.offsets[-1]

    @cached_property
    def load(self) -> int:
        """Tokens in all batches."""
        return sum(piece.load for piece in self.pieces)

    @cached_property
    def pieces_of_round(self) -> tuple[range, ...]:
        """Which pieces make up each round."""
        found = []
        for number in range(len(self.rounds)):
            places = [i for i, piece in enumerate(self.pieces) if piece.round == number]
            found.append(range(places[0], places[-1] + 1))
        return tuple(found)

    def rows_of(self, span: Span) -> int:
        """How many examples a piece's span holds."""
        if span.first < 0:
            return span.stop
        return self.offsets[span.stop] - self.offsets[span.first]

    def where(self, span: Span, rows: bytes | None) -> tuple[int, Where]:
        """Return the examples of a piece, as bits and as an index."""
        if rows is None:
            start, stop = self.offsets[span.first], self.offsets[span.stop]
            return ((1 << (stop - start)) - 1) << start, slice(start, stop)
        places = places_of(rows)
        return bits_of(places, self.rows), places

    @cached_property
    def bits(self) -> tuple[int, ...]:
        """Each piece's examples as bits."""
        return tuple(self.where(piece.span, piece.rows)[0] for piece in self.pieces)

    @cached_property
    def bits_of_number(self) -> dict[int, int]:
        """Examples as bits by the number that stands for them; see `Piece.span`."""
        return {piece.span.first: bits for piece, bits in zip(self.pieces, self.bits, strict=True)}

    @cached_property
    def bits_of_round(self) -> tuple[int, ...]:
        """The examples of each round and of all before it, as bits."""
        found, bits = [], 0
        for places in self.pieces_of_round:
            for place in places:
                bits |= self.bits[place]
            found.append(bits)
        return tuple(found)

    @cached_property
    def examples_of_round(self) -> tuple[np.ndarray, ...]:
        """The same as places in the order of the batches, ascending."""
        return tuple(self.examples_of(bits) for bits in self.bits_of_round)

    def examples_of(self, bits: int) -> np.ndarray:
        """Return examples given as bits as places in the order of the batches, ascending."""
        packed = np.frombuffer(bits.to_bytes(-(-self.rows // 8), "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(packed, bitorder="little"))

    def part(self, piece: Piece, bits: int) -> Piece:
        """Return a piece of some of a piece's examples."""
        return self.piece(self.by_length(self.examples_of(bits)), piece.round, piece.shard)

    def piece(self, examples: np.ndarray, number: int, shard: int) -> Piece:
        """Return a piece of any examples, in a round and of a shard."""
        rows = examples.astype("<i4").tobytes()
        span = Span(_number(rows), len(examples))
        return Piece(span, number, shard, int(self.tokens[examples].sum()), rows)

    @cached_property
    def tokens(self) -> np.ndarray:
        """`lengths` as an array, (examples,)."""
        return np.array(self.lengths)

    def by_length(self, examples: np.ndarray) -> np.ndarray:
        """Return examples so that those of one length are neighbours, the shortest first."""
        return examples[np.lexsort((examples, self.tokens[examples]))]

    @cached_property
    def places_of_shard(self) -> dict[int, list[int]]:
        """Where the pieces of each shard are, the heaviest shards first.

        An ask is over when its longest job is.
        """
        loads = self.load_of_shard
        found: dict[int, list[int]] = {
            shard: [] for shard in sorted(range(self.shards), key=lambda s: (-loads[s], s))
        }
        for place, piece in enumerate(self.pieces):
            found[piece.shard].append(place)
        return found

    @cached_property
    def load_of_shard(self) -> tuple[int, ...]:
        """Tokens of each shard."""
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


def lay_out(
    data: BatchedData, shards: int, independent: bool = False, row_bytes: int = 0
) -> Layout:
    """Cut the batches.

    Args:
        data: the batches.
        shards: for how many sets of workers.
        independent, row_bytes: see `Layout`.

    Raises:
        InputError: there are fewer batches than shards.
    """
    most = len(data.batches)
    if not 1 <= shards <= most:
        raise InputError(
            f"--shards must be between 1 and {most}, the number of batches, but got {shards}"
        )
    loads = [int(batch.lengths.sum()) for batch in data.batches]
    spans: list[tuple[int, Span, int]] = []
    for number, whole in enumerate(rounds(most)):
        size = whole.stop - whole.first
        rows = int(data.offsets[whole.stop] - data.offsets[whole.first])
        wanted = 1 if shards == 1 else PIECES_PER_SHARD * shards
        count = min(size, max(wanted, -(-rows * row_bytes // PIECE_BYTES)))
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
        lengths=tuple(int(n) for n in data.lengths),
        independent=independent and data.kind == EXAMPLES,
        row_bytes=row_bytes,
    )


def lay_out_in_order(base: Layout, examples: np.ndarray, ends: Sequence[int]) -> Layout:
    """Cut examples in an order of their own.

    Args:
        base: how the batches are cut.
        examples: their places in the order of the batches, distinct.
        ends: where the rounds end in this order, ascending; the last is the number of examples.
    """
    spans = tuple(Span(first, stop) for first, stop in pairwise((0, *ends)))
    found: list[tuple[int, np.ndarray]] = []
    for number, span in enumerate(spans):
        part = base.by_length(examples[span.first : span.stop])
        size = len(part) // LEAST_EXAMPLES
        count = 1 if base.shards == 1 else max(1, min(size, PIECES_PER_SHARD * base.shards))
        count = max(count, -(-len(part) * base.row_bytes // PIECE_BYTES))
        for begin, end in cut([int(n) for n in base.tokens[part]], count):
            found.append((number, part[begin:end]))
    homes = _spread([int(base.tokens[part].sum()) for _, part in found], base.shards)
    pieces = tuple(
        base.piece(part, number, home) for (number, part), home in zip(found, homes, strict=True)
    )
    return replace(base, rounds=spans, pieces=pieces)


def places_of(rows: bytes) -> np.ndarray:
    """Return places as a `Piece` has them, (examples,) int64."""
    return np.frombuffer(rows, "<i4").astype(np.int64)


def _number(content: bytes) -> int:
    """Return a negative number that stands for something and that SQLite can hold."""
    return -1 - (int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 2)


def bits_of(examples: np.ndarray, count: int) -> int:
    """Return places among so many examples as bits."""
    chosen = np.zeros(count, bool)
    chosen[examples] = True
    return int.from_bytes(np.packbits(chosen, bitorder="little").tobytes(), "little")


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
