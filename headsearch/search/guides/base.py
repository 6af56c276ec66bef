"""The protocol of guides: from what was measured at a state, a path of heads to remove next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from headsearch.search.problem import Node, Problem
from headsearch.task.metric import Threshold


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
        """d loss / d gate of every example, (remaining, examples) float32."""
        slopes = self.problem.objective.slopes(self.node.outputs)  # (examples, classes)
        slopes32 = slopes.astype(np.float32)
        return np.asarray(-np.einsum("jec,ec->je", self.effects, slopes32))

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
    """Orders the frontier and proposes paths. Never proves anything."""

    @property
    def name(self) -> str:
        """What the guide is called in transcripts."""
        ...

    def path(self, view: View) -> Path:
        """Return the path from a state and how far along it the budget is expected to last."""
        ...


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
    places = np.searchsorted(view.heads, path)
    base = view.node.outputs if start is None else start
    steps = np.cumsum(view.effects[places], axis=0, dtype=np.float64)  # (path, examples, classes)
    ladder = np.concatenate([base[None].astype(np.float64), base[None] + steps])
    metrics = view.problem.objective.metrics(ladder)
    feasible = np.flatnonzero(metrics >= view.threshold.value)
    return int(feasible[-1]) if len(feasible) else None
