"""The frontier (A*'s open list): what to expand next, in one fixed order."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from headsearch.search.problem import Node


@dataclass(frozen=True)
class Entry:
    """A state that waits to be expanded.

    Attributes:
        node: the scored state.
        h: the guide's estimate of the further heads removable from it.
    """

    node: Node
    h: int

    @property
    def f(self) -> int:
        """g + h: how many heads are expected to be removable through this state."""
        return self.node.weight + self.h


class Frontier:
    """A priority queue: largest f, then larger g, then lower loss, then the smaller bitset."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry) -> None:
        """Add a state. O(log n)."""
        node = entry.node
        heapq.heappush(self._heap, (-entry.f, *node.rank, entry))

    def pop(self) -> Entry:
        """Take the first state in the order. O(log n)."""
        return heapq.heappop(self._heap)[-1]
