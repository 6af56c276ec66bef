"""The paper's own A*: a head's cost is the metric that its removal takes from the budget."""

from __future__ import annotations

from dataclasses import dataclass

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import remaining, score
from headsearch.search.frontier import Entry, Frontier
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node


@dataclass(frozen=True)
class BudgetRule:
    """Best-first by f = heads removed + how many of the cheapest others fit into the budget left.

    Parnami, Singh and Joshi 2021, "Pruning Attention Heads of Transformer Models Using A* Search"
    (arXiv 2110.15225), as far as its public text tells; no code was published. A head's cost is the
    drop of the metric when it was last measured on the way to a state, 0 where the metric rose.
    Expanding a state scores the removal of each head whose last cost may still fit, which measures
    it anew; children that break the budget are dropped. Ends when the first state of the frontier
    has no head left that may fit: by f no other state leads further.

    What it costs depends on the model; the first expansion scores every head. The frontier's ties
    go to more heads removed, then lower loss, then the smaller bitset; the paper says nothing of
    ties. Costs of accuracy are counted in whole examples, so that they add up exactly.
    """

    name: str = "budget-rule"

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        root, total = ledger.baseline, ledger.problem.shape.total
        step = ledger.problem.weight.step  # 1, where heads are counted
        # What each head cost when it was last measured; at first all of them may fit.
        costs: dict[HeadSet, list[float]] = {root.heads: [0.0] * total}
        frontier = Frontier()
        frontier.push(Entry(root, total * step))
        while len(frontier):
            entry = frontier.pop()
            node, last = entry.node, costs[entry.node.heads]
            if entry.h == 0:
                return
            left = _left(ledger, node)
            heads = [j for j in remaining(ledger, node.heads) if last[j] <= left]
            states = [node.heads.add(j) for j in heads]
            children = score(ledger, self.name, [(node.heads, states)], entry.h)
            now = list(last)
            for j, child in zip(heads, children, strict=True):
                now[j] = max(0.0, left - _left(ledger, child))
            for child in children:
                if child.feasible and child.heads not in costs:
                    costs[child.heads] = now
                    others = sorted(now[j] for j in remaining(ledger, child.heads))
                    fitting = _fitting(others, _left(ledger, child))
                    frontier.push(Entry(child, fitting * step))


def _left(ledger: Ledger, node: Node) -> float:
    """Return the budget that a state has left: whole examples for accuracy, else the metric's."""
    threshold = ledger.threshold
    if node.score.correct is not None and threshold.correct is not None:
        return node.score.correct - threshold.correct
    return node.score.metric - threshold.value


def _fitting(costs: list[float], left: float) -> int:
    """Return how many of ascending costs fit together."""
    count, spent = 0, 0.0
    for cost in costs:
        spent += cost
        if spent > left:
            break
        count += 1
    return count
