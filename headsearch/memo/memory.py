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

    def add(self, records: Sequence[Record]) -> list[Record]:
        """See `MemoStore.add`."""
        return [
            self._records.setdefault((record.kind, record.state), {}).setdefault(
                (record.first, record.stop), record
            )
            for record in records
        ]

    def count(self) -> int:
        """See `MemoStore.count`."""
        return sum(len(spans) for spans in self._records.values())

    def close(self) -> None:
        """See `MemoStore.close`."""
