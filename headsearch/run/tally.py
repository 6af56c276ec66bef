"""Keeps what is known of a search while it goes on: the content of `progress.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from headsearch.heads import HeadMap
from headsearch.run.config import RunConfig
from headsearch.run.effort import Range, expected_evaluations
from headsearch.search.bound import Bounds
from headsearch.task.metric import ACCURACY, Score, least_allowed

# What is taken over from the last step.
STEP_VALUES = ("step", "kind", "g", "best", "saved", "bound", "evaluations")


class Tally:
    """What a person may want to know of a running search, as JSON values.

    Args:
        shape: the model's heads.
        config: what was asked.
        rows: how many examples, words or labels are scored.
        clock: gives seconds.
    """

    def __init__(
        self,
        shape: HeadMap,
        config: RunConfig,
        rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._rows, self._clock = config, rows, clock
        self._started = clock()
        self._expected = expected_evaluations(shape.total, config)
        self._best: dict[int, float] = {}  # by heads removed, the largest metric
        self._known = 0.0, 0.0  # seconds and evaluations until something was computed
        self._values: dict[str, Any] = {
            "metric": config.metric,
            "max_drop": config.max_drop,
            "heads": shape.total,
            "rows": rows,
            "baseline": None,
            "threshold": None,
            "step": 0,
            "kind": "starting",
            "g": 0,
            "best": [0, None, None],
            "bound": Bounds(shape).now().to_step(),
            "evaluations": 0,
            "expected": None if self._expected is None else self._expected.to_json(0),
            "computed": 0.0,
            "reused": 0,
        }

    def on_step(self, step: Mapping[str, Any]) -> None:
        """Take in a committed step, as it is in the transcript."""
        self._values |= {name: step[name] for name in STEP_VALUES if name in step}
        if not self._values["computed"]:  # a run that goes on has its earlier scores at once
            self._known = self._clock() - self._started, self._values["evaluations"]
        for bits, metric, *_ in step["scored"]:
            if metric is None:  # given up half way
                continue
            if bits == "0":
                self._begin(metric)
            heads = int(bits, 16).bit_count()
            self._best[heads] = max(metric, self._best.get(heads, metric))

    def on_check(self, kind: str) -> None:
        """Take in that the search is over, and what is checked now."""
        self._values |= {"kind": kind, "g": 0}

    def _begin(self, metric: float) -> None:
        """Take in the full model's metric, and with it what is asked."""
        config, right = self._config, None
        if config.metric == ACCURACY:
            right = round(metric * self._rows)
        baseline = Score(metric, float("inf"), right)
        asked = least_allowed(config.metric, baseline, config.max_drop, self._rows)
        self._values |= {"baseline": metric, "threshold": asked.value}

    def on_counts(self, computed: float, reused: float, figures: Mapping[str, float]) -> None:
        """Take in how many HeadSets were computed so far, how many were known, and more."""
        self._values |= {"computed": round(computed, 3), "reused": round(reused, 3)}
        self._values["engine"] = {name: round(value, 4) for name, value in figures.items()}

    def values(self) -> dict[str, Any]:
        """Return all of it, as it stands now.

        `points` are (heads removed, metric), the frontier of the two; `left` is how many seconds
        are likely to be left, None while nothing can be said.
        """
        seconds = self._clock() - self._started
        rate = self._values["computed"] / seconds if seconds > 0 else 0.0
        return {
            **self._values,
            "points": self._points(),
            "seconds": round(seconds, 1),
            "rate": round(rate, 4),
            "left": self._left(seconds, rate),
        }

    def _points(self) -> list[tuple[int, float]]:
        points = list[tuple[int, float]]()
        for heads in sorted(self._best, reverse=True):
            if not points or self._best[heads] > points[-1][1]:
                points.append((heads, self._best[heads]))
        return points[::-1]

    def _left(self, seconds: float, rate: float) -> dict[str, float] | None:
        """Return how long the evaluations that are still expected take at the speed so far.

        That is the speed at which they are committed, as not all that is computed is asked for.
        Past the expected number nothing is expected but the end; past the largest, nothing at all.
        """
        limit, done = self._config.time_limit, self._values["evaluations"]
        rest = float("inf") if limit is None else max(0.0, limit - seconds)
        if self._expected is None:
            return None if limit is None else Range(rest, rest, rest).to_json()
        if not rate or done >= self._expected.high:
            return None
        known_seconds, known = self._known
        if done > known and seconds > known_seconds:
            rate = (done - known) / (seconds - known_seconds)
        counts = vars(self._expected).values()
        return Range(*(min(rest, max(0.0, n - done) / rate) for n in counts)).to_json()
