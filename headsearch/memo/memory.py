"""A memo that lives as long as its object."""

from __future__ import annotations

from collections.abc import Sequence

from headsearch.memo.store import Block, Record


class MemoryStore:
    """See `MemoStore`."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, bytes], dict[tuple[int, int], tuple[Block, int]]] = {}

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """See `MemoStore.find`."""
        found = {}
        for state in states:
            spans = self._places.get((kind, state))
            if spans:
                found[state] = [
                    block.record(place) for block, place in (spans[span] for span in sorted(spans))
                ]
        return found

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """See `MemoStore.spans`."""
        held = {state: self._places.get((kind, state)) for state in states}
        return {state: sorted(spans) for state, spans in held.items() if spans}

    def add(self, blocks: Sequence[Block]) -> None:
        """See `MemoStore.add`."""
        for block in blocks:
            for place, state in enumerate(block.states):
                spans = self._places.setdefault((block.kind, state), {})
                spans.setdefault((block.first, block.stop), (block, place))

    def count(self) -> int:
        """See `MemoStore.count`."""
        return sum(len(spans) for spans in self._places.values())

    def close(self) -> None:
        """See `MemoStore.close`."""
