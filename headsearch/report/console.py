"""Live progress: one calm line at a terminal, plain lines when piped, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

# Piped output gets a line when something better is found, and at least this often in seconds.
PLAIN_INTERVAL = 30.0


class Progress:
    """Follows a run; a context manager.

    Args:
        console: where to write; a terminal gets a line that changes, anything else plain lines.
        quiet: write nothing.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._started = time.monotonic()
        self._last_line = 0.0
        self._best: list[Any] = [0, None, None]
        self._step: dict[str, Any] = {}
        self._computed, self._workers = 0.0, 1

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(
                get_renderable=self._line, console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def on_step(self, step: dict[str, Any]) -> None:
        """See `run.session.Watcher`."""
        better = step["best"] != self._best
        self._best, self._step = step["best"], step
        self._plain(better)

    def on_counts(self, computed: float, reused: float, figures: Mapping[str, float]) -> None:
        """See `run.session.Watcher`."""
        self._computed, self._workers = computed, round(figures.get("workers", 1))
        self._plain(False)

    def _plain(self, better: bool) -> None:
        now = time.monotonic()
        if self._quiet or self._live is not None:
            return
        if better or now - self._last_line >= PLAIN_INTERVAL:
            self._last_line = now
            self.say(self._line().plain)

    def _line(self) -> Text:
        elapsed = time.monotonic() - self._started
        rate = self._computed / elapsed if elapsed > 0 else 0.0
        heads, metric, _ = self._best
        shown = "-" if metric is None else f"{metric:.4f}"
        saved = "".join(f"{n:,} {unit} saved, " for unit, n in self._step.get("saved", {}).items())
        crew = f" by {self._workers} workers" if self._workers > 1 else ""
        return Text(
            f"{heads} heads removed, {saved}metric {shown} | "
            f"{self._step.get('evaluations', 0):g} evaluations, "
            f"{rate:.2f}/s{crew} | "
            f"{self._step.get('kind', 'starting')} at {self._step.get('g', 0)} | "
            f"{elapsed:.0f} s",
            overflow="ellipsis",
            no_wrap=True,
        )
