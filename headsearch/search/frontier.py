"""The frontier (A*'s open list): what to expand next, in one fixed order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headsearch.search.problem import Node


@dataclass
class Entry:
    """A state that waits to be expanded.

    Attributes:
        node: the scored state.
        h: the guide's estimate of what can be saved beyond it; as long as `promise` is
            there, only an upper limit of it.
        promise: computes h, when it is needed.
    """

    node: Node
    h: int
    promise: Callable[[], int] | None = None

    @property
    def f(self) -> int:
        """g + h: how much is expected to be saved through this state."""
        return self.node.weight + self.h

    def settle(self) -> None:
        """Compute h, if that was put off."""
        if self.promise is not None:
            self.h, self.promise = self.promise(), None


class Frontier:
    """A priority queue: largest f, then larger g, then lower loss, then the smaller bitset.

    h is computed when an entry comes first by its upper limit: then it either still is first, or
    goes back to where it belongs. The order is the same as if h had been computed at once, but most
    entries never come first.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, float, int, int, Entry]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry) -> None:
        """Add a state. O(log n)."""
        self._pushed += 1
        heapq.heappush(self._heap, (-entry.f, *entry.node.rank, self._pushed, entry))

    def pop(self) -> Entry:
        """Take the first state in the order."""
        while True:
            f, *_, entry = heapq.heappop(self._heap)
            entry.settle()
            if entry.f == -f:
                return entry
            self.push(entry)  # f was an upper limit

    def first(self, count: int, others: Iterable[Entry] = ()) -> list[Entry]:
        """Return what would be popped first if `others` were on it too; nothing is taken."""
        both = Frontier()
        both._heap = list(self._heap)
        for entry in others:
            both.push(entry)
        heapq.heapify(both._heap)
        return [both.pop() for _ in range(min(count, len(both)))]
