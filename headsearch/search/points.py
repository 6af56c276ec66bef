"""Operating points: the frontier of what is saved against metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from headsearch.search.problem import Node
from headsearch.task.metric import CLASSIFICATION


def operating_points(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes that no other beats in both weight and metric, most saved first.

    One for each weight at most, by default for each number of removed heads; ties go to the lower
    loss, then the smaller bitset. Infeasible nodes count too: a budget given later picks from the
    same list. What was given up half way has no metric, and is left out; so is what has an infinite
    one: where a perplexity can't be told.
    """
    best: dict[int, Node] = {}
    for node in nodes:
        if not math.isfinite(node.score.metric):
            continue
        held = best.get(node.weight)
        if held is None or _order(node) < _order(held):
            best[node.weight] = node
    points: list[Node] = []
    for weight in sorted(best, reverse=True):
        if not points or best[weight].score.metric > points[-1].score.metric:
            points.append(best[weight])
    return points


def feasible_points(nodes: Iterable[Node]) -> list[Node]:
    """Return the operating points within the budget, most saved first."""
    return [node for node in operating_points(nodes) if node.feasible]


def safer_points(nodes: Iterable[Node], metric: str) -> list[Node]:
    """Return the feasible nodes that no other beats in both weight and loss, most saved first.

    A loss varies less from one set of examples to another than a count of right answers does: of
    many states that were scored, one with a large metric may owe it to these examples alone. A
    correlation or a perplexity is no count, and a correlation's loss, the mean squared error, says
    something else: of these it is the feasible operating points.

    Args:
        nodes: what was scored.
        metric: of the search.
    """
    if metric not in CLASSIFICATION:
        return feasible_points(nodes)
    points: list[Node] = []
    for node in sorted((node for node in nodes if node.feasible), key=lambda node: node.rank):
        if not points or node.score.loss < points[-1].score.loss:
            points.append(node)
    return points


def gaps(points: Sequence[Node], parts: int) -> list[int]:
    """Return the weights, ascending, of states that are missing between points.

    With them no two neighbours are further apart than a `parts`th of the most that is saved, of
    which fewer than `parts` see to it.

    Args:
        points: operating points, most saved first.
        parts: into how many parts; 0: no weights.
    """
    found = set[int]()
    for more, less in pairwise(point.weight for point in points):
        count = -(-(more - less) * parts // points[0].weight)
        found |= {less + (more - less) * place // count for place in range(1, count)} - {less}
    return sorted(found)


def _order(node: Node) -> tuple[float, float, int]:
    return (-node.score.metric, node.score.loss, node.heads.bits)
