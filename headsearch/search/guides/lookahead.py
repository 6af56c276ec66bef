"""Lookahead: adds up the heads' effects and follows the path of least predicted loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headsearch.search.guides.base import Path, View, predicted_reach


@dataclass(frozen=True)
class Lookahead:
    """Greedy path by predicted loss plus `caution` times the mean size of a head's effect.

    The predicted outputs after removing A are outputs(S) + the sum of the effects over A. Caution 0
    trusts that sum wholly and so picks heads whose effect is mispredicted; a large caution removes
    the heads that do least. O(reach * remaining * examples * classes).

    Attributes:
        caution: weight of the mean absolute effect, in loss per unit of output.
        limit: longest path that is built.
    """

    caution: float
    limit: int = 32

    @property
    def name(self) -> str:
        """The guide's name, with its caution."""
        return f"lookahead-{self.caution:g}"

    def path(self, view: View) -> Path:
        """See `Guide.path`."""
        objective = view.problem.objective
        penalty = self.caution * np.abs(view.effects).mean(axis=(1, 2), dtype=np.float64)
        outputs = view.node.outputs.astype(np.float64)
        remaining = list(range(len(view.heads)))
        order: list[int] = []
        while remaining and len(order) < self.limit:
            losses = objective.losses(outputs[None] + view.effects[remaining]).mean(axis=1)
            best = int(np.argmin(losses + penalty[remaining]))
            place = remaining.pop(best)
            outputs = outputs + view.effects[place]
            order.append(int(view.heads[place]))
        path = tuple(order)
        return Path(path, predicted_reach(view, path))
