"""What the search wants of one state: which pieces are there, and how far it is decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.codec import unpack_array
from headsearch.memo.store import Record
from headsearch.search.problem import GRADIENTS, Ask
from headsearch.task.shards import Layout

# Forward passes that a gradient pass costs, about; only for the order and size of jobs.
GRADIENT_COST = 4.0

Key = bytes


def key_of(kind: str, state: HeadSet) -> Key:
    """Return what the answer for a state is known by: bytes, whose hash is computed once."""
    return kind[:1].encode() + state.to_bytes()


class Want:
    """A state of an ask.

    It is decided round by round, by its own outputs alone: whatever else is known of it, from
    another search or because workers were idle, its answer ends with the same round.

    Attributes:
        first_layer: the lowest in which it differs from its ask's parent.
        passes: how many forward passes it costs, about.
        key: what it is known by.
        arrays: of each piece what was computed, (examples of the piece, …).
        there: pieces that are there, as bits.
        recalled: pieces that came from the memo.
        requested: pieces of the rounds before this one were asked for.
        rounds: how many rounds make up the answer; 0: not decided yet.
    """

    def __init__(self, ask: Ask, state: HeadSet, layout: Layout, shape: HeadMap) -> None:
        self.ask, self.state, self._layout = ask, state, layout
        self.first_layer = shape.first_layer(state ^ ask.parent)
        self.passes = 1 - self.first_layer / (shape.layers + 1)
        if ask.kind == GRADIENTS:
            self.passes = GRADIENT_COST
        self.key = key_of(ask.kind, state)
        self.arrays: list[np.ndarray | None] = [None] * len(layout.pieces)
        self.there = 0
        self.recalled: list[int] = []
        self.requested = 0
        self.rounds = 0
        self._complete = 0
        self._answer: np.ndarray | None = None

    def take(self, place: int, array: np.ndarray) -> None:
        """Take a piece that was computed."""
        self.arrays[place] = array
        self.there |= 1 << place

    @property
    def needed(self) -> int:
        """The rounds before this one are needed, as far as is known."""
        rounds = len(self._layout.rounds)
        return rounds if self.ask.decide is None else min(self._complete + 1, rounds)

    def recall(self, records: Sequence[Record]) -> None:
        """Take every piece that records cover, whatever spans they were computed in."""
        spans = {(record.first, record.stop): record for record in records}
        batches: dict[int, np.ndarray] | None = None
        for place, piece in enumerate(self._layout.pieces):
            span = piece.span
            record = spans.get((span.first, span.stop))
            if record is not None:
                array = _array(record)
            else:
                if batches is None:
                    batches = self._by_batch(records)
                parts = [batches[b] for b in range(span.first, span.stop) if b in batches]
                if len(parts) < span.stop - span.first:
                    continue
                array = np.concatenate(parts)
            assert len(array) == self._layout.rows_of(span), "fingerprints cover the batches"
            self.take(place, array)
            self.recalled.append(place)

    def decide(self) -> bool:
        """Go on as far as there are outputs, and return whether the answer is there."""
        rounds = self._layout.mask_of_round
        while not self.rounds:
            if rounds[self._complete] & ~self.there:
                return False
            self._complete += 1
            decide = self.ask.decide
            if self._complete == len(rounds) or (
                decide is not None and not decide(self._joined(self._complete))
            ):
                self.rounds = self._complete
        return True

    def answer(self) -> np.ndarray:
        """Return the outputs of the rounds that were decided on."""
        if self._answer is None:
            self._answer = self._joined(self.rounds)
        return self._answer

    def _joined(self, rounds: int) -> np.ndarray:
        stop = self._layout.pieces_of_round[rounds - 1].stop
        return np.concatenate([array for array in self.arrays[:stop] if array is not None])

    def _by_batch(self, records: Sequence[Record]) -> dict[int, np.ndarray]:
        found, offsets = {}, self._layout.offsets
        for record in records:
            array = _array(record)
            for batch in range(record.first, record.stop):
                start = offsets[record.first]
                found[batch] = array[offsets[batch] - start : offsets[batch + 1] - start]
        return found


def _array(record: Record) -> np.ndarray:
    dtype, shape, data = unpack_array(record.value)
    return np.frombuffer(data, dtype).reshape(shape)
