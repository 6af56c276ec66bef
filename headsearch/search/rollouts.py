"""Where a search begins: guides followed from the root, measured anew by gradients on the way.

Rollouts go in lockstep, so that what can be asked at once is asked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.frontier import Entry, Frontier
from headsearch.search.guides import Guide, Path, View, paths_of, predicted_reach
from headsearch.search.ledger import Ledger
from headsearch.search.problem import GRADIENTS, Ask, Node
from headsearch.search.promise import gain_of, promise, rest_of

# A rollout ends after so many rungs in a row that are infeasible with a loss above the baseline's.
LOST_RUNGS = 2
# The size of model that `Rollout.remeasure` speaks of: MiniLM-L6, where it was measured.
REMEASURED_HEADS = 72


@dataclass(frozen=True)
class Rollout:
    """A guide followed from the root, with gradients measured anew on the way.

    Attributes:
        guide: whose path is followed.
        remeasure: heads removed between two measurements, in a model of 72 heads. In others more
            or fewer in proportion, so that a rollout has about as many steps, which come one
            after the other, whatever the model's size.
    """

    guide: Guide
    remeasure: int

    def stride(self, heads: int) -> int:
        """Return the heads removed between two measurements in a model of so many."""
        return max(1, self.remeasure * heads // REMEASURED_HEADS)


def roll_out(
    rollouts: Sequence[Rollout],
    ledger: Ledger,
    frontier: Frontier,
    horizon: int,
    ahead_of_gradients: Callable[[], Iterable[Ask]],
) -> int:
    """Follow all rollouts from the root to their ends, and return the root's h.

    Args:
        rollouts: what to follow.
        ledger: scores and commits.
        frontier: gets every state on the way.
        horizon: see `Settings`.
        ahead_of_gradients: see `Oracle.ask`.
    """
    total = ledger.problem.shape.total
    nodes = dict.fromkeys(rollouts, ledger.baseline)
    lost = dict.fromkeys(rollouts, 0)
    root_reach = 0
    while nodes:
        slopes = ledger.gradients([node.heads for node in nodes.values()], ahead_of_gradients)
        moves: list[tuple[Rollout, View, Path, int, HeadSet]] = []
        views = {
            node.heads: _slope_view(ledger, node, slopes[node.heads]) for node in nodes.values()
        }
        paths = paths_of([(r.guide, views[node.heads]) for r, node in nodes.items()])
        for (rollout, node), path in zip(nodes.items(), paths, strict=True):
            view = views[node.heads]
            h = promise(gain_of(ledger.problem, node, path, horizon), node)
            if node is ledger.baseline:
                root_reach = max(root_reach, h)
            step = node.heads | HeadSet.of(path.heads[: rollout.stride(total)])
            moves.append((rollout, view, path, h, step))
        steps = list(dict.fromkeys(step for *_, step in moves))
        parents = {step: view.node.heads for _, view, _, _, step in reversed(moves)}

        def ahead(steps: list[HeadSet] = steps) -> Iterable[Ask]:
            return [Ask(GRADIENTS, step, (step,)) for step in steps]

        found = ledger.score([(parents[step], (step,)) for step in steps], ahead=ahead)
        new = {node.heads: node for node in found}
        for rollout, view, path, h, step in moves:
            fresh = [new.pop(step)] if step in new else []
            for child in fresh:
                rest = rest_of(path, child, horizon)
                ahead_of_it = Path(rest, predicted_reach(view, rest, child.outputs))
                gain = gain_of(ledger.problem, child, ahead_of_it, horizon)
                frontier.push(Entry(child, promise(gain, child)))
            ledger.commit(f"rollout {rollout.guide.name}", view.node, h, fresh)
            node = nodes[rollout] = ledger.known[step]
            worse = not node.feasible and node.score.loss > ledger.baseline.score.loss
            lost[rollout] = lost[rollout] + 1 if worse else 0
            if lost[rollout] == LOST_RUNGS or len(node.heads) == total:
                del nodes[rollout]
    return root_reach


def _slope_view(ledger: Ledger, node: Node, slopes: np.ndarray) -> View:
    """Return a view whose effects come from slopes (examples, classes, heads)."""
    heads = [j for j in range(ledger.problem.shape.total) if j not in node.heads]
    effects = np.ascontiguousarray(slopes.transpose(2, 0, 1)[heads])
    np.negative(effects, out=effects)
    return ledger.view(node, heads, effects)
