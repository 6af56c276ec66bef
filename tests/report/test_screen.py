"""A running search on one screen."""

from __future__ import annotations

from typing import Any

import pytest

from headsearch.report.curve import ASKED, DOT, ROWS, curve_lines
from headsearch.report.screen import plain_line, screen_lines
from tests.report.progress import starting, values


def text(width: int = 80, **changed: Any) -> str:
    return "\n".join(screen_lines(values(**changed), width))


def test_the_screen_says_what_is_asked_found_done_and_left() -> None:
    lines = screen_lines(values())
    assert lines[0] == "budget     accuracy 0.8184 before, at least 0.8087 is asked"
    assert lines[1] == "removed    50 of 72 heads (69%), accuracy 0.8091"
    assert "step 14, an expansion, from 44 removed on" in text()
    assert "120 evaluations of about 216 (126 to 396), 0.45/s by 2 workers, 12%" in text()
    assert "4 m 20 s, about 3 m 10 s left, 10 m 00 s at most" in text()
    assert "accuracy by heads removed" in lines


def test_the_assumed_bound_is_never_shown_without_its_assumption() -> None:
    shown = " ".join(text(60).split())
    assert "66 if sets that miss the budget still miss it with more heads removed" in shown
    assert "seen to fail in 3 of 40" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("heads", [1, 3, 72, 384])
def test_it_fits(width: int, heads: int) -> None:
    points = [(0, 0.82), (heads, 0.79)]
    lines = screen_lines(values(heads=heads, best=[heads, 0.81, 0.4], points=points), width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= (23 if width >= 80 else 30)


def test_before_the_first_score_there_is_no_curve() -> None:
    lines = screen_lines(starting())
    assert lines[0] == "removed    0 of 72 heads (0%)"
    assert not any(DOT in line for line in lines)


def test_perplexity_is_shown_as_it_is_and_not_as_its_negative() -> None:
    shown = text(
        metric="perplexity",
        baseline=-20.0,
        threshold=-21.0,
        best=[30, -20.5, 3.0],
        points=[(0, -20.0), (30, -20.5)],
    )
    assert "perplexity 20.000 before, at most 21.000 is asked" in shown
    assert "perplexity 20.500" in shown
    assert "-2" not in shown


def test_what_is_left_of_a_budget_is_exact() -> None:
    assert "of 140" in text(expected={"low": 140, "expected": 140, "high": 140})
    assert "50 s left at most" in text(left={"low": 50, "expected": 50, "high": 50})
    ending = text(left={"low": 0.0, "expected": 0.0, "high": 90.0})
    assert "likely to end soon, 1 m 30 s left at most" in ending
    for over in ({"left": None}, {"state": "done"}):
        assert text(**over).splitlines()[7] == "time       4 m 20 s"


def test_other_weights_than_heads_are_said() -> None:
    assert "50 of 72 heads (69%), 1,234 parameters saved, accuracy" in text(
        saved={"parameters": 1234}
    )


def test_progress_of_earlier_versions_is_shown() -> None:
    new = ("metric", "baseline", "threshold", "g", "expected", "points", "left", "bound")
    old = {name: value for name, value in values().items() if name not in new}
    assert screen_lines(old)[0] == "removed    50 of 72 heads (69%), metric 0.8091"
    assert "bound      72 (proved)" in screen_lines(old)
    assert plain_line(old).startswith("50 heads removed, metric 0.8091 | 120.5 evaluations, ")


def test_the_curve_is_the_largest_metric_with_at_least_so_many_heads_removed() -> None:
    drawn = curve_lines([(0, 10.0), (2, 9.0), (4, 5.0)], 4, 5.0, ("10", "5"), width=14)
    assert drawn == [
        "10 ┤•",
        "   │ ••••",
        "   │",
        " 5 ┤┄┄┄┄┄••••",
        "   │",
        "   │",
        "    0   2   4",
    ]


def test_a_curve_below_what_is_asked_is_left_out() -> None:
    drawn = curve_lines([(0, 10.0), (4, -50.0)], 4, 5.0, ("10", "5"), width=14)
    assert "".join(drawn).count(DOT) == 1
    assert len(drawn) == ROWS + 1


def test_where_nothing_may_be_lost_only_what_loses_nothing_is_on_the_line() -> None:
    drawn = curve_lines([(0, 0.8), (30, 0.7), (60, 0.3)], 72, 0.8, ("0.8", "0.8"), width=60)
    assert "".join(drawn).count(DOT) == 1
    assert DOT in drawn[0]


def test_a_flat_curve_is_drawn_on_the_line() -> None:
    drawn = curve_lines([(4, 5.0)], 4, 5.0, ("5", "5"), width=14)
    assert drawn[0].count(DOT) == 9
    assert ASKED not in drawn[0]
    assert curve_lines([], 4, 5.0, ("", ""), width=14) == []
