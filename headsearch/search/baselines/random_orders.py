"""Random orders: what any method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import score
from headsearch.search.ledger import Ledger


@dataclass(frozen=True)
class RandomOrders:
    """Heads in random orders; the best prefix of any of them counts.

    Each order is scored on a ladder of equally spaced sizes up to the full set, and then at every
    size between its last feasible rung and the next. For 72 heads that is 337 evaluations at most:
    16 orders of 18 rungs, which share the last, and 3 more sizes for each.

    Attributes:
        seed: of the orders.
        orders: how many there are.
        rungs: how many sizes of each are scored first.
    """

    seed: int = 0
    orders: int = 16
    rungs: int = 18
    name: str = "random"

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        total = ledger.problem.shape.total
        random = np.random.default_rng(self.seed)
        orders = [[int(j) for j in random.permutation(total)] for _ in range(self.orders)]
        rungs = sorted({total * rung // self.rungs for rung in range(self.rungs + 1)})
        self._score(ledger, [(order, rungs[1:]) for order in orders])
        between = []
        for order in orders:
            reached = max(k for k in rungs if ledger.known[HeadSet.of(order[:k])].feasible)
            following = min((k for k in rungs if k > reached), default=reached)
            between.append((order, range(reached + 1, following)))
        self._score(ledger, between)

    def _score(self, ledger: Ledger, wanted: Sequence[tuple[list[int], Sequence[int]]]) -> None:
        """Score some prefixes of each order, once where orders share them."""
        states = dict.fromkeys(HeadSet.of(order[:k]) for order, sizes in wanted for k in sizes)
        score(ledger, self.name, [(ledger.baseline.heads, list(states))])
