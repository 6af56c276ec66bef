"""The baselines: what the search is measured against, on the same evaluator and memo."""

from __future__ import annotations

from headsearch.search.baselines.base import Baseline, Outcome, run_baseline
from headsearch.search.baselines.budget_rule import BudgetRule
from headsearch.search.baselines.evolution import Evolution
from headsearch.search.baselines.gradient import Bertology, MichelOrder
from headsearch.search.baselines.greedy import Beam, by_metric
from headsearch.search.baselines.kwon import Kwon
from headsearch.search.baselines.random_orders import RandomOrders

__all__ = ["BASELINES", "Baseline", "Outcome", "run_baseline"]

_ALL: tuple[Baseline, ...] = (
    RandomOrders(),
    MichelOrder("michel", 1),
    MichelOrder("michel-10-steps", 10),  # the paper's 10 % of all heads a step
    MichelOrder("michel-18-steps", 18),
    MichelOrder("michel-every-head", None),
    Bertology(),
    Kwon(),
    Beam("loss-greedy", 1),
    Beam("metric-greedy", 1, by_metric),
    Beam("beam-8", 8),
    Evolution(),
    Evolution(seeded=True, name="evolution-from-michel"),
    BudgetRule(),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}
