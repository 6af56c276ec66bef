"""What a person sees."""

from __future__ import annotations

import doctest
import io
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from headsearch.heads import HeadMap, HeadSet
from headsearch.report import duration, picture
from headsearch.report.console import Progress, StderrConsole
from headsearch.report.picture import head_picture
from headsearch.report.screen import plain_line
from headsearch.report.watch import SILENT, state_line, wait_for_start, watch
from headsearch.run.config import seconds
from tests.report.progress import starting, values


def console(terminal: bool, **more: Any) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=80, **more), stream


def found(heads: int, evaluations: float) -> dict[str, Any]:
    return values(best=[heads, 0.81, 0.5], evaluations=evaluations, g=3)


def test_piped_output_is_plain_lines_when_something_better_is_found() -> None:
    shown, stream = console(terminal=False)
    with Progress(shown) as progress:
        progress.on_progress(found(2, 5.0))
        progress.on_progress(found(2, 6.0))
        progress.on_progress(found(4, 9.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "2 heads removed, accuracy 0.8100 | 5 evaluations, 0.45/s by 2 workers | expansion at 3 | "
        "260 s, about 3 m 10 s left"
    )
    assert lines[1].startswith("4 heads removed, accuracy 0.8100 | 9 evaluations")
    assert "\x1b" not in stream.getvalue()
    late = plain_line(values(left={"low": 0.0, "expected": 0.0, "high": 90.0}))
    assert late.endswith("| 260 s")


def test_a_terminal_gets_one_screen_that_changes() -> None:
    shown, stream = console(terminal=True, height=40)
    with Progress(shown, title="headsearch: runs/one") as progress:
        progress.on_progress(starting())
        progress.on_progress(found(4, 9.0))
    text = stream.getvalue()
    assert text.endswith("\n\x1b[?25h"), "the cursor is back"
    last = text.split("headsearch: runs/one")[-1]
    assert "4 of 72 heads" in last
    assert "accuracy by heads removed" in last
    assert "left" not in last, "it has ended"


def test_a_screen_is_no_taller_than_the_terminal() -> None:
    shown, stream = console(terminal=True, height=6)
    with Progress(shown) as progress:
        progress.on_progress(found(4, 9.0))
    assert stream.getvalue().split("budget  ")[-1].count("\n") == 5


def test_a_screen_leaves_room_for_what_a_terminal_writes_when_it_is_interrupted() -> None:
    shown, stream = console(terminal=True, height=40)
    with Progress(shown) as progress:
        progress.on_progress(found(4, 9.0))
    lines = [line for line in stream.getvalue().splitlines() if "\x1b" not in line]
    assert max(map(len, lines)) <= 80 - len("^C")


def test_quiet_is_quiet() -> None:
    for terminal in (False, True):
        shown, stream = console(terminal)
        with Progress(shown, quiet=True) as progress:
            progress.on_progress(found(2, 5.0))
            progress.say("hello")
        assert stream.getvalue() == ""


def test_a_reader_that_goes_ends_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress(StderrConsole()) as progress:
            progress.on_progress(found(2, 5.0))
            assert os.read(reader, 1000).startswith(b"2 heads removed")
            os.close(reader)
            progress.on_progress(found(4, 9.0))
            progress.on_progress(found(6, 12.0))
        print("an error of later", file=stderr, flush=True)  # it raises nothing either


class Handle:
    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, content: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(content["text/plain"])


def test_a_notebook_gets_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle()
    display = SimpleNamespace(display=lambda *_, display_id, **__: handle if display_id else None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    shown, stream = console(terminal=False, force_jupyter=True)
    with Progress(shown) as progress:
        progress.on_progress(found(2, 5.0))
        progress.on_progress(found(4, 9.0))  # within a second: it comes at the end
    assert len(handle.shown) == 2
    assert "2 of 72 heads" in handle.shown[0]
    assert "4 of 72 heads" in handle.shown[1]
    assert stream.getvalue() == ""


def watched(contents: list[dict[str, Any]], ages: list[float]) -> tuple[dict[str, Any], str, int]:
    """Watch a run whose progress is these contents, and return the last, what was shown, waits."""
    shown, stream = console(terminal=False)
    reads: Iterator[dict[str, Any]] = iter(contents)
    waits: list[float] = []
    age = iter(ages)
    last = watch(lambda: next(reads), lambda: next(age), shown, waits.append)
    return last, stream.getvalue(), len(waits)


def test_watching_ends_when_the_run_does() -> None:
    done = {**found(6, 20.0), "state": "done"}
    last, text, waits = watched([found(2, 5.0), found(4, 9.0), done], [1.0] * 3)
    assert last == done
    assert [line.split()[0] for line in text.splitlines()] == ["2", "4", "6"]
    assert waits == 2


def test_who_watches_from_the_start_waits_for_it() -> None:
    waits: list[float] = []
    wait_for_start(lambda: None if len(waits) < 3 else values(), waits.append)
    assert len(waits) == 3
    wait_for_start(lambda: None, waits.append)  # not for ever
    assert sum(waits[3:]) == SILENT


def test_watching_ends_when_nothing_is_heard_any_more() -> None:
    last, _, waits = watched([found(2, 5.0)] * 3, [1.0, SILENT + 1])
    assert last["state"] == "running"
    assert waits == 1


def test_what_can_be_gone_on_with_says_how() -> None:
    command = "headsearch resume runs/one"
    assert state_line(values(), 3.0, command) == "running"
    assert state_line(values(state="done"), 3000.0, command) == "done"
    assert state_line(values(state="interrupted"), 3.0, command) == (
        "interrupted; go on with: headsearch resume runs/one"
    )
    assert state_line(values(), 75.4, command) == (
        "running, but silent for 75 s; if its process is gone: headsearch resume runs/one"
    )


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
    assert doctest.testmod(duration).failed == 0
