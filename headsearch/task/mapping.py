"""Rows changed by a function of the user's own, before texts and labels are taken from them."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from headsearch.errors import DataError, InputError
from headsearch.task.sources import quiet_datasets

MODULE = "headsearch_map"
# How a user's code may end, but for Ctrl-C: a script's `sys.exit` would end headsearch in silence.
ENDED = (Exception, SystemExit)


def mapped(table: Any, named: str) -> Any:
    """Return a data set whose rows went through a function.

    Args:
        table: a `datasets.Dataset`; nothing is written beside it.
        named: FILE.py:FUNCTION. The function takes a row, a dict, and returns a dict of the
            columns that it changes or adds, as `datasets.Dataset.map` has it. Its file is run.
            What it prints goes to stderr: stdout is for what a program may read.

    Raises:
        InputError: there is no such file or function.
        DataError: the file or the function fails.
    """
    with redirect_stdout(sys.stderr), quiet_datasets():
        function = _load(named)
        try:
            return table.map(function, load_from_cache_file=False, keep_in_memory=True)
        except ENDED as error:
            raise DataError(f"{named} failed on the data: {_said(error, named)}") from None


def _load(named: str) -> Callable[..., Any]:
    file, _, name = named.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(f"`map` must be FILE.py:FUNCTION but got {named!r}")
    if not Path(file).is_file():
        raise InputError(f"the file of `map` was not found: {file}")
    found = importlib.util.spec_from_file_location(MODULE, file)
    assert found is not None  # its name ends in .py
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # As where Python runs a file: it is known by name, which dataclasses need, and what lies beside
    # it can be imported, also later, by the function.
    sys.modules[MODULE] = module
    beside = str(Path(file).absolute().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    try:
        found.loader.exec_module(module)
    except ENDED as error:
        raise DataError(f"{file} could not be run: {_said(error, named)}") from None
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        there = ", ".join(sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_"))
        raise InputError(f"{file} must have the function {name!r} but has {there or 'none'}")
    return function


def _said(error: BaseException, named: str) -> str:
    """Return what went wrong in a line, and in which line of the user's file if it was there."""
    file = Path(named.rpartition(":")[0])
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) in (file, file.absolute())
    ]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text} (line {lines[-1]})" if lines else text
