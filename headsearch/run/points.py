"""Operating points, and picking from those of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headsearch.task.metric import Score, least_allowed


@dataclass(frozen=True)
class OperatingPoint:
    """One set of removed heads and what it scores on the search split.

    Attributes:
        removed: (layer, head) pairs.
        heads_removed: how many they are.
        saved: what removing them saves, in the unit of the search's weight.
        metric, loss: on the search split.
        correct: right answers, for accuracy.
    """

    removed: tuple[tuple[int, int], ...]
    heads_removed: int
    saved: int
    metric: float
    loss: float | None
    correct: int | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> OperatingPoint:
        """Read what `result.json` holds of one."""
        pairs = tuple((layer, head) for layer, head in values["removed"])
        return cls(**{**values, "removed": pairs})


def within(result: Mapping[str, Any], max_drop: float) -> dict[str, Any]:
    """Return the operating point that saves most within a budget given later.

    It is the best that the run came across; a search by that budget may find a better one. There
    always is a point, as the full model meets every budget.

    Args:
        result: the content of `result.json`.
        max_drop: how far the metric may fall on the search split, absolute.

    Raises:
        InputError: `max_drop` is out of range.
    """
    rows = result["scored"]["rows"]
    threshold = least_allowed(result["metric"], _score(result["baseline"]), max_drop, rows)
    points = result["operating_points"]  # most saved first
    return next(dict(point) for point in points if threshold.feasible(_score(point)))


def _score(values: Mapping[str, Any]) -> Score:
    loss = values["loss"]
    return Score(values["metric"], float("inf") if loss is None else loss, values.get("correct"))
