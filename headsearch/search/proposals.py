"""Moves that remove and restore heads, chosen by a model of all outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from headsearch.heads import HeadSet
from headsearch.search.forecast import Forecast
from headsearch.search.surrogate import Surrogate

# Heads that a move may add to the best state's number.
FURTHER = 8
# Of the removals and the restorings that look best one by one, so many are tried together.
PAIRED = 12
SWAPS = 6


@dataclass(frozen=True)
class Proposal:
    """A state that is worth scoring.

    Attributes:
        start: the known state that it was found from.
        state: what is proposed.
        chance: that it meets the threshold.
        gain: heads beyond the best state times chance.
    """

    start: HeadSet
    state: HeadSet
    chance: float
    gain: float


class Proposer:
    """Looks for states with many heads removed that are likely to be feasible."""

    def __init__(
        self, surrogate: Surrogate, forecast: Forecast, threshold: float, heads: int
    ) -> None:
        self._surrogate, self._forecast = surrogate, forecast
        self._threshold, self._heads = threshold, heads

    def propose(
        self, starts: Sequence[HeadSet], best: int, known: Iterable[HeadSet]
    ) -> list[Proposal]:
        """Return proposals, the largest gain first.

        Args:
            starts: where to begin.
            best: how many heads are removed by the best state.
            known: states not to propose.
        """
        known = set(known)
        found: dict[HeadSet, Proposal] = {}
        for start in starts:
            row = _row(start, self._heads)
            first = best + 1
            top = min(best + FURTHER, self._heads)
            while int(row.sum()) < top:
                row, _ = self._step(row)
                weight = int(row.sum())
                if weight < first:
                    continue
                for state, mean, spread in self._swapped(row):
                    heads = HeadSet.of(int(j) for j in np.flatnonzero(state))
                    if heads in known or heads in found:
                        continue
                    chance = float(special.ndtr((mean - self._threshold) / spread))
                    found[heads] = Proposal(start, heads, chance, (weight - best) * chance)
        return sorted(found.values(), key=lambda p: (-p.gain, p.state.bits))

    def _value(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._forecast.metrics(*self._surrogate.predict(rows))

    def _step(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        """Remove the head after which the metric is expected to be largest."""
        rows = _flipped(row, np.flatnonzero(row == 0))
        values = self._value(rows)[0]
        at = int(np.argmax(values))
        return rows[at], float(values[at])

    def _swapped(self, row: np.ndarray) -> list[tuple[np.ndarray, float, float]]:
        """Improve a state by swaps; return it and those on the way."""
        mean, spread = self._value(row[None])
        way = [(row, float(mean[0]), float(spread[0]))]
        for _ in range(SWAPS):
            out, back = np.flatnonzero(row == 0), np.flatnonzero(row)
            if not len(out) or not len(back):
                break
            add = out[np.argsort(-self._value(_flipped(row, out))[0], kind="stable")[:PAIRED]]
            put = back[np.argsort(-self._value(_flipped(row, back))[0], kind="stable")[:PAIRED]]
            rows = np.concatenate([_flipped(each, add) for each in _flipped(row, put)])
            means, spreads = self._value(rows)
            at = int(np.argmax(means))
            if means[at] <= way[-1][1]:
                break
            row = rows[at]
            way.append((row, float(means[at]), float(spreads[at])))
        return way


def by_start(proposals: Iterable[Proposal]) -> list[tuple[HeadSet, tuple[HeadSet, ...]]]:
    """Return each start with what was found from it."""
    found: dict[HeadSet, list[HeadSet]] = {}
    for proposal in proposals:
        found.setdefault(proposal.start, []).append(proposal.state)
    return [(start, tuple(states)) for start, states in found.items()]


def _row(state: HeadSet, heads: int) -> np.ndarray:
    row = np.zeros(heads)
    row[list(state)] = 1.0
    return row


def _flipped(row: np.ndarray, places: np.ndarray) -> np.ndarray:
    rows = np.repeat(row[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = 1.0 - rows[np.arange(len(places)), places]
    return rows
