"""A model of what a HeadSet's outputs will be, fitted to all that is known: a Gaussian process.

Outputs are modelled as changes from the full model's, each column (an example's output or margin)
as an independent draw with the same kernel over HeadSets and a scale of its own. With a_j a head's
weight, sum_j a_j = 1, and u(S, S') = the sum of a_j over the heads removed in both, the kernel is

    k(S, S') = (exp(b u) - 1) / (exp(b) - 1).

Its expansion in powers of u is a sum over all products of heads' indicators: the first term is the
linear model, each further one adds interactions of one more head, and b says how much they matter.
k(full model, .) is 0: no change where nothing is removed. Predictions are those of kriging
(Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 2.25 and 2.26),
and b and the noise are chosen by the leave-one-out predictive density (5.10 to 5.12).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg
from threadpoolctl import ThreadpoolController

from headsearch.heads import HeadSet
from headsearch.search.forks import when_forked

BENDS = (0.5, 1.0, 2.0, 4.0)
NOISES = (1e-4, 1e-3, 1e-2)
# What the noise of rows is multiplied by that gradients predict, and nobody has measured.
EXTRAPOLATED = 5.0
# Part of the heads' mean weight that is added to each weight: no head is taken to do nothing.
LEAST_WEIGHT = 0.5
LEAST_SCALE = 1e-12
# b and noise are chosen by about so many columns.
JUDGED = 256


class Evidence(NamedTuple):
    """What is known of outputs.

    Attributes:
        removed: which heads are removed, (rows, heads), 0 or 1.
        changes: of each column from the full model, (rows, columns); NaN where it is not known.
        measured: whether a row was measured, not extrapolated, (rows,).
    """

    removed: np.ndarray
    changes: np.ndarray
    measured: np.ndarray


class Surrogate:
    """Predicts changes of outputs.

    All arithmetic is float64 on one thread: more threads would add up in another order.

    Args:
        weights: how much each head moves the outputs, (heads,), for instance the mean squares of
            its gradients; only their proportions matter.
        evidence: at least one row with a head removed.

    Attributes:
        bend: the b that was chosen.
        noise: the noise that was chosen, relative to a column's scale.
    """

    def __init__(self, weights: np.ndarray, evidence: Evidence) -> None:
        known = np.isfinite(evidence.changes)
        whole = known.all(axis=1)
        if not whole.all():
            # Gaps are filled with what is predicted without these rows, which changes no other
            # prediction's mean.
            first = Surrogate(weights, Evidence(*(part[whole] for part in evidence)))
            means, _ = first.predict(evidence.removed[~whole])
            filled = evidence.changes.copy()
            filled[~whole] = np.where(known[~whole], filled[~whole], means)
            evidence = evidence._replace(changes=filled)
        raised = weights + LEAST_WEIGHT * weights.mean()
        total = float(raised.sum())
        self._weights = raised / total if total > 0 else np.full(len(raised), 1 / len(raised))
        self._removed = evidence.removed.astype(np.float64)
        self._measured = evidence.measured
        self._changes = evidence.changes
        noise = np.diag(np.where(evidence.measured, 1.0, EXTRAPOLATED))
        step = -(-evidence.changes.shape[1] // JUDGED)
        some = np.ascontiguousarray(evidence.changes[:, ::step])
        with one_thread():
            common = (self._removed * self._weights) @ self._removed.T
            tried = [
                (self._density(_inverse(_kernel(common, bend) + level * noise), some), bend, level)
                for bend in BENDS
                for level in NOISES
            ]
            _, self.bend, self.noise = max(tried, key=lambda each: each[0])
            self._inverse = _inverse(_kernel(common, self.bend) + self.noise * noise)
            self._answer, self._scales = _solve(self._inverse, evidence.changes)

    def predict(self, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted changes and their standard deviations, (states, columns) each.

        Args:
            removed: the states, (states, heads), 0 or 1.
        """
        with one_thread():
            return self.predict_here(removed)

    def predict_here(self, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for a caller that is within `one_thread` already, maybe in several threads."""
        removed = removed.astype(np.float64, copy=False)
        kernel = _kernel((removed * self._weights) @ self._removed.T, self.bend)
        mean = kernel @ self._answer
        explained = np.einsum("sr,sr->s", kernel @ self._inverse, kernel)
        alone = _kernel(removed @ self._weights, self.bend)
        return mean, _deviations(np.maximum(alone - explained, 0.0), self._scales)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what each measured row would have been predicted without it, as `predict`."""
        off, spread = self._off(self._inverse, self._answer)
        return self._changes[self._measured] - off, _deviations(spread, self._scales)

    def _density(self, inverse: np.ndarray, changes: np.ndarray) -> float:
        """Return the log density of every measured row given all others."""
        answer, scales = _solve(inverse, changes)
        off, spread = self._off(inverse, answer)
        variance = spread[:, None] * scales
        return -0.5 * float(np.sum(np.log(variance) + off**2 / variance))

    def _off(self, inverse: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much each measured row is off what all others say of it, and its spread."""
        spread = 1.0 / np.diag(inverse)[self._measured]
        return answer[self._measured] * spread[:, None], spread


def indicators(state: HeadSet, heads: int) -> np.ndarray:
    """Return 1 for each head that is removed, 0 for the others, (heads,)."""
    row = np.zeros(heads)
    row[list(state)] = 1.0
    return row


@lru_cache
def _threads() -> Any:
    return ThreadpoolController()  # looks for libraries, which takes milliseconds


_turns = [RLock()]


def _renew() -> None:
    _turns[:] = [RLock()]


when_forked(_renew)  # no thread has a turn there


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which BLAS adds up in one order, whatever the machine's number of cores.

    That is a setting of the whole process: searches in several threads take turns, or the first to
    leave would give BLAS its threads back while others compute, and the last take them for good.
    """
    with _turns[0], _threads().limit(limits=1, user_api="blas"):
        yield


def _kernel(common: np.ndarray, bend: float) -> np.ndarray:
    return np.asarray(np.expm1(bend * common) / math.expm1(bend))


def _inverse(matrix: np.ndarray) -> np.ndarray:
    factor = linalg.cho_factor(matrix, lower=True, check_finite=False)
    return np.asarray(linalg.cho_solve(factor, np.eye(len(matrix)), check_finite=False))


def _solve(inverse: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return K^-1 Y, and the likeliest variance of each column, Y' K^-1 Y / rows."""
    answer = inverse @ changes
    scales = np.einsum("rc,rc->c", changes, answer) / len(changes)
    return answer, np.maximum(scales, LEAST_SCALE)


def _deviations(spread: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(spread)[:, None] * np.sqrt(scales))
