"""The check by the plain path that every claim rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.task.batches import BatchedData
from headsearch.task.metric import Objective, Score, Threshold


def plain_score(
    model: nn.Module, data: BatchedData, objective: Objective, removed: HeadSet
) -> Score:
    """Score a HeadSet by the stock forward under gates, in the model's own float32."""
    return objective.score(plain_outputs(model, data.batches, removed))


def stricter(first: Threshold, second: Threshold) -> Threshold:
    """Return the threshold that allows less."""
    return first if first.value >= second.value else second


def first_verified(
    score: Callable[[HeadSet], Score], candidates: Sequence[HeadSet], threshold: Threshold
) -> tuple[HeadSet, Score] | None:
    """Return the first candidate that meets the threshold, with its score; None if none does.

    The search's own scores differ from the plain path's by rounding, so an example that lies on
    the decision boundary may flip; then the next best candidate is tried.
    """
    for candidate in candidates:
        found = score(candidate)
        if threshold.feasible(found):
            return candidate, found
    return None
