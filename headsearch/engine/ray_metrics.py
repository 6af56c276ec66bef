"""Gauges for Ray's own dashboard and whatever scrapes its metrics."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

DESCRIPTIONS = {
    "scores_per_second": "HeadSets scored by workers in a second, since the start",
    "queue_depth": "Jobs that wait for a worker",
    "in_flight": "Jobs that were sent to workers and not yet answered",
    "workers": "Workers that are up",
    "memo_hit_rate": "Share of the scores asked for that were in the memo before",
    "speculation_use": "Share of the scores computed ahead that were asked for later",
    "best_heads_removed": "Most heads removed within the budget so far",
    "evaluations": "HeadSets that the search has committed",
}


class Gauges:
    """Named `headsearch_…`, one for each of `DESCRIPTIONS`."""

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(f"headsearch_{name}", description=text)
            for name, text in DESCRIPTIONS.items()
        }

    def show(self, figures: Mapping[str, float]) -> None:
        """Set the gauges; those not named stay as they are."""
        for name, value in figures.items():
            self._gauges[name].set(value)
