"""Greedy search and beam search over measured single removals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import remaining, score
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node

Rank = Callable[[Node], tuple[float, ...]]


def by_loss(node: Node) -> tuple[float, ...]:
    """Lower loss first; ties: the smaller bitset, of one state's children the lower head."""
    return (node.score.loss, node.heads.bits)


def by_metric(node: Node) -> tuple[float, ...]:
    """Higher metric first; ties: lower loss, then the smaller bitset."""
    return (-node.score.metric, node.score.loss, node.heads.bits)


@dataclass(frozen=True)
class Beam:
    """Scores all single removals of the states it holds, and holds the best few of these.

    Goes on to the last head, over infeasible states too. With width 1 it is backward elimination,
    the wrapper method of feature selection (Kohavi and John 1997, "Wrappers for feature subset
    selection", section 3.2), and costs n (n + 1) / 2 evaluations for n heads: 2,628 for 72. With
    width 8 it costs less than 8 times that, as states share children: 20,520 at most for 72.

    Attributes:
        name: see `Baseline`.
        width: how many states are held.
        rank: the order in which states are held, best first.
    """

    name: str
    width: int
    rank: Rank = by_loss

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        held = [ledger.baseline]
        for _ in range(ledger.problem.shape.total):
            wanted: list[tuple[HeadSet, list[HeadSet]]] = []
            taken = set[HeadSet]()
            for node in held:
                children = [node.heads.add(j) for j in remaining(ledger, node.heads)]
                wanted.append((node.heads, [child for child in children if child not in taken]))
                taken.update(children)
            held = sorted(score(ledger, self.name, wanted), key=self.rank)[: self.width]
