"""Operating points, and picking from those of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from headsearch.errors import InputError, RunFolderError
from headsearch.run.folder import RESULT
from headsearch.task.metric import Score, Threshold, least_allowed, stricter


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
        InputError: `max_drop` is out of range, or no number.
    """
    if not isinstance(max_drop, Real) or isinstance(max_drop, bool):
        raise InputError(f"`max_drop` must be a number but got {max_drop!r}")
    rows = result["scored"]["rows"]

    def allowed(baseline: Mapping[str, Any]) -> Threshold:
        return least_allowed(result["metric"], _score(baseline), max_drop, rows)

    threshold = allowed(result["baseline"])
    # The search's own scores may differ from the plain path's by rounding.
    if "plain" in result.get("certificate", {}):
        threshold = stricter(threshold, allowed(result["certificate"]["plain"]["baseline"]))
    # The full model, where the search's own scores of all points are below the plain path's.
    full = {"removed": [], "heads_removed": 0, "saved": 0, **result["baseline"]}
    points = result["operating_points"]  # most saved first
    return next((dict(point) for point in points if threshold.feasible(_score(point))), full)


def operating_point(
    result: dict[str, Any], heads: int | None, safer: bool = False, certified: bool = False
) -> dict[str, Any]:
    """Return the operating point of a `result.json` that removes so many heads.

    Args:
        result: the content of `result.json`.
        heads: how many; None: the best within the budget.
        safer: look among the safer points, see `headsearch.search.points`; `heads` says for which.
        certified: the certified point instead.

    Raises:
        InputError: there is none; the text lists those that there are.
        RunFolderError: the result lacks something.
    """
    if safer and heads is None:
        raise InputError("`safer` must come with `heads`, which says how many are to be removed")
    if certified and heads is not None:
        raise InputError(f"`certified` is one point by itself: no `heads` but got {heads}")
    listed = "safer_points" if safer else "operating_points"
    for name in ("best", listed, "baseline", "certificate", "threshold"):
        if name not in result:
            raise RunFolderError(f"{RESULT} is not complete: it lacks {name!r}")
    best: dict[str, Any] = result["best"]
    points: list[dict[str, Any]] = [best, *result[listed]]
    if certified:
        found = (result["certificate"].get("population") or {}).get("certified")
        if found is None:
            raise InputError("no point of this run is certified: see `headsearch report`")
        # What the certificate tells of is the certify split.
        return next(point for point in points if point["removed"] == found["removed"])
    if heads in (None, best["heads_removed"]):
        return best
    fitting = [point for point in points if point["heads_removed"] == heads]
    if fitting:  # several, where a search was to save something else than heads
        return max(fitting, key=lambda point: point["metric"])
    counts = ", ".join(map(str, sorted({point["heads_removed"] for point in points})))
    kind = "safer" if safer else "operating"
    raise InputError(f"no {kind} point has {heads} heads removed; there are {counts}")


def _score(values: Mapping[str, Any]) -> Score:
    loss = values["loss"]
    return Score(values["metric"], float("inf") if loss is None else loss, values.get("correct"))
