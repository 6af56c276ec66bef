"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headsearch.cli.helping import Common
from headsearch.run.config import DTYPES, ENGINES, WEIGHTS, seconds
from headsearch.task.metric import METRICS

PATH = click.Path(path_type=Path)
# Of what may be a path or a name of something else: shells complete it as a path.
MAYBE_PATH: dict[str, Any] = {"shell_complete": PATH.shell_complete}


def together(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply options in the order they are listed."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# What of the data is read.
columns = together(
    click.option("--subset", help="Configuration of a hub data set."),
    click.option("--split", help="Split of a hub data set or a saved folder."),
    click.option("--text-column", cls=Common, metavar="NAME", help="Texts. [text]"),
    click.option("--pair-column", metavar="NAME", help="Second text of a pair."),
    click.option("--label-column", cls=Common, metavar="NAME", help="Class ids or names. [label]"),
    click.option(
        "--image-column", metavar="NAME", help="Images, of models that read them. [image]"
    ),
)
# Model, data and metric: what a run is about.
_asked = together(
    click.argument("model", required=False, metavar="MODEL", **MAYBE_PATH),
    click.option(
        "--data", cls=Common, help="CSV, JSON lines, Parquet, folder or hub name.", **MAYBE_PATH
    ),
    columns,
    click.option(
        "--metric",
        cls=Common,
        type=click.Choice(METRICS),
        metavar="NAME",
        help=f"{', '.join(METRICS)}. [accuracy]",
    ),
    click.option("--weight", type=click.Choice(WEIGHTS), help="What is to be saved. [heads]"),
    click.option(
        "--certify-fraction",
        cls=Common,
        type=float,
        metavar="F",
        help="Hold out a part of --data to certify on.",
    ),
    click.option("--max-length", type=int, help="Cut texts to so many tokens."),
    click.option("--max-examples", type=int, help="Use a random part of the data."),
    click.option("--dtype", type=click.Choice(DTYPES), help="Of the search. [float32]"),
    click.option("--seed", type=int, help="Of what is drawn at random. [0]"),
    click.option(
        "--config",
        "config_file",
        cls=Common,
        type=PATH,
        metavar="FILE",
        help="Options from a RUN/config.json, overridden here.",
    ),
)
map_by = click.option(
    "--map",
    metavar="FILE.py:FUNCTION",
    help="Send each row through it first, as datasets' map.",
    **MAYBE_PATH,
)
# A point of what a run found.
point = together(
    click.option(
        "--heads",
        cls=Common,
        type=int,
        metavar="N",
        help="Remove so many. [the most within the budget]",
    ),
    click.option(
        "--safer", cls=Common, is_flag=True, help="With --heads: of the points of least loss."
    ),
    click.option("--certified", cls=Common, is_flag=True, help="The certified point of a run."),
)
# Budgets, certificate and engine: all that a resumed run may change.
resumable = together(
    map_by,
    click.option(
        "--max-drop",
        cls=Common,
        type=float,
        metavar="X",
        help="How far the metric may fall, absolute. [0.01]",
    ),
    click.option(
        "--certify-data", help="Held-out data to certify on, read as --data is.", **MAYBE_PATH
    ),
    click.option("--certify-split", help="Split of --certify-data. [as of --data]"),
    click.option("--confidence", type=float, help="Of the certificate. [0.95]"),
    click.option("--max-evaluations", type=int, help="Stop after so many scored head sets."),
    click.option("--max-expansions", type=int, help="Stop after so many expansions."),
    click.option(
        "--patience", type=int, help="Stop after so many expansions in vain; 0: never. [4]"
    ),
    click.option(
        "--bound-evaluations", type=int, help="Spend so many, at the end, on the bound. [0]"
    ),
    click.option(
        "--time-limit",
        cls=Common,
        type=seconds,  # what it raises, `main` prints
        metavar="TIME",
        help="Stop after a time such as 30m or 2h.",
    ),
    click.option("--engine", type=click.Choice(ENGINES), help="Where to compute. [auto]"),
    click.option(
        "--ray-address", cls=Common, metavar="ADDRESS", help="A running Ray cluster, or `auto`."
    ),
    click.option(
        "--workers", cls=Common, type=int, metavar="N", help="Processes. [one for each GPU, or CPU]"
    ),
    click.option("--gpus-per-worker", type=float, help="GPUs of each worker; may be a fraction."),
    click.option("--threads-per-worker", type=int, help="CPU threads of each worker."),
    click.option("--shards", type=int, help="Shards of the data. [as many as workers]"),
    click.option(
        "--cache-mb", type=int, help="Parent cache of a worker, MiB. [512, or half a GPU]"
    ),
)
shown = together(
    click.option("--quiet", cls=Common, is_flag=True, help="No progress and no summary."),
    click.option(
        "--json", "as_json", cls=Common, is_flag=True, help="Print result.json to stdout."
    ),
)
# All that tells what to search, and where it is to be written.
search = together(
    _asked,
    resumable,
    click.option(
        "--out", cls=Common, type=PATH, metavar="FOLDER", help="Run folder. [runs/MODEL-N]"
    ),
)
