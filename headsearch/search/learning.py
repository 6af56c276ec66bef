"""What is known of a search, as evidence for a surrogate, and what the surrogate proposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.forecast import Forecast
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node
from headsearch.search.proposals import Proposal, Proposer
from headsearch.search.surrogate import Evidence, Surrogate, indicators
from headsearch.task.metric import CLASSIFICATION

# Most measured rows, and most that gradients extrapolate, in one fit: it is cubic in them.
MEASURED_ROWS = 600
EXTRAPOLATED_ROWS = 432
# Most rows of states that were given up.
GIVEN_UP_ROWS = 200
# Measured states whose gradients are used.
SLOPES = 6
# By so many rows, those nearest to the best state, it is judged how far off forecasts are of
# correlations and perplexity: for those it does not follow from the outputs' deviations.
JUDGED_ROWS = 16
LEAST_OFF = 1e-4
# Starts save at most so many heads' worth less than the best state.
BELOW = 6


class Learner:
    """Fits a surrogate to a ledger and asks it for proposals."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def proposals(self) -> list[Proposal]:
        """Return states that are worth scoring, the most promising first."""
        ledger = self._ledger
        nodes = [node for node in ledger.known.values() if node.whole and node.heads.bits]
        whole = [node for node in nodes if np.isfinite(node.outputs).all()]
        if not whole or not self._root_known():
            return []
        rows = self._nearest(whole, MEASURED_ROWS)
        forecast = Forecast(ledger.problem.objective, ledger.baseline, rows)
        surrogate = Surrogate(self._weights(forecast), self._evidence(forecast, rows))
        threshold, off = ledger.threshold.value, 0.0
        if ledger.problem.objective.metric not in CLASSIFICATION:
            errors = _errors(surrogate, forecast, rows)
            threshold -= float(errors.mean())
            off = max(LEAST_OFF, float(errors.std()))
        proposer = Proposer(surrogate, forecast, ledger.problem, threshold, off)
        starts = self._starts(whole)

        def largest(weight: int) -> float:
            return max(node.score.metric for node in whole if node.weight >= weight)

        return proposer.propose(starts, ledger.best, ledger.known, largest)

    def _nearest(self, nodes: Iterable[Node], count: int) -> list[Node]:
        """Return the nodes that differ least from the best state, nearest first."""
        best = self._ledger.best.heads
        return sorted(nodes, key=lambda n: (len(n.heads ^ best), n.rank))[:count]

    def _root_known(self) -> bool:
        """Whether it is known what each head does to the full model."""
        ledger, total = self._ledger, self._ledger.problem.shape.total
        singles = all(ledger.is_whole(HeadSet.of([head])) for head in range(total))
        return HeadSet() in ledger.slopes or singles

    def _weights(self, forecast: Forecast) -> np.ndarray:
        """Return how much each head moves the columns: by gradients, else by single removals."""
        ledger, total = self._ledger, self._ledger.problem.shape.total
        if HeadSet() in ledger.slopes:
            effects = self._slopes_of(forecast, HeadSet())
        else:
            singles = [ledger.known[HeadSet.of([head])].outputs for head in range(total)]
            effects = np.stack([forecast.columns(each) - forecast.base for each in singles])
        return np.asarray(np.square(effects).mean(axis=1))

    def _slopes_of(self, forecast: Forecast, state: HeadSet) -> np.ndarray:
        """Return the columns' derivatives by the gates, (heads, columns)."""
        return forecast.columns(self._ledger.slopes[state].transpose(2, 0, 1))

    def _evidence(self, forecast: Forecast, rows: Sequence[Node]) -> Evidence:
        ledger = self._ledger
        total = ledger.problem.shape.total
        removed, changes, measured = [], [], []
        for node in rows:
            removed.append(indicators(node.heads, total))
            changes.append(forecast.columns(node.outputs) - forecast.base)
            measured.append(True)
        sloped = (ledger.known[state] for state in ledger.slopes)
        for node in self._nearest(sloped, max(1, min(SLOPES, EXTRAPOLATED_ROWS // total))):
            slopes = self._slopes_of(forecast, node.heads)
            change = forecast.columns(node.outputs) - forecast.base
            for head in range(total):
                if head in node.heads or ledger.is_whole(node.heads.add(head)):
                    continue
                removed.append(indicators(node.heads.add(head), total))
                changes.append(change - slopes[head])
                measured.append(False)
        given_up = (ledger.known[state] for state in ledger.examples if not ledger.is_whole(state))
        for node in self._nearest(given_up, GIVEN_UP_ROWS):
            removed.append(indicators(node.heads, total))
            known = forecast.columns_of(node.outputs, ledger.examples[node.heads])
            changes.append(known - forecast.base)
            measured.append(True)
        return Evidence(np.array(removed), np.array(changes), np.array(measured))

    def _starts(self, whole: Sequence[Node]) -> list[HeadSet]:
        best, step = self._ledger.best, self._ledger.problem.weight.step
        near = [n for n in whole if n.weight >= best.weight - BELOW * step]
        feasible = sorted((n for n in near if n.feasible), key=lambda n: n.rank)
        by_loss = sorted(near, key=lambda n: (n.score.loss, n.rank))
        above = [n for n in near if n.weight > best.weight]
        above.sort(key=lambda n: (-n.score.metric, n.rank))
        by_metric = [n for n in near if n.weight >= best.weight - step]
        by_metric.sort(key=lambda n: (-n.score.metric, n.rank))
        chosen = [best, *feasible[:2], *by_loss[:2], *by_metric[:2], *above[:2]]
        return list(dict.fromkeys(node.heads for node in chosen))


def _errors(surrogate: Surrogate, forecast: Forecast, rows: Sequence[Node]) -> np.ndarray:
    """Return the metrics of the first rows less what is forecast without each, (some,)."""
    means, deviations = (part[:JUDGED_ROWS] for part in surrogate.left_out())
    forecasts, _ = forecast.metrics(means, deviations)
    metrics = np.array([node.score.metric for node in rows[:JUDGED_ROWS]])
    return np.asarray(metrics - forecasts[: len(rows)])
