"""Moves that remove and restore heads, chosen by a model of all outputs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

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
# Of the swaps that are looked at together, so many of the best are worth proposing.
NEAR = 4
# Proposals of a round differ in so many heads.
APART = 4
# Proposals that lead further with less chance make room for those that lead sideways.
LEAST_CHANCE = 0.02
# So many heads below the best state a proposal may be that is expected to have a larger metric.
ASIDE = 1


@dataclass(frozen=True)
class Proposal:
    """A state that is worth scoring.

    Attributes:
        start: the known state that it was found from.
        state: what is proposed.
        chance: that it meets the threshold.
        gain: heads beyond the best state times chance.
        rise: for those not beyond it, by how many standard deviations the metric is expected to be
            above the largest that is known of as many heads or more.
    """

    start: HeadSet
    state: HeadSet
    chance: float
    gain: float
    rise: float = 0.0


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
        self,
        starts: Sequence[HeadSet],
        best: int,
        known: Container[HeadSet],
        largest: Callable[[int], float],
    ) -> list[Proposal]:
        """Return proposals: those that lead further, and between them some that lead sideways.

        The first have more heads removed than the best state, the likeliest gain first. Where
        there is little hope of that, others with as many heads removed and a larger metric may be
        a better place to go on from.

        Args:
            starts: where to begin.
            best: how many heads are removed by the best state.
            known: states not to propose.
            largest: known metric where at least so many heads are removed.
        """
        found: dict[HeadSet, Proposal] = {}
        for start in starts:
            row = indicators(start, self._heads)
            for weight in range(len(start), min(best + FURTHER, self._heads) + 1):
                if weight > len(start):
                    row = self._step(row)
                if weight < best - ASIDE:
                    continue
                for state, mean, spread in self._swapped(row):
                    heads = HeadSet.of(int(j) for j in np.flatnonzero(state))
                    if heads in known or heads in found:
                        continue
                    chance = float(special.ndtr((mean - self._threshold) / spread))
                    gain, rise = (weight - best) * chance, 0.0
                    if weight <= best:
                        gain, rise = 0.0, (mean - largest(weight)) / spread
                    found[heads] = Proposal(start, heads, chance, gain, rise)
        further = sorted(
            (p for p in found.values() if len(p.state) > best),
            key=lambda p: (-p.gain, p.state.bits),
        )
        aside = sorted(
            (p for p in found.values() if len(p.state) <= best),
            key=lambda p: (-p.rise, p.state.bits),
        )
        hopeless = iter(
            sorted(
                (p for p in further if p.chance < LEAST_CHANCE),
                key=lambda p: (-p.chance, p.state.bits),
            )
        )
        mixed = [p for p in further if p.chance >= LEAST_CHANCE]
        for proposal in aside:
            mixed.append(proposal)
            mixed.extend(islice(hopeless, 1))
        return spread_out([*mixed, *hopeless])

    def _value(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return expected metrics and their standard deviations, (rows,) each."""
        means, spreads = self._forecast.metrics(*self._surrogate.predict(rows))
        return means, np.hypot(spreads, self._off)

    def _step(self, row: np.ndarray) -> np.ndarray:
        """Remove the head after which the metric is expected to be largest."""
        rows = _flipped(row, np.flatnonzero(row == 0))
        return np.asarray(rows[int(np.argmax(self._value(rows)[0]))])

    def _swapped(self, row: np.ndarray) -> list[tuple[np.ndarray, float, float]]:
        """Improve a state by swaps; return it and the best of those that were looked at."""
        (mean,), (spread,) = self._value(row[None])
        way = [(row, float(mean), float(spread))]
        for _ in range(SWAPS):
            out, back = np.flatnonzero(row == 0), np.flatnonzero(row)
            if not len(out) or not len(back):
                break
            add = out[np.argsort(-self._value(_flipped(row, out))[0], kind="stable")[:PAIRED]]
            put = back[np.argsort(-self._value(_flipped(row, back))[0], kind="stable")[:PAIRED]]
            rows = np.concatenate([_flipped(each, add) for each in _flipped(row, put)])
            means, spreads = self._value(rows)
            order = np.argsort(-means, kind="stable")[:NEAR]
            way += [(rows[at], float(means[at]), float(spreads[at])) for at in order]
            if means[order[0]] <= mean:
                break
            row, mean = rows[order[0]], means[order[0]]
        return way


def spread_out(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Return the same in order, but those much like an earlier one last: they would fail alike."""
    chosen: list[Proposal] = []
    alike: list[Proposal] = []
    for proposal in proposals:
        near = any(len(proposal.state ^ other.state) < APART for other in chosen)
        (alike if near else chosen).append(proposal)
    return chosen + alike


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
