"""What a person sees."""

from __future__ import annotations

import doctest
import io

import pytest
from rich.console import Console

from headsearch.heads import HeadMap, HeadSet
from headsearch.report import picture
from headsearch.report.console import Progress
from headsearch.report.picture import head_picture
from headsearch.run.config import seconds


def step(best: int, evaluations: int) -> dict[str, object]:
    return {
        "step": 1,
        "kind": "expansion",
        "g": 3,
        "best": [best, 0.81, 0.5],
        "evaluations": evaluations,
    }


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=80), stream


def test_piped_output_is_plain_lines_when_something_better_is_found() -> None:
    shown, stream = console(terminal=False)
    with Progress(shown) as progress:
        progress.on_step(step(2, 5))
        progress.on_step(step(2, 6))
        progress.on_step(step(4, 9))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("2 heads removed, metric 0.8100 | 5 evaluations")
    assert lines[1].startswith("4 heads removed, metric 0.8100 | 9 evaluations")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_one_line_that_changes_and_fits() -> None:
    shown, stream = console(terminal=True)
    with Progress(shown) as progress:
        progress.on_step(step(2, 5))
        progress.on_counts(5.0, 0, {})
        progress.on_step(step(4, 9))
    text = stream.getvalue()
    assert "4 heads removed" in text
    assert text.count("\n") == 1


def test_quiet_is_quiet() -> None:
    for terminal in (False, True):
        shown, stream = console(terminal)
        with Progress(shown, quiet=True) as progress:
            progress.on_step(step(2, 5))
            progress.say("hello")
        assert stream.getvalue() == ""


def test_the_picture_shows_which_heads_are_left() -> None:
    drawn = head_picture(HeadMap((3, 3)), HeadSet.of([1, 3, 4, 5]))
    assert drawn.splitlines() == ["layer 1  ···  0 of 3", "layer 0  █·█  2 of 3"]
    assert doctest.testmod(picture).failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800), ("0s", 0)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
