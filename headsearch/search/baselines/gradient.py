"""Michel's gradient order: once, measured anew on the way, and as `run_bertology.py` uses it."""

from __future__ import annotations

from dataclasses import dataclass

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import (
    TENTHS,
    is_tenth,
    prefixes,
    score,
    score_between,
    slope_view,
)
from headsearch.search.guides import Michel
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node


@dataclass(frozen=True)
class MichelOrder:
    """Heads from the least important on, with importance measured anew a number of times.

    Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?", section 4:
    importance is the mean over examples of |d loss / d gate|, divided by the layer's l2 norm. With
    one measurement, at the full model, it costs 1 evaluation for each head. With more, as with
    `--exact_pruning` in the authors' code, the heads go in equal steps.

    Differences from the source. The paper's 10 % steps are scored first, and then every prefix
    between them, and the walk goes on to the last head. The authors' code takes the absolute value
    for every position and sums these; here it is that of the example's sum, as in the paper's
    formula. Importance is measured on the search split instead of training data, and normalised
    over the heads that are left.

    Attributes:
        name: see `Baseline`.
        steps: how many times gradients are measured at most; None: before every single head.
    """

    name: str
    steps: int | None

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        total, node = ledger.problem.shape.total, ledger.baseline
        steps = total if self.steps is None else min(self.steps, total)
        scored, left = list[Node](), list[tuple[HeadSet, HeadSet]]()
        for step in range(1, steps + 1):
            # Cumulative and rounded down, as the authors' code makes steps of percentages.
            path = Michel().path(slope_view(ledger, node)).heads
            states = prefixes(node.heads, path[: total * step // steps - len(node.heads)])
            # The ends of ten steps and more are a coarse walk already.
            coarse = [s for s in states[:-1] if steps < TENTHS and is_tenth(s, total)]
            scored += score(ledger, self.name, [(node.heads, [*coarse, states[-1]])])
            left += [(node.heads, state) for state in states[:-1] if state not in coarse]
            node = scored[-1]
        score_between(ledger, self.name, scored, left)


@dataclass(frozen=True)
class Bertology:
    """The rule of `mask_heads` in transformers' `run_bertology.py`; ends where it first fails.

    transformers 4, examples/research_projects/bertology/run_bertology.py: mask the tenth of all
    heads that has the least importance, measure metric and importance anew, and so on while the
    metric is not below the threshold; the answer is the last mask that was not. Nothing is scored
    between steps. For 72 heads that is 11 evaluations at most, and as many gradients.

    Differences from the source. The threshold is the budget's instead of 0.9 times the metric.
    The norm that importance is divided by is over the heads that are left: the script's takes in
    the gradients by the gates of masked heads too, which are not measured here. Its last
    normalisation, to between 0 and 1 over all heads, changes no order and is left out. It ends
    when every head is masked, where the script would go on for ever.

    Attributes:
        amount: `masking_amount`, the share of all heads that a step masks.
    """

    amount: float = 0.1
    name: str = "bertology"

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        total, node = ledger.problem.shape.total, ledger.baseline
        count = max(1, int(total * self.amount))
        if total <= count:  # the script masks nothing then
            return
        while node.feasible and len(node.heads) < total:
            path = Michel().path(slope_view(ledger, node)).heads
            state = node.heads | HeadSet.of(path[:count])
            (node,) = score(ledger, self.name, [(node.heads, [state])])
