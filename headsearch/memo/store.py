"""The protocol of memo stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One array that was computed.

    Attributes:
        state: the HeadSet, as canonical bytes.
        kind: "outputs" or "gradients".
        first, stop: the run of whole batches [first, stop) that it covers.
        value: the array in msgpack, see `memo.codec`.
    """

    state: bytes
    kind: str
    first: int
    stop: int
    value: bytes


class Block(NamedTuple):
    """Arrays of many HeadSets that were computed together, on the same batches.

    Attributes:
        kind, first, stop: as of a record.
        states: HeadSets, as canonical bytes.
        head: what every value begins with.
        data: the rest of all values, one after the other, each of the same size.
    """

    kind: str
    first: int
    stop: int
    states: tuple[bytes, ...]
    head: bytes
    data: bytes

    def record(self, place: int) -> Record:
        """Return the record of the HeadSet at a place."""
        size = len(self.data) // len(self.states)
        value = self.head + self.data[place * size : (place + 1) * size]
        return Record(self.states[place], self.kind, self.first, self.stop, value)


class MemoStore(Protocol):
    """Holds records; used from one thread at a time."""

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """Return each state's records, sorted by (first, stop); states with none are absent."""
        ...

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """Return (first, stop) of each state's records, sorted, without reading their values."""
        ...

    def add(self, blocks: Sequence[Block]) -> None:
        """Store the records of all blocks in one transaction, or none.

        Where one with the same kind, state and span is there already, the first stays.
        """
        ...

    def count(self) -> int:
        """Return how many records there are."""
        ...

    def close(self) -> None:
        """Give back what the store holds. May be called twice."""
        ...
