"""A memo that lives as long as its object."""

from __future__ import annotations

from collections.abc import Sequence

from headsearch.memo.store import Record


class MemoryStore:
    """See `MemoStore`."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, bytes], dict[tuple[int, int], Record]] = {}

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """See `MemoStore.find`."""
        found = {}
        for state in states:
            spans = self._records.get((kind, state))
            if spans:
                found[state] = [spans[span] for span in sorted(spans)]
        return found

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """See `MemoStore.spans`."""
        return {
            state: [(record.first, record.stop) for record in records]
            for state, records in self.find(kind, states).items()
        }

    def add(self, records: Sequence[Record]) -> None:
        """See `MemoStore.add`."""
        for record in records:
            spans = self._records.setdefault((record.kind, record.state), {})
            spans.setdefault((record.first, record.stop), record)

    def count(self) -> int:
        """See `MemoStore.count`."""
        return sum(len(spans) for spans in self._records.values())

    def close(self) -> None:
        """See `MemoStore.close`."""
