"""What is read from a transcript."""

from __future__ import annotations

from math import comb
from typing import Any

import pytest

from headsearch.heads import HeadMap
from headsearch.report.history import (
    Effect,
    Scored,
    effects,
    exact_interval,
    removal_order,
    scored_states,
)

SHAPE = HeadMap((2, 2))


def tail(correct: int, examples: int, share: float) -> float:
    """Chance of at least so many right answers."""
    return sum(
        comb(examples, k) * share**k * (1 - share) ** (examples - k)
        for k in range(correct, examples + 1)
    )


@pytest.mark.parametrize(("correct", "examples"), [(1, 7), (5, 9), (80, 100)])
def test_either_limit_of_the_exact_interval_leaves_half_of_the_error(
    correct: int, examples: int
) -> None:
    low, high = exact_interval(correct, examples, 0.9)
    assert tail(correct, examples, low) == pytest.approx(0.05)
    assert 1 - tail(correct + 1, examples, high) == pytest.approx(0.05)


def test_the_exact_interval_where_all_or_none_are_right() -> None:
    assert exact_interval(0, 10, 0.95) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert exact_interval(10, 10, 0.95) == (pytest.approx(0.025**0.1), 1.0)


def step(*scored: list[Any]) -> dict[str, Any]:
    return {"scored": list(scored)}


def test_of_a_state_that_was_given_up_nothing_is_known_until_it_is_scored_to_the_end() -> None:
    steps = [step(["0", 0.9, 0.3, True, 10], ["3", None, None, False, 4])]
    assert scored_states(steps) == {0: Scored(0, 0.9, 0.3)}
    steps.append(step(["3", 0.7, 0.5, False, 10]))
    assert scored_states(steps)[3] == Scored(2, 0.7, 0.5)


def test_an_effect_is_the_mean_over_pairs_that_differ_by_the_head_alone() -> None:
    states = {
        0b0000: Scored(0, 0.9, 0.3),
        0b0001: Scored(1, 0.8, 0.4),
        0b0100: Scored(1, 0.9, 0.2),
        0b0101: Scored(2, 0.6, 0.5),
        0b1110: Scored(3, 0.1, 0.9),
    }
    found = effects(states)
    assert found == {
        0: Effect(pytest.approx(-0.2), pytest.approx(0.2), 2),
        2: Effect(pytest.approx(-0.1), pytest.approx(0.0), 2),
    }


def test_a_head_counts_from_the_point_from_which_on_it_stays_removed() -> None:
    points = [
        {"heads_removed": 3, "removed": [[0, 0], [0, 1], [1, 0]]},
        {"heads_removed": 2, "removed": [[0, 0], [1, 1]]},
        {"heads_removed": 1, "removed": [[0, 1]]},
        {"heads_removed": 4, "removed": [[0, 0], [0, 1], [1, 0], [1, 1]]},  # beyond the budget
    ]
    # Head 1 goes at 1, is put back at 2, and goes again at 3.
    assert removal_order(points[0], points, SHAPE) == {0: 2, 1: 3, 2: 3}
