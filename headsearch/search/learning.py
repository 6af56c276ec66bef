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
# By so many rows, those nearest to the best state, it is judged how far off forecasts are: what is
# looked for as the largest of many forecasts is less than that, and the chance that an answer is
# right among several classes is less than that it is ahead of each. Of correlations and perplexity
# this says too how much forecasts vary, as that does not follow from the outputs' deviations.
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
        ledger, whole = self._ledger, self._whole()
        proposer = self._proposer(whole)
        if proposer is None:
            return []

        def largest(weight: int) -> float:
            nodes = (node for node in ledger.known.values() if node.whole)
            return max(node.score.metric for node in nodes if node.weight >= weight)

        return proposer.propose(self._starts(whole), ledger.best, ledger.known, largest)

    def between(
        self, points: Sequence[Node], levels: Sequence[int], by_loss: bool = False
    ) -> list[Proposal]:
        """Return a state for each level of what is saved, with as large a metric as may be.

        Args:
            points: operating points, most saved first.
            levels: see `Proposer.between`.
            by_loss: with as low a loss instead.
        """
        proposer = self._proposer(self._whole(), by_loss)
        if proposer is None:
            return []
        ascending = [node.heads for node in reversed(points)]
        return proposer.between(ascending, levels, self._ledger.known)

    def _whole(self) -> list[Node]:
        """Return what is known of states to the end, but of the full model."""
        nodes = (node for node in self._ledger.known.values() if node.whole and node.heads.bits)
        return [node for node in nodes if np.isfinite(node.outputs).all()]

    def _proposer(self, whole: Sequence[Node], by_loss: bool = False) -> Proposer | None:
        """Fit all that is known; None: that is not enough."""
        ledger = self._ledger
        if not whole or not self._root_known():
            return None
        rows = self._nearest(whole, MEASURED_ROWS)
        forecast = Forecast(ledger.problem.objective, ledger.baseline, rows)
        given_up = self._nearest(
            (ledger.known[state] for state in ledger.examples if not ledger.is_whole(state)),
            GIVEN_UP_ROWS,
        )
        evidence = self._evidence(forecast, rows, given_up)
        surrogate = Surrogate(self._weights(forecast), evidence)
        errors = self._errors(surrogate, forecast, rows, given_up)
        if ledger.problem.objective.metric in CLASSIFICATION:
            usual, off = float(np.median(errors)), 0.0
        else:
            usual, off = float(errors.mean()), max(LEAST_OFF, float(errors.std()))
        threshold = ledger.threshold.value - usual
        return Proposer(surrogate, forecast, ledger.problem, threshold, off, by_loss)

    def _nearest(self, nodes: Iterable[Node], count: int) -> list[Node]:
        """Return the nodes that differ least from the best state, nearest first."""
        return sorted(nodes, key=self._distance)[:count]

    def _distance(self, node: Node) -> tuple[int, tuple[int, float, int]]:
        return len(node.heads ^ self._ledger.best.heads), node.rank

    def _root_known(self) -> bool:
        """Whether it is known what each head does to the full model."""
        ledger, total = self._ledger, self._ledger.problem.shape.total
        singles = all(HeadSet.of([head]) in ledger.known for head in range(total))
        return HeadSet() in ledger.slopes or singles

    def _weights(self, forecast: Forecast) -> np.ndarray:
        """Return how much each head moves the columns: by gradients, else by single removals.

        Of removals that were given up, in the examples that were scored; of those that break
        examples, in the others: one infinite weight would leave none to all other heads.
        """
        ledger, total = self._ledger, self._ledger.problem.shape.total
        if HeadSet() in ledger.slopes:
            effects = self._slopes_of(forecast, HeadSet())
        else:
            singles = [ledger.effect(ledger.baseline, head) for head in range(total)]
            with np.errstate(invalid="ignore"):  # inf - inf is nan, and that is not finite
                effects = forecast.columns(np.stack(singles))
            effects = np.where(np.isfinite(effects), effects, 0.0)
        return np.asarray(np.square(effects).mean(axis=1))

    def _slopes_of(self, forecast: Forecast, state: HeadSet) -> np.ndarray:
        """Return the columns' derivatives by the gates, (heads, columns)."""
        return forecast.columns(self._ledger.slopes[state].transpose(2, 0, 1))

    def _evidence(
        self, forecast: Forecast, rows: Sequence[Node], given_up: Sequence[Node]
    ) -> Evidence:
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
        for node in given_up:
            removed.append(indicators(node.heads, total))
            known = forecast.columns_of(node.outputs, ledger.examples[node.heads])
            changes.append(known - forecast.base)
            measured.append(True)
        return Evidence(np.array(removed), np.array(changes), np.array(measured))

    def _errors(
        self,
        surrogate: Surrogate,
        forecast: Forecast,
        rows: Sequence[Node],
        given_up: Sequence[Node],
    ) -> np.ndarray:
        """Return the metrics of what is nearest to the best state less what is forecast, (some,).

        Each is forecast without its own outputs. Of what was given up it is told by the examples
        that were scored: without these only the lucky would be left.
        """
        ledger, objective = self._ledger, self._ledger.problem.objective
        means, deviations = surrogate.left_out()
        judged = rows[:JUDGED_ROWS]
        forecasts, _ = forecast.metrics(means[: len(judged)], deviations[: len(judged)])
        errors = [
            (node, node.score.metric - float(expected))
            for node, expected in zip(judged, forecasts, strict=True)
        ]
        for place, node in enumerate(given_up[:JUDGED_ROWS], len(rows)):
            examples = ledger.examples[node.heads]
            expected = forecast.right(means[place], deviations[place], examples)
            right = objective.right_of(node.outputs, examples)
            errors.append((node, (right - expected) / len(objective.labels)))
        nearest = sorted(errors, key=lambda each: self._distance(each[0]))[:JUDGED_ROWS]
        return np.array([error for _, error in nearest])

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
