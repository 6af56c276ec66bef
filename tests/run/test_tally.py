"""What is known of a search while it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from headsearch.heads import HeadMap
from headsearch.run.config import RunConfig
from headsearch.run.tally import Tally

SHAPE = HeadMap((12,) * 6)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tally(clock: Clock | None = None, rows: int = 300, **asked: Any) -> Tally:
    return Tally(SHAPE, RunConfig("m", "d", **asked), rows, clock or Clock())


def step(scored: list[tuple[int, float | None]], **values: Any) -> dict[str, Any]:
    rows = [[f"{bits:x}", metric, 0.5, True, 300] for bits, metric in scored]
    found = {"step": 1, "kind": "expansion", "g": 3, "h": 2, "best": [4, 0.9, 0.3]}
    return {**found, "scored": rows, "evaluations": 20.0, **values}


def test_before_the_first_step_it_says_what_is_asked() -> None:
    values = tally(max_drop=0.02).values()
    assert values["heads"] == 72
    assert values["best"] == [0, None, None]
    assert values["kind"] == "starting"
    assert values["metric"] == "accuracy"
    assert values["max_drop"] == 0.02
    assert values["threshold"] is None
    assert values["points"] == []
    assert values["left"] is None
    assert values["bound"]["heads"] == 72


def test_the_full_model_tells_what_is_asked_to_the_example() -> None:
    told = tally(rows=300)
    told.on_step(step([(0, 258 / 300)], kind="baseline"))
    values = told.values()
    assert values["baseline"] == 258 / 300
    assert values["threshold"] == 255 / 300  # a hundredth of 300 examples
    told = tally(rows=100)
    told.on_step(step([(0, 29 / 100)], kind="baseline"))  # in binary, 0.29 * 100 is below 29
    assert told.values()["threshold"] == 28 / 100


def test_perplexity_may_rise_by_a_share_of_itself() -> None:
    told = tally(metric="perplexity", max_drop=0.05)
    told.on_step(step([(0, -20.0)], kind="baseline"))
    assert told.values()["threshold"] == pytest.approx(-21.0)


def test_points_are_the_frontier_and_what_was_given_up_is_not_among_them() -> None:
    told = tally()
    told.on_step(step([(0, 0.86), (0b1, 0.85), (0b10, 0.87), (0b11, 0.84), (0b111, 0.84)]))
    told.on_step(step([(0b1111, None), (0b11111, 0.5), (0b100, 0.86), (0b10101, 0.82)]))
    # One head gives .87, so that none removed, with .86, and two, with no more than three: no.
    assert told.values()["points"] == [(1, 0.87), (3, 0.84), (5, 0.5)]


def test_time_left_is_what_is_expected_at_the_speed_so_far() -> None:
    clock = Clock()
    told = tally(clock)
    told.on_step(step([(0, 0.86)]))
    assert told.values()["left"] is None  # no speed is known
    clock.now += 40
    told.on_counts(20.0, 5.0, {"workers": 2})
    values = told.values()
    assert values["rate"] == 0.5
    assert values["expected"] == {"low": 72, "expected": 136, "high": 396}
    assert values["left"] == {"low": 104.8, "expected": 232.0, "high": 752.0}
    clock.now += 60
    told.on_step(step([], evaluations=250.0))
    assert told.values()["left"] == {"low": 0.0, "expected": 0.0, "high": 63.5}
    told.on_step(step([], evaluations=400.0))
    assert told.values()["left"] is None


def test_time_left_counts_neither_what_was_known_nor_what_nobody_asked_for() -> None:
    clock = Clock()
    told = tally(clock, metric="pearson")
    told.on_step(step([(0, 0.86)], evaluations=150.0))
    clock.now += 75  # 150 evaluations of an earlier run were thought about once more
    told.on_step(step([], evaluations=150.0))
    clock.now += 5
    told.on_counts(20.0, 150.0, {})
    clock.now += 5
    told.on_step(step([], evaluations=160.0))  # 20 were computed, and 10 of them asked for
    left = told.values()["left"]
    assert left == {"low": 0.0, "expected": 56.0, "high": 236.0}


def test_a_time_limit_ends_it_in_any_case() -> None:
    clock = Clock()
    told = tally(clock, time_limit=100.0)
    clock.now += 40
    told.on_counts(20.0, 0, {})
    assert told.values()["left"] == {"low": 60.0, "expected": 60.0, "high": 60.0}
    endless = tally(clock, patience=0, time_limit=100.0)
    clock.now += 30
    assert endless.values()["left"] == {"low": 70.0, "expected": 70.0, "high": 70.0}
    assert tally(clock, patience=0).values()["left"] is None
