"""What the search wants of one state: what is known of it, and how far it is decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.codec import unpack_array
from headsearch.memo.store import Record
from headsearch.search.problem import GRADIENTS, OUTPUTS, Ask
from headsearch.task.batches import Span
from headsearch.task.shards import Layout, Where

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
        layout: how it is cut: as batches are or, see `Ask.order`, in an order of its ask's own.
        first_layer: the lowest in which it differs from its ask's parent.
        passes: how many forward passes it costs, about.
        key: what it is known by.
        known: examples whose outputs are known, as bits.
        recalled: those of them that came from the memo.
        requested: pieces of the rounds before this one were asked for.
        rounds: how many rounds make up the answer; 0: not decided yet.
    """

    def __init__(self, ask: Ask, state: HeadSet, layout: Layout, shape: HeadMap) -> None:
        self.ask, self.state, self.layout = ask, state, layout
        self.first_layer = shape.first_layer(state ^ ask.parent)
        self.passes = 1 - self.first_layer / (shape.layers + 1)
        if ask.kind == GRADIENTS:
            self.passes = GRADIENT_COST
        self.key = key_of(ask.kind, state)
        self.known = 0
        self.recalled = 0
        self.requested = 0
        self.rounds = 0
        self._complete = 0
        self._values: np.ndarray | None = None  # (all examples, …)
        self._answer: np.ndarray | None = None

    @property
    def any_part(self) -> bool:
        """Whether any examples may be computed apart from the others."""
        return self.layout.independent and self.ask.kind == OUTPUTS

    def take(self, bits: int, where: Where, array: np.ndarray) -> None:
        """Take what was computed.

        Args:
            bits: of which examples, as bits.
            where: the same as an index.
            array: (these examples, …).
        """
        if self._values is None:
            self._values = np.empty((self.layout.rows, *array.shape[1:]), array.dtype)
        self._values[where] = array
        self.known |= bits

    @property
    def needed(self) -> int:
        """The rounds before this one are needed, as far as is known."""
        rounds = len(self.layout.rounds)
        return rounds if self.ask.decide is None else min(self._complete + 1, rounds)

    def recall(self, records: Sequence[Record]) -> None:
        """Take all that records have, whatever pieces they were computed in."""
        for record in records:
            dtype, shape, rows, data = unpack_array(record.value)
            array = np.frombuffer(data, dtype).reshape(shape)
            bits, where = self.layout.where(Span(record.first, record.stop), rows)
            if rows is None:
                count = self.layout.rows_of(Span(record.first, record.stop))
                assert len(array) == count, "fingerprints cover the batches"
            self.take(bits, where, array)
        self.recalled = self.known

    def decide(self) -> bool:
        """Go on as far as there are outputs, and return whether the answer is there."""
        rounds = self.layout.bits_of_round
        while not self.rounds:
            if rounds[self._complete] & ~self.known:
                return False
            self._complete += 1
            decide = self.ask.decide
            if self._complete == len(rounds) or (
                decide is not None and not decide(*self._outputs(self._complete))
            ):
                self.rounds = self._complete
        return True

    def answer(self) -> np.ndarray:
        """Return the outputs of the rounds that were decided on, in the order of the batches."""
        if self._answer is None:
            self._answer = self._outputs(self.rounds)[0]
        return self._answer

    @property
    def examples(self) -> int:
        """The examples that the answer is of, as bits."""
        return self.layout.bits_of_round[self.rounds - 1]

    def _outputs(self, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the outputs of the first rounds, and which examples these are, ascending."""
        assert self._values is not None, "they are known"
        examples = self.layout.examples_of_round[rounds - 1]
        if len(examples) == len(self._values):
            return self._values, examples
        return self._values[examples], examples
