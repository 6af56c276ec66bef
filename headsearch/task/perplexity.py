"""Perplexity of a language model, whose budget is a relative rise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headsearch.task.metric import Objective


@dataclass(frozen=True)
class Perplexity(Objective):
    """exp(mean surprise of a token). The metric is its negative: larger is better everywhere.

    Outputs are sums over a sequence's tokens of minus their log-likelihood, (examples, 1), labels
    how many tokens these are, (examples,). A sequence's loss is its surprise by the mean number of
    tokens, so that the mean loss is the surprise of a token.
    """

    def losses(self, outputs: np.ndarray) -> np.ndarray:
        """See `Objective.losses`."""
        surprise = outputs[..., 0].astype(np.float64, copy=False)
        return np.where(np.isfinite(surprise), surprise * self._scale, np.inf)

    def slopes(self, outputs: np.ndarray) -> np.ndarray:
        """See `Objective.slopes`."""
        return np.full(outputs.shape, self._scale)

    def derivatives(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Objective.derivatives`: the loss is linear."""
        slopes = np.where(np.isfinite(outputs), self._scale, 0.0).astype(np.float32)
        return slopes, np.zeros_like(slopes)

    def flaw(self, outputs: np.ndarray) -> str | None:
        """See `Objective.flaw`."""
        return None if math.isfinite(self._metric(outputs)) else "its perplexity is infinite"

    @property
    def _scale(self) -> float:
        return len(self.labels) / float(self.labels.sum())

    def _metric(self, outputs: np.ndarray) -> float:
        surprise = float(outputs[:, 0].astype(np.float64).sum() / self.labels.sum())
        # Beyond what a float holds it is as bad as can be, and so is what is not a number.
        return -math.exp(surprise) if surprise < 700 else -math.inf
