"""Commands in processes of their own that start at once: forked off one that has torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["headsearch.run.command", "headsearch.cli"])


def _run(arguments: Sequence[str], err: str) -> None:
    """What the process does, which has the standard streams of the one it is forked off."""
    # A shell starts what runs in its background, these tests perhaps, deaf to interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["headsearch", *arguments]
    from headsearch.cli import main

    main()


def start(err: Path, *arguments: object) -> BaseProcess:
    """Start a command whose errors are written to a file."""
    process = FORKS.Process(target=_run, args=([str(a) for a in arguments], str(err)))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 240) -> int | None:
    """Wait for a command to end; return its exit code, minus the signal that ended it."""
    process.join(seconds)
    return process.exitcode
