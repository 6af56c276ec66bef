"""What is known of a search, as evidence for a surrogate, and what the surrogate proposes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.forecast import Forecast
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node
from headsearch.search.proposals import Proposal, Proposer
from headsearch.search.surrogate import Evidence, Surrogate

# Most measured rows, and most that gradients extrapolate, in one fit: it is cubic in them.
MEASURED_ROWS = 600
EXTRAPOLATED_ROWS = 432
# Most rows of states that were given up.
GIVEN_UP_ROWS = 200
# Measured states whose gradients are used.
SLOPES = 6
# Starts are at most so many heads below the best state.
BELOW = 6


class Learner:
    """Fits a surrogate to a ledger and asks it for proposals."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def proposals(self) -> list[Proposal]:
        """Return states that are worth scoring, the most promising first."""
        ledger = self._ledger
        whole = [
            n
            for n in ledger.known.values()
            if n.whole and n.weight and np.isfinite(n.outputs).all()
        ]
        if not whole or not ledger.slopes:
            return []
        total = ledger.problem.shape.total
        near = sorted(whole, key=lambda n: (len(n.heads ^ ledger.best.heads), n.rank))
        rows = near[:MEASURED_ROWS]
        forecast = Forecast(ledger.problem.objective, ledger.baseline, rows)
        surrogate = Surrogate(self._weights(forecast), self._evidence(forecast, rows))
        proposer = Proposer(surrogate, forecast, ledger.threshold.value, total)
        return proposer.propose(self._starts(whole), ledger.best.weight, ledger.known)

    def _weights(self, forecast: Forecast) -> np.ndarray:
        slopes = self._slopes_of(forecast, HeadSet())
        return np.asarray(np.square(slopes).mean(axis=1))

    def _slopes_of(self, forecast: Forecast, state: HeadSet) -> np.ndarray:
        """Return the columns' derivatives by the gates, (heads, columns)."""
        return forecast.columns(self._ledger.slopes[state].transpose(2, 0, 1))

    def _evidence(self, forecast: Forecast, rows: Sequence[Node]) -> Evidence:
        ledger = self._ledger
        total = ledger.problem.shape.total
        removed, changes, measured = [], [], []
        for node in rows:
            removed.append(_indicators(node.heads, total))
            changes.append(forecast.columns(node.outputs) - forecast.base)
            measured.append(True)
        sloped = [ledger.known[state] for state in ledger.slopes if ledger.known[state].whole]
        sloped.sort(key=lambda n: (len(n.heads ^ ledger.best.heads), n.rank))
        for node in sloped[: max(1, min(SLOPES, EXTRAPOLATED_ROWS // total))]:
            slopes = self._slopes_of(forecast, node.heads)
            change = forecast.columns(node.outputs) - forecast.base
            for head in range(total):
                if head in node.heads or ledger.is_whole(node.heads.add(head)):
                    continue
                removed.append(_indicators(node.heads.add(head), total))
                changes.append(change - slopes[head])
                measured.append(False)
        given_up = [ledger.known[state] for state in ledger.examples if not ledger.is_whole(state)]
        given_up.sort(key=lambda n: (len(n.heads ^ ledger.best.heads), n.rank))
        for node in given_up[:GIVEN_UP_ROWS]:
            removed.append(_indicators(node.heads, total))
            known = forecast.columns_of(node.outputs, ledger.examples[node.heads])
            changes.append(known - forecast.base)
            measured.append(True)
        return Evidence(np.array(removed), np.array(changes), np.array(measured))

    def _starts(self, whole: Sequence[Node]) -> list[HeadSet]:
        best = self._ledger.best
        near = [n for n in whole if n.weight >= best.weight - BELOW]
        feasible = sorted((n for n in near if n.feasible), key=lambda n: n.rank)
        by_loss = sorted(near, key=lambda n: (n.score.loss, n.rank))
        above = [n for n in near if n.weight > best.weight]
        above.sort(key=lambda n: (-n.score.metric, n.rank))
        chosen = [best, *feasible[:2], *by_loss[:2], *above[:2]]
        return list(dict.fromkeys(node.heads for node in chosen))


def _indicators(state: HeadSet, total: int) -> np.ndarray:
    row = np.zeros(total)
    row[list(state)] = 1.0
    return row
