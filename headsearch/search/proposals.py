"""Moves that remove and restore heads, chosen by a model of all outputs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from headsearch.heads import HeadSet
from headsearch.search.forecast import Forecast
from headsearch.search.surrogate import Surrogate, indicators

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
    """Looks for states with many heads removed that are likely to be feasible.

    Args:
        surrogate: what predicts outputs.
        forecast: what is made of them.
        threshold: the least metric that is allowed, as the forecast sees it.
        heads: how many there are.
        off: by how much any forecast may be off, beside what it says itself.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        forecast: Forecast,
        threshold: float,
        heads: int,
        off: float = 0.0,
    ) -> None:
        self._surrogate, self._forecast = surrogate, forecast
        self._threshold, self._heads, self._off = threshold, heads, off

    def propose(
        self, starts: Sequence[HeadSet], best: int, known: Container[HeadSet]
    ) -> list[Proposal]:
        """Return proposals, the largest gain first.

        Args:
            starts: where to begin.
            best: how many heads are removed by the best state.
            known: states not to propose.
        """
        found: dict[HeadSet, Proposal] = {}
        for start in starts:
            row = indicators(start, self._heads)
            for weight in range(len(start) + 1, min(best + FURTHER, self._heads) + 1):
                row = self._step(row)
                if weight <= best:
                    continue
                for state, mean, spread in self._swapped(row):
                    heads = HeadSet.of(int(j) for j in np.flatnonzero(state))
                    if heads in known or heads in found:
                        continue
                    chance = float(special.ndtr((mean - self._threshold) / spread))
                    found[heads] = Proposal(start, heads, chance, (weight - best) * chance)
        return sorted(found.values(), key=lambda p: (-p.gain, p.state.bits))

    def _value(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return expected metrics and their standard deviations, (rows,) each."""
        means, spreads = self._forecast.metrics(*self._surrogate.predict(rows))
        return means, np.hypot(spreads, self._off)

    def _step(self, row: np.ndarray) -> np.ndarray:
        """Remove the head after which the metric is expected to be largest."""
        rows = _flipped(row, np.flatnonzero(row == 0))
        return np.asarray(rows[int(np.argmax(self._value(rows)[0]))])

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


def _flipped(row: np.ndarray, places: np.ndarray) -> np.ndarray:
    rows = np.repeat(row[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = 1.0 - rows[np.arange(len(places)), places]
    return rows
