"""Picks from the operating points of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headsearch.task.metric import Score, least_allowed


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
