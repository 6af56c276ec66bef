"""Live progress: one calm screen at a terminal or in a notebook, plain lines when piped."""

from __future__ import annotations

import os
import time
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from headsearch.report.screen import plain_line, screen_lines

# Piped output gets a line when something better is found, and at least this often in seconds.
PLAIN_INTERVAL = 30.0
# Columns that stay free: a terminal writes ^C there, and in the next line where there are none, so
# that the screen would be drawn a line too low.
MARGIN = 3
# A notebook is sent a new screen this often, in seconds.
NOTEBOOK_INTERVAL = 1.0


def silence(stream: IO[str]) -> None:
    """Let what is written come to nothing: nobody reads it, and the flush at the end must not fail.

    Args:
        stream: one that is a file of the operating system.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


class StderrConsole(Console):
    """Where a search says how it goes; once nobody reads that any more, it says nothing."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Go on: rich would end the process, and with it a search of hours."""
        self.quiet = True
        silence(self.file)


class Progress:
    """Follows a run; a context manager.

    Args:
        console: where to write; a terminal or notebook gets a screen that changes, anything else
            plain lines.
        quiet: write nothing.
        title: the first line of the screen.
    """

    def __init__(self, console: Console, quiet: bool = False, title: str = "") -> None:
        self._console, self._quiet, self._title = console, quiet, title
        self._live: Live | None = None
        self._notebook: Any = None
        self._last = float("-inf")
        self._values: dict[str, Any] | None = None
        self._best: Any = None

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if self._console.is_jupyter:
            from IPython import display

            self._notebook = display.display({"text/plain": "starting"}, raw=True, display_id=True)
        elif self._console.is_terminal:
            self._live = Live(
                get_renderable=self._screen, console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._values is not None:  # the screen stays: nothing is left of what has ended
            self._values = {**self._values, "left": None}
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._show_in_notebook()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def on_progress(self, values: dict[str, Any]) -> None:
        """See `run.session.Watcher`."""
        self._values = values
        now, better = time.monotonic(), values["best"] != self._best
        if self._quiet or self._live is not None:
            return
        if self._notebook is not None:
            if now - self._last >= NOTEBOOK_INTERVAL:
                self._last = now
                self._show_in_notebook()
        elif better or now - self._last >= PLAIN_INTERVAL:
            self._last, self._best = now, values["best"]
            self.say(plain_line(values))

    def _show_in_notebook(self) -> None:
        if self._notebook is not None:
            self._notebook.update({"text/plain": self._screen().plain}, raw=True)

    def _screen(self) -> Text:
        lines = ["starting"]
        if self._values is not None:
            lines = screen_lines(self._values, self._console.width - MARGIN)
        titled = [self._title, ""] if self._title else []
        # Not taller than the terminal, or what has scrolled away can't be drawn over.
        lines = [*titled, *lines][: max(1, self._console.height - 1)]
        return Text("\n".join(lines), overflow="crop", no_wrap=True)
