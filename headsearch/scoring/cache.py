"""Layer inputs and contexts of parents, kept within a byte limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from headsearch.heads import HeadSet


@dataclass(frozen=True)
class LayerState:
    """What a child needs of its parent at the layer where they first differ.

    Attributes:
        hidden: the layer's input, (rows, hidden), see `scoring.packing`.
        context: attention's result before the output projection, (rows, heads, head size): of the
            heads that the parent kept; in the last layer of all, and of first tokens alone.
    """

    hidden: Tensor
    context: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that the two tensors take."""
        return self.hidden.nbytes + self.context.nbytes


Trace = list[LayerState]  # one for each layer


class ParentCache:
    """Traces by (parent, batch); the least recently used parent goes first.

    A parent never evicts its own traces: batches are visited in order, so that throwing out the
    oldest would lose every trace just before it is needed again. What doesn't fit is recomputed.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self.keep_others = False  # whether parents may not be dropped for another's sake
        self._parents: OrderedDict[HeadSet, dict[Hashable, Trace]] = OrderedDict()

    @property
    def limit_bytes(self) -> int:
        """Most bytes that may be held now."""
        return self._limit

    @property
    def used_bytes(self) -> int:
        """Bytes held now; never more than the limit."""
        return self._used

    def get(self, parent: HeadSet, batch: Hashable) -> Trace | None:
        """Return the trace, or None if it has to be recomputed."""
        traces = self._parents.get(parent)
        if traces is None:
            return None
        self._parents.move_to_end(parent)
        return traces.get(batch)

    def has_room(self, parent: HeadSet, nbytes: int) -> bool:
        """Make room by dropping other parents; return whether `nbytes` more fit now."""
        while self._used + nbytes > self._limit:
            oldest = next((p for p in self._parents if p != parent), None)
            if oldest is None or self.keep_others:
                return False
            for trace in self._parents.pop(oldest).values():
                self._used -= sum(state.nbytes for state in trace)
        return True

    def shrink(self) -> None:
        """Drop everything and halve the limit, because memory ran out."""
        self._parents.clear()
        self._used = 0
        self._limit //= 2

    def put(self, parent: HeadSet, batch: Hashable, trace: Trace) -> None:
        """Keep a trace if it fits, in place of a shorter one of the same parent and batch."""
        size = sum(state.nbytes for state in trace)
        size -= sum(state.nbytes for state in self._parents.get(parent, {}).get(batch, []))
        if not self.has_room(parent, size):
            return
        self._parents.setdefault(parent, {})[batch] = trace
        self._parents.move_to_end(parent)
        self._used += size
