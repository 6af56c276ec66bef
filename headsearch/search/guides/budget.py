"""The paper's guide: heads by the metric drop that their removal costs."""

from __future__ import annotations

import numpy as np

from headsearch.search.guides.base import Path, View
from headsearch.search.weight import by_worth


class Budget:
    """A head's cost is its last measured metric drop; h counts the cheapest that fit the budget.

    Parnami, Singh and Joshi 2021 (arXiv 2110.15225), as far as its public text tells. A head whose
    removal raises the metric costs nothing. Needs measured effects.
    """

    name = "budget"

    def path(self, view: View) -> Path:
        """See `Guide.path`."""
        outputs = view.node.outputs[None] + view.effects
        metric = view.node.score.metric
        costs = np.maximum(0.0, metric - view.problem.objective.metrics(outputs))
        order = np.argsort(by_worth(costs, view.worths), kind="stable")
        left = metric - view.threshold.value
        fits = int(np.searchsorted(np.cumsum(costs[order]), left, side="right"))
        reach = fits if view.node.feasible else None
        return Path(tuple(int(j) for j in view.heads[order]), reach)
