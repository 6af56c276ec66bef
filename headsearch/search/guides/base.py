"""The protocol of guides: from what was measured at a state, a path of heads to remove next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np

from headsearch.search.forks import when_forked
from headsearch.search.problem import Node, Problem
from headsearch.task.metric import Objective, Threshold, finite_rows, over_classes

# A prediction is looked at first on one example in so many, those that are closest to a wrong
# answer: where too many of them are wrong, the others need not be looked at.
CLOSEST = 8
# Paths that are looked for at the same time.
MOST_AT_ONCE = 8


@dataclass(frozen=True)
class View:
    """What is known at a state when a guide is asked.

    Attributes:
        problem: what is searched.
        threshold: the least metric allowed.
        node: the state.
        heads: the heads still there, (remaining,) ascending indices.
        effects: outputs(S + {j}) - outputs(S) for each of them, (remaining, examples, classes)
            float32; measured, or minus the gradient by the gate.
    """

    problem: Problem
    threshold: Threshold
    node: Node
    heads: np.ndarray
    effects: np.ndarray

    @cached_property
    def loss_gradients(self) -> np.ndarray:
        """d loss / d gate of every example, (remaining, examples) float32; of broken ones 0."""
        outputs = self.node.outputs
        slopes = self.problem.objective.slopes(outputs)  # (examples, classes)
        slopes = np.where(finite_rows(outputs)[:, None], slopes, 0.0)
        slopes32 = slopes.astype(np.float32)
        return np.asarray(-np.einsum("jec,ec->je", self.effects, slopes32))

    @cached_property
    def moves(self) -> np.ndarray:
        """Effects without what moves all classes together, which changes nothing.

        (remaining, examples * classes) float32.
        """
        moved = self.effects
        if moved.shape[2] > 1:
            with np.errstate(invalid="ignore"):  # of heads that break an example
                mean = over_classes(np.add, moved) / np.float32(moved.shape[2])
                moved = moved - mean[..., None]
        return np.asarray(moved.reshape(len(self.heads), -1))

    @cached_property
    def squared_moves(self) -> np.ndarray:
        """The moves' squares, of their shape."""
        return np.asarray(np.square(self.moves))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Mean absolute effect of each remaining head, (remaining,) float64."""
        return np.asarray(np.abs(self.effects).mean(axis=(1, 2), dtype=np.float64))

    @cached_property
    def closest(self) -> np.ndarray:
        """One example in `CLOSEST`, those closest to a wrong answer; only if there are margins."""
        return self.problem.objective.closest(self.node.outputs, len(self.node.outputs) // CLOSEST)

    @cached_property
    def worths(self) -> np.ndarray:
        """What each remaining head is worth, (remaining,) float64; 1.0 if heads are counted."""
        return np.asarray(self.problem.weight.worths(self.problem.shape)[self.heads])

    @cached_property
    def layers(self) -> np.ndarray:
        """The layer of each remaining head, (remaining,)."""
        return np.array([self.problem.shape.position(int(j))[0] for j in self.heads])


@dataclass(frozen=True)
class Path:
    """A guide's proposal.

    Attributes:
        heads: head indices in the order in which to remove them.
        reach: h: how many of them the guide expects to be removable within the budget; None where
            it expects no feasible state, not even this one.
    """

    heads: tuple[int, ...]
    reach: int | None


class Guide(Protocol):
    """Orders the frontier and proposes paths. Never proves anything.

    Guides are asked in threads, several at the same time: `path` must not change anything.
    """

    @property
    def name(self) -> str:
        """What the guide is called in transcripts."""
        ...

    def path(self, view: View) -> Path:
        """Return the path from a state and how far along it the budget is expected to last."""
        ...


class Ladder:
    """Predicted answers along a path: outputs + the sum of the effects of the heads removed.

    Args:
        view: effects come from here.
        path: head indices, all remaining in the view.
    """

    def __init__(self, view: View, path: tuple[int, ...]) -> None:
        self._objective = objective = view.problem.objective
        self._length = len(path)
        self._effects, self._places = view.effects, np.searchsorted(view.heads, path)
        self._closest: np.ndarray | None = None
        if objective.has_margins and path:
            self._closest = view.closest
            some = self._effects[self._places[:, None], self._closest]
            labels = objective.labels[self._closest]
            self._sums_there = objective.margins(np.cumsum(some, axis=0, dtype=np.float64), labels)
            self._least_there = np.ascontiguousarray(objective.least[:, self._closest])

    @cached_property
    def _sums(self) -> np.ndarray:
        """(path, examples, classes) or, for accuracy, margins (path, classes, examples)."""
        sums = np.cumsum(self._effects[self._places], axis=0, dtype=np.float64)
        return self._objective.margins(sums) if self._objective.has_margins else sums

    def reach(self, start: np.ndarray, threshold: Threshold, above: int = -1) -> int | None:
        """Return the longest prefix whose predicted metric meets the threshold, or None.

        Args:
            start: outputs to start from, (examples, classes); for accuracy their margins,
                (classes, examples).
            threshold: what is to be met.
            above: only prefixes that are longer than this are of interest.
        """
        there = None if self._closest is None else start[:, self._closest]
        for length in range(self._length, above, -1):
            if length and there is not None:
                some = there + self._sums_there[length - 1]
                if not self._objective.can_meet(some, threshold, self._least_there):
                    continue
            if self._objective.meets(
                start + self._sums[length - 1] if length else start, threshold
            ):
                return length
        return None


def furthest(
    ladders: Iterable[tuple[Ladder, Sequence[int]]],
    outputs: np.ndarray,
    threshold: Threshold,
    objective: Objective,
) -> int | None:
    """Return the most that a prefix saves which is predicted to be feasible from given outputs.

    Args:
        ladders: paths, and for each what 0, 1, 2, … of its heads save, never falling.
        outputs: where they start from, (examples, classes).
        threshold: what is to be met.
        objective: by which metric.
    """
    start = outputs.astype(np.float64)
    if objective.has_margins:
        start = objective.margins(start)
    best: int | None = None
    for ladder, gains in ladders:
        above = -1 if best is None else bisect_right(gains, best) - 1
        found = ladder.reach(start, threshold, above)
        best = best if found is None else gains[found]
    return best


def predicted_reach(
    view: View, path: tuple[int, ...], start: np.ndarray | None = None
) -> int | None:
    """Return the longest prefix of a path whose predicted metric meets the threshold, or None.

    The prediction is linear: outputs + the sum of the effects of the heads removed.

    Args:
        view: effects come from here.
        path: head indices, all remaining in the view.
        start: outputs to start from, (examples, classes); the view's own state by default.
    """
    base = view.node.outputs if start is None else start
    lengths = range(len(path) + 1)
    return furthest([(Ladder(view, path), lengths)], base, view.threshold, view.problem.objective)


def paths_of(asked: Sequence[tuple[Guide, View]]) -> list[Path]:
    """Return each guide's path from a view; NumPy leaves Python's lock to the others meanwhile."""
    return list(_pool().map(lambda pair: pair[0].path(pair[1]), asked))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_AT_ONCE)


when_forked(_pool.cache_clear)
