"""h: how many more heads are expected to be removable from a state."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from headsearch.search.guides import Path
from headsearch.search.problem import Node


def promise(node: Node, reaches: Iterable[int | None], horizon: int) -> int:
    """Return the best reach within the horizon; where nothing feasible is expected, f is 0."""
    some = [min(reach, horizon) for reach in reaches if reach is not None]
    return max(some) if some else -node.weight


def rest_of(path: Path, node: Node, horizon: int) -> tuple[int, ...]:
    """Return what of a path is still to be removed at a state, as far as h may look."""
    left = (j for j in path.heads if j not in node.heads)
    return tuple(islice(left, horizon))
