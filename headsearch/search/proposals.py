"""Moves that remove and restore heads, chosen by a model of all outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from scipy import special

from headsearch.heads import HeadSet
from headsearch.search.forecast import Forecast
from headsearch.search.forks import when_forked
from headsearch.search.problem import Node, Problem
from headsearch.search.surrogate import Surrogate, indicators, one_thread
from headsearch.search.weight import by_worth

# Heads that a move may add to the best state's number.
FURTHER = 8
# Of the removals and the restorings that look best one by one, so many are tried together.
PAIRED = 12
SWAPS = 6
# Of the swaps that are looked at together, so many of the best are worth proposing.
NEAR = 4
# States that are valued together.
TOGETHER = 64
# More threads than that have nothing to do.
MOST_THREADS = 8
# Proposals of a round differ in so many heads.
APART = 4
# Proposals that lead further with less chance make room for those that lead sideways.
LEAST_CHANCE = 0.02
# Where the likeliest state has less chance, none is looked for that saves more still.
FORLORN = 1e-3
# So many heads' worth less a proposal may save than the best state where its metric is expected to
# be larger.
ASIDE = 1


@dataclass(frozen=True)
class Proposal:
    """A state that is worth scoring.

    Attributes:
        start: the known state that it was found from.
        state: what is proposed.
        weight: what it saves.
        chance: that it meets the threshold.
        gain: what it saves beyond the best state times chance.
        rise: for those not beyond it, by how many standard deviations the metric is expected to be
            above the largest that is known where as much is saved.
    """

    start: HeadSet
    state: HeadSet
    weight: int
    chance: float
    gain: float
    rise: float = 0.0


class Proposer:
    """Looks for states that save much and are likely to be feasible.

    Args:
        surrogate: what predicts outputs.
        forecast: what is made of them.
        problem: the heads, and what they save.
        threshold: the least metric that is allowed, as the forecast sees it.
        off: by how much any forecast may be off, beside what it says itself.
        by_loss: whether states are valued by their expected loss, not by their metric.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        forecast: Forecast,
        problem: Problem,
        threshold: float,
        off: float = 0.0,
        by_loss: bool = False,
    ) -> None:
        self._surrogate, self._forecast = surrogate, forecast
        self._problem, self._heads = problem, problem.shape.total
        self._threshold, self._off, self._by_loss = threshold, off, by_loss
        self._worths = problem.weight.worths(problem.shape)
        self._valued: dict[bytes, tuple[float, float]] = {}  # by which heads are removed

    def propose(
        self,
        starts: Sequence[HeadSet],
        best: Node,
        known: Container[HeadSet],
        largest: Callable[[int], float],
    ) -> list[Proposal]:
        """Return proposals: those that lead further, and between them some that lead sideways.

        The first save more than the best state, the likeliest gain first. Where there is little
        hope of that, others that save as much and have a larger metric may be a better place to go
        on from.

        Args:
            starts: where to begin.
            best: the best state.
            known: states not to propose.
            largest: known metric where at least so much is saved.
        """
        found: dict[HeadSet, Proposal] = {}
        for start in starts:
            for state, mean, spread in self._around(start, best):
                heads = _heads_of(state)
                if heads in known or heads in found:
                    continue
                weight = self._weigh(state)
                chance = self._chance(mean, spread)
                gain, rise = (weight - best.weight) * chance, 0.0
                if weight <= best.weight:
                    gain, rise = 0.0, (mean - largest(weight)) / spread
                found[heads] = Proposal(start, heads, weight, chance, gain, rise)
        further = sorted(
            (p for p in found.values() if p.weight > best.weight),
            key=lambda p: (-p.gain, p.state.bits),
        )
        aside = sorted(
            (p for p in found.values() if p.weight <= best.weight),
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

    def between(
        self, points: Sequence[HeadSet], levels: Sequence[int], known: Container[HeadSet]
    ) -> list[Proposal]:
        """Return for each level the state that saves as much and should have the largest metric.

        Each is looked for from the full model on, and from the last of the points before it.

        Args:
            points: known states, those that save less first.
            levels: how much is to be saved, ascending.
            known: states not to propose.
        """
        found: dict[HeadSet, Proposal] = {}
        reached = {start: indicators(start, self._heads) for start in (HeadSet(), *points)}
        for level in levels:
            before = [point for point in points if self._weigh(reached[point]) < level]
            tried = list[tuple[float, Proposal]]()
            for start in dict.fromkeys((HeadSet(), *before[-1:])):
                reached[start] = self._up_to(level, reached[start])
                for state, mean, spread in self._swapped(reached[start]):
                    heads = _heads_of(state)
                    if heads not in known and heads not in found:
                        weight, chance = self._weigh(state), self._chance(mean, spread)
                        tried.append((mean, Proposal(start, heads, weight, chance, 0.0)))
            if tried:
                _, largest = max(tried, key=lambda each: each[0])
                found[largest.state] = largest
        return list(found.values())

    def _up_to(self, level: int, row: np.ndarray) -> np.ndarray:
        """Remove heads from a state until it saves so much."""
        while self._weigh(row) < level and not row.all():
            row = self._step(row)
        return row

    def _around(self, start: HeadSet, best: Node) -> Iterator[tuple[np.ndarray, float, float]]:
        """Yield states that may be reached from a start, with expected metric and its spread."""
        least = best.weight - ASIDE * self._problem.weight.step
        row = indicators(start, self._heads)
        if not self._problem.weight.counts_heads:
            for emptied in self._emptied(row, best.weight):
                (mean,), (spread,) = self._value(emptied[None])
                yield emptied, float(mean), float(spread)
        for count in range(len(start), min(len(best.heads) + FURTHER, self._heads) + 1):
            if count > len(start):
                row = self._step(row)
            if self._weigh(row) >= least:
                way = self._swapped(row)
                yield from way
                if self._weigh(row) > best.weight and self._likeliest(way) < FORLORN:
                    return

    def _likeliest(self, way: Sequence[tuple[np.ndarray, float, float]]) -> float:
        return max(self._chance(mean, spread) for _, mean, spread in way)

    def _chance(self, mean: float, spread: float) -> float:
        """Return the chance of a state to meet the threshold."""
        return float(special.ndtr((mean - self._threshold) / spread))

    def _emptied(self, row: np.ndarray, least: int) -> Iterator[np.ndarray]:
        """Yield states that lack one more whole layer, with ever more heads elsewhere put back.

        The last head of a layer may save more than all before it; what that buys is put back where
        it is expected to raise the metric most, as long as more than `least` is saved.
        """
        shape = self._problem.shape
        for layer, count in enumerate(shape.heads_per_layer):
            heads = np.arange(shape.start(layer), shape.start(layer) + count)
            if row[heads].all():
                continue
            state = row.copy()
            state[heads] = 1.0
            while self._weigh(state) > least:
                yield state
                back = np.setdiff1d(np.flatnonzero(state), heads)
                if not len(back):
                    break
                rows = _flipped(state, back)
                rises = self._value(rows)[0] - self._value(state[None])[0]
                state = rows[int(np.argmin(by_worth(-rises, 1.0 / self._worths[back])))]

    def _value(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return expected metrics and their standard deviations, (rows,) each.

        Different ways come to the same states, which are valued once. So many rows are at a time:
        as fits a cache, and whatever the number of threads, since what comes out may depend in the
        last bits on how many are computed at once.
        """
        keys = [packed.tobytes() for packed in np.packbits(rows != 0, axis=1)]
        places = {key: place for place, key in enumerate(keys) if key not in self._valued}
        new = rows[list(places.values())]
        parts = [new[start : start + TOGETHER] for start in range(0, len(new), TOGETHER)]
        with one_thread():
            found = list((_threads().map if len(parts) > 1 else map)(self._value_of, parts))
        pairs = (pair for means, spreads in found for pair in zip(means, spreads, strict=True))
        self._valued.update(zip(places, pairs, strict=True))
        means, spreads = zip(*(self._valued[key] for key in keys), strict=True)
        return np.array(means), np.array(spreads)

    def _value_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changes, deviations = self._surrogate.predict_here(rows)
        if self._by_loss:
            return -self._forecast.losses(changes), np.ones(len(rows))
        means, spreads = self._forecast.metrics(changes, deviations)
        return means, np.hypot(spreads, self._off)

    def _weigh(self, row: np.ndarray) -> int:
        """Return what a state saves."""
        return int(self._problem.weight.of_rows(self._problem.shape, row[None])[0])

    def _step(self, row: np.ndarray) -> np.ndarray:
        """Remove the head that is expected to cost the metric least, per what it is worth."""
        left = np.flatnonzero(row == 0)
        rows = _flipped(row, left)
        means, now = self._value(rows)[0], self._value(row[None])[0]
        return np.asarray(rows[int(np.argmin(by_worth(now - means, self._worths[left])))])

    def _swapped(self, row: np.ndarray) -> list[tuple[np.ndarray, float, float]]:
        """Improve a state by swaps that lose no weight; return it and the best of those seen."""
        (mean,), (spread,) = self._value(row[None])
        problem, weight = self._problem, self._weigh(row)
        way = [(row, float(mean), float(spread))]
        for _ in range(SWAPS):
            out, back = np.flatnonzero(row == 0), np.flatnonzero(row)
            if not len(out) or not len(back):
                break
            add = out[np.argsort(-self._value(_flipped(row, out))[0], kind="stable")[:PAIRED]]
            put = back[np.argsort(-self._value(_flipped(row, back))[0], kind="stable")[:PAIRED]]
            rows = np.concatenate([_flipped(each, add) for each in _flipped(row, put)])
            rows = rows[problem.weight.of_rows(problem.shape, rows) >= weight]
            if not len(rows):
                break
            means, spreads = self._value(rows)
            order = np.argsort(-means, kind="stable")[:NEAR]
            way += [(rows[at], float(means[at]), float(spreads[at])) for at in order]
            if means[order[0]] <= mean:
                break
            row, mean = rows[order[0]], means[order[0]]
        return way


@lru_cache
def _threads() -> ThreadPoolExecutor:
    """Threads for what numpy computes, which does so beside others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(min(cores or 1, MOST_THREADS), "headsearch thinks")


when_forked(_threads.cache_clear)


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


def _heads_of(row: np.ndarray) -> HeadSet:
    return HeadSet.of(int(j) for j in np.flatnonzero(row))


def _flipped(row: np.ndarray, places: np.ndarray) -> np.ndarray:
    rows = np.repeat(row[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = 1.0 - rows[np.arange(len(places)), places]
    return rows
