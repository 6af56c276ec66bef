"""The protocol of memo stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Record:
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


class MemoStore(Protocol):
    """Holds records; used from one thread at a time."""

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """Return each state's records, sorted by (first, stop); states with none are absent."""
        ...

    def add(self, records: Sequence[Record]) -> list[Record]:
        """Store all records in one transaction, or none, and return those that now stand.

        Where one with the same kind, state and span is there already, the first stays: two
        processes that computed the same then go on with the same bytes.
        """
        ...

    def count(self) -> int:
        """Return how many records there are."""
        ...

    def close(self) -> None:
        """Give back what the store holds. May be called twice."""
        ...
