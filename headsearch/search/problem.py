"""What is searched, and what answers the search's questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from headsearch.heads import HeadMap, HeadSet
from headsearch.search.weight import Weight
from headsearch.task.kinds import GRADIENTS, OUTPUTS
from headsearch.task.metric import Objective, Score

__all__ = ["GRADIENTS", "OUTPUTS", "Ask", "Node", "Oracle", "Order", "Problem"]


@dataclass(frozen=True)
class Order:
    """In which order examples are scored, where they are independent of each other.

    Attributes:
        examples: all of them, as places in the task's order, (examples,).
        ends: after how many of them there may be a decision; the last is their number.
    """

    examples: np.ndarray
    ends: tuple[int, ...]


Decide = Callable[[np.ndarray, np.ndarray], bool]


@dataclass(frozen=True)
class Ask:
    """A question to the oracle.

    Attributes:
        kind: `OUTPUTS`: of every state; `GRADIENTS`: of the states, which is the parent alone.
        parent: a state that differs little from the others; a hint that saves arithmetic.
        states: distinct states.
        decide: given a state's outputs of the first rounds, and which examples these are,
            whether it is worth going on. Where a state stops depends on its own outputs alone.
            None: all outputs are wanted.
        order: the rounds, if examples are not to be scored in the task's own.
    """

    kind: str
    parent: HeadSet
    states: tuple[HeadSet, ...]
    decide: Decide | None = None
    order: Order | None = None


Ready = Callable[[HeadSet, np.ndarray], None]


class Oracle(Protocol):
    """Answers what models would say. An answer is a function of its state alone."""

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        """Answer all questions; for each, an array for every state.

        Args:
            asks: no state is in two of them.
            ahead: what is likely to be asked next, likeliest first. Looked at only while workers
                would idle, and without effect on any answer.
            ready: may be called with a state and its answer while others are awaited, in any
                order, so that something can be made of it meanwhile.

        Returns:
            Outputs (examples, classes) float32 in the task's order, of fewer examples where
            `decide` said no; or
            d outputs / d gates (examples, classes, heads), 0 for removed heads.
        """
        ...


@dataclass(frozen=True)
class Problem:
    """Save as much as possible while the metric stays within the budget.

    Attributes:
        shape: the heads.
        objective: what is measured, on which labels.
        max_drop: the budget.
        hardest_first: whether states that may be given up are scored in the order of their
            parent's margins; if an example's outputs do not depend on those scored beside it.
        saves: what removing heads saves; None: every head counts the same.
        gradients: whether gradients cost less than scoring single removals, which tell the same.
    """

    shape: HeadMap
    objective: Objective
    max_drop: float
    hardest_first: bool = False
    saves: Weight | None = None
    gradients: bool = True

    @cached_property
    def weight(self) -> Weight:
        """w: what removing heads saves."""
        return self.saves or Weight.each(self.shape)

    def gains(self, start: HeadSet, path: Sequence[int]) -> list[int]:
        """Return what 0, 1, 2, … heads of a path save beyond its start."""
        return self.weight.gains(self.shape, start, path)


@dataclass(frozen=True)
class Node:
    """A scored state.

    Attributes:
        heads: the removed heads.
        weight: g: what removing them saves; as many as they are, by default.
        outputs: (examples, classes) float32; of a state that was given up, those of its rounds.
        score: its metric and loss; of a state that was given up, NaN and infinity: what was not
            computed is not known, and nothing may be made of a part of it.
        feasible: whether the metric meets the threshold.
        whole: whether all outputs are there.
    """

    heads: HeadSet
    weight: int
    outputs: np.ndarray
    score: Score
    feasible: bool
    whole: bool = True

    @property
    def rank(self) -> tuple[int, float, int]:
        """Smaller is better: more saved, then lower loss, then the smaller bitset."""
        return (-self.weight, self.score.loss, self.heads.bits)
