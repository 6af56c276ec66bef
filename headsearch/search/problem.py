"""What is searched, and what answers the search's questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headsearch.heads import HeadMap, HeadSet
from headsearch.task.metric import Objective, Score


class Oracle(Protocol):
    """Answers what models would say. The search asks and takes answers in the order it asked."""

    def outputs(self, parent: HeadSet, children: Sequence[HeadSet]) -> list[np.ndarray]:
        """Return the outputs of each child, (examples, classes) float32.

        Args:
            parent: a state that differs little from the children; a hint that saves arithmetic.
            children: distinct states that were not asked for before.
        """
        ...

    def gradients(self, state: HeadSet) -> np.ndarray:
        """Return d outputs / d gates, (examples, classes, heads); 0 for removed heads."""
        ...


@dataclass(frozen=True)
class Problem:
    """Remove as many heads as possible while the metric stays within the budget."""

    shape: HeadMap
    objective: Objective
    max_drop: float


@dataclass(frozen=True)
class Node:
    """A scored state.

    Attributes:
        heads: the removed heads.
        outputs: (examples, classes) float32.
        score: its metric and loss.
        feasible: whether the metric meets the threshold.
    """

    heads: HeadSet
    outputs: np.ndarray
    score: Score
    feasible: bool

    @property
    def weight(self) -> int:
        """g: how many heads are removed."""
        return len(self.heads)

    @property
    def rank(self) -> tuple[int, float, int]:
        """Smaller is better: more heads removed, then lower loss, then the smaller bitset."""
        return (-self.weight, self.score.loss, self.heads.bits)
