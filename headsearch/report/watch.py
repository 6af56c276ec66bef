"""Follows a run that another process makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from headsearch.report.console import Progress

# How often the run folder is read, in seconds.
INTERVAL = 1.0
# Without a sign of life for so many seconds, the process that searches may be gone.
SILENT = 60.0


def wait_for_start(
    read: Callable[[], dict[str, Any] | None], wait: Callable[[float], None] = time.sleep
) -> None:
    """Wait until a run has begun to search, for a minute at most.

    Args:
        read: gives the content of `progress.json`, None while there is none.
        wait: sleeps.
    """
    for _ in range(round(SILENT / INTERVAL)):
        if read() is not None:
            return
        wait(INTERVAL)


def watch(
    read: Callable[[], dict[str, Any]],
    age: Callable[[], float],
    console: Console,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Show how a run goes until it ends or nothing is heard of it any more.

    Args:
        read: gives the content of `progress.json`.
        age: how many seconds ago that was written.
        console: where to write.
        wait: sleeps.

    Returns:
        The last content.
    """
    with Progress(console) as progress:
        while True:
            values = read()
            progress.on_progress(values)
            if values["state"] != "running" or age() > SILENT:
                return values
            wait(INTERVAL)


def state_line(values: dict[str, Any], age: float, resume: str) -> str:
    """Say in a line whether a run goes on.

    Args:
        values: the content of `progress.json`.
        age: how many seconds ago that was written.
        resume: the command that goes on with it.
    """
    state = values["state"]
    if state == "running" and age > SILENT:
        return f"running, but silent for {age:.0f} s; if its process is gone: {resume}"
    return f"{state}; go on with: {resume}" if state in ("interrupted", "failed") else str(state)
