"""h: how much more is expected to be saved from a state."""

from __future__ import annotations

from itertools import islice

from headsearch.search.guides import Path
from headsearch.search.problem import Node, Problem


def promise(gain: int | None, node: Node) -> int:
    """Return h: what a guide expects to be saved beyond a state.

    Args:
        gain: that; None: nothing feasible is expected, and f is 0.
        node: the state.
    """
    return -node.weight if gain is None else gain


def gain_of(problem: Problem, node: Node, path: Path, horizon: int) -> int | None:
    """Return what a path's reach saves beyond a state, as far as h may look."""
    if path.reach is None:
        return None
    return problem.gains(node.heads, path.heads[: min(path.reach, horizon)])[-1]


def rest_of(path: Path, node: Node, horizon: int) -> tuple[int, ...]:
    """Return what of a path is still to be removed at a state, as far as h may look."""
    left = (j for j in path.heads if j not in node.heads)
    return tuple(islice(left, horizon))
