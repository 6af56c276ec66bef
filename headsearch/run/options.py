"""Reads the options of a run from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headsearch.errors import InputError
from headsearch.run.config import seconds
from headsearch.run.folder import FORMAT

# Options of the command that say where to write and what to print, not what is searched; and the
# one by which code is run.
OF_THE_COMMAND_LINE = ("config", "out", "memo", "quiet", "json", "map")


def read_options(path: Path, map_by: str | None = None) -> dict[str, Any]:
    """Return the options that a file holds, by their Python names; values are not checked.

    Paths among them are as on the command line: relative ones start where the command is run.

    Args:
        path: a run's `config.json`, of which the part `asked` is taken, or a JSON object of
            options by their names, as `max_drop` or `max-drop`. A `time_limit` may be a number of
            seconds or a duration such as "30m".
        map_by: the `map` that the user gives now, which overrides that of the file.

    Raises:
        InputError: there is no such file, it is not of this form, or it alone names a `map`: no
            code is run because a file names it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except FileNotFoundError:
        raise InputError(f"configuration not found: {path}") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise InputError(f"{path} must hold JSON: {error}") from None
    if isinstance(values, dict) and "asked" in values:
        if values.get("format") != FORMAT:
            raise InputError(f"{path} must have format {FORMAT} but has {values.get('format')!r}")
        values = values["asked"]
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object of options but got {values!r:.40}")
    options = _object([(name.replace("-", "_"), value) for name, value in values.items()])
    if map_by is not None or options.get("map", "") is None:  # of a run without one
        options.pop("map", None)
    for name in OF_THE_COMMAND_LINE:
        if name in options:
            raise InputError(f"`{name}` in {path} must be given on the command line instead")
    if isinstance(options.get("time_limit"), str):
        options["time_limit"] = seconds(options["time_limit"])
    return options


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, in which a name that is there twice would otherwise hide a value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"`{twice}` must be given once in a configuration but is there twice")
    return values
