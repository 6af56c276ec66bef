"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from headsearch import __version__
from headsearch.errors import HeadsearchError
from headsearch.run.config import (
    DTYPES,
    ENGINES,
    EXPORT_FORMATS,
    WEIGHTS,
    RunConfig,
    seconds,
)
from headsearch.run.options import read_options
from headsearch.task.metric import METRICS

INTERRUPTED = 130
NOTHING_FOUND = 3
NOT_VERIFIED = 1


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read a duration such as 30m; raises `InputError`, which `main` prints."""
        return value if isinstance(value, float) else seconds(str(value))


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply options in the order they are listed."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# Model, data and metric: what a run is about.
_asked = _options(
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Options from a RUN/config.json or a JSON object; others given here override it.",
    ),
    click.option("--data", help="CSV, JSON lines, Parquet, folder or hub name."),
    click.option("--subset", help="Configuration of a hub data set."),
    click.option("--split", help="Split of a hub data set or a saved folder."),
    click.option("--text-column", help="[text]"),
    click.option("--pair-column", help="Second text of a pair."),
    click.option("--label-column", help="Class ids or names. [label]"),
    click.option("--image-column", help="Of models that read images. [image]"),
    click.option("--metric", type=click.Choice(METRICS), help="[accuracy]"),
    click.option("--weight", type=click.Choice(WEIGHTS), help="What is to be saved. [heads]"),
    click.option("--certify-fraction", type=float, help="Hold out a part of --data to certify on."),
    click.option("--max-length", type=int, help="Cut texts to so many tokens."),
    click.option("--max-examples", type=int, help="Use a random part of the data."),
    click.option("--dtype", type=click.Choice(DTYPES), help="Of the search. [float32]"),
    click.option("--seed", type=int, help="[0]"),
)
# Budgets, certificate and engine: all that a resumed run may change.
_resumable = _options(
    click.option("--max-drop", type=float, help="How far the metric may fall, absolute. [0.01]"),
    click.option("--certify-data", help="Held-out data to certify on, read as --data is."),
    click.option("--confidence", type=float, help="Of the certificate. [0.95]"),
    click.option("--max-evaluations", type=int, help="Stop after so many scored head sets."),
    click.option("--max-expansions", type=int, help="Stop after so many expansions."),
    click.option(
        "--patience", type=int, help="Stop after so many expansions in vain; 0: never. [4]"
    ),
    click.option(
        "--bound-evaluations", type=int, help="Spend so many, at the end, on the bound. [0]"
    ),
    click.option("--time-limit", type=_Duration(), help="Stop after a time such as 30m or 2h."),
    click.option("--engine", type=click.Choice(ENGINES), help="Where to compute. [auto]"),
    click.option("--ray-address", help="A running Ray cluster, or `auto`."),
    click.option("--workers", type=int, help="Workers. [one for each GPU, or CPU]"),
    click.option("--gpus-per-worker", type=float, help="GPUs of each worker; may be a fraction."),
    click.option("--threads-per-worker", type=int, help="CPU threads of each worker."),
    click.option("--shards", type=int, help="Shards of the data. [as many as workers]"),
    click.option("--cache-mb", type=int, help="Parent cache of each worker, in MiB. [512]"),
)
_shown = _options(
    click.option("--quiet", is_flag=True, help="No progress and no summary."),
    click.option("--json", "as_json", is_flag=True, help="Print result.json to stdout."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headsearch")
def cli() -> None:
    """Remove attention heads while a metric stays within a budget that you state."""


@cli.command(epilog="Example: headsearch run ./model --data dev.csv --max-drop 0.01")
@click.argument("model", required=False, metavar="MODEL")
@_asked
@_resumable
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [runs/MODEL-N]")
@click.option(
    "--memo", type=click.Path(path_type=Path), help="Share scores in this file. [OUT/memo.sqlite]"
)
@_shown
def run(out: Path | None, memo: Path | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Search MODEL, a local folder or a hub name, on labelled validation data."""
    config = _config(**options)
    from headsearch.run.command import start  # torch and transformers take seconds to import

    folder = out or _next_folder(config.model)
    _search(folder, quiet, as_json, lambda watcher: start(config, folder, watcher, memo))


@cli.command(epilog="Example: headsearch plan ./model --data dev.csv --price-per-hour 2.5")
@click.argument("model", required=False, metavar="MODEL")
@_asked
@_resumable
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [runs/MODEL-N]")
@click.option("--price-per-hour", type=float, help="Of one worker: says the cost too.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(out: Path | None, price_per_hour: float | None, as_json: bool, **options: Any) -> None:
    """Check all that a run of MODEL needs, probe the speed, and say what the search will cost."""
    config = _config(**options)
    from headsearch.report.plan_text import plan_lines
    from headsearch.run.plan import make_plan

    found = make_plan(config, out or _next_folder(config.model), price_per_hour)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(plan_lines(found)))


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@_resumable
@_shown
def resume(folder: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Go on with RUN; budgets, certificate and engine may change. Every score it has is used."""
    from headsearch.run import command
    from headsearch.run.folder import RunFolder

    opened = RunFolder.open(folder)
    changes = {k: v for k, v in options.items() if v is not None}
    _search(folder, quiet, as_json, lambda watcher: command.resume(opened, changes, watcher))


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print progress.json.")
def status(folder: Path, as_json: bool) -> None:
    """Show how RUN is going."""
    from headsearch.errors import RunFolderError
    from headsearch.report.summary import result_lines, status_lines
    from headsearch.run.folder import MASK, PROGRESS, RESULT, RunFolder

    opened = RunFolder.open(folder)
    progress = opened.read_json(PROGRESS)
    if progress is None:
        raise RunFolderError(f"{folder} has no {PROGRESS} yet: the run has not started to search")
    if as_json:
        click.echo(json.dumps(progress, indent=1))
        return
    result, mask = opened.read_json(RESULT), opened.read_json(MASK)
    lines = status_lines(progress)
    if progress["state"] == "done" and result is not None and mask is not None:
        lines += ["", *result_lines(result, mask)]
    click.echo("\n".join(lines))


@cli.command()
@click.argument("target", metavar="RUN_OR_MODEL", type=click.Path(path_type=Path))
@click.option("--data", help="Score on other data, with the columns that the run used.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def verify(target: Path, data: str | None, as_json: bool) -> None:
    """Score a run's mask, or a model, again by the plain transformers forward."""
    from headsearch.report.summary import verify_lines
    from headsearch.run import command

    scores = command.verify(target, data)
    click.echo(json.dumps(scores, indent=1) if as_json else "\n".join(verify_lines(scores)))
    if not scores.get("verified", True):
        sys.exit(NOT_VERIFIED)


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--heads", type=int, help="Remove so many. [the most within the budget]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(EXPORT_FORMATS),
    required=True,
    help="narrow: smaller, transformers loads it with a file that comes along; zeroed: as large as "
    "before, any tool loads it; onnx: for ONNX Runtime.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Must not exist yet.")
def export(folder: Path, heads: int | None, kind: str, out: Path) -> None:
    """Write the model of an operating point of RUN, with tokenizer and model card."""
    from headsearch.report.card import card, export_lines
    from headsearch.run.export import export as export_model

    click.echo("\n".join(export_lines(export_model(folder, out, kind, heads, card))))


@cli.command(epilog="Example: headsearch latency ./model ./small --batch 1 --tokens 128")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--batch", "batches", type=int, multiple=True, help="Examples. [1 and 32]")
@click.option("--tokens", type=int, multiple=True, help="Of each example. [32 and 128]")
@click.option("--threads", type=int, help="CPU threads. [as the libraries choose]")
@click.option("--repeats", type=int, default=15, help="Rounds of measurements. [15]")
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", help="[cpu]")
@click.option("--onnx", is_flag=True, help="Measure each model in ONNX Runtime too.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def latency(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    tokens: tuple[int, ...],
    threads: int | None,
    repeats: int,
    device: str,
    onnx: bool,
    as_json: bool,
) -> None:
    """Measure how long MODELs take, each against the first, and what memory a call needs."""
    from headsearch.report.latency import latency_lines
    from headsearch.run.latency import latency as measure

    measured = measure(
        models,
        batches=batches or (1, 32),
        tokens=tokens or (32, 128),
        repeats=repeats,
        thread_count=threads,
        device=device,
        onnx=onnx,
    )
    click.echo(json.dumps(measured, indent=1) if as_json else "\n".join(latency_lines(measured)))


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--format", "style", type=click.Choice(("html", "md")), default="html", help="[html]")
@click.option("--out", type=click.Path(path_type=Path), help="The file. [RUN/report.html or .md]")
@click.option("--no-examples", is_flag=True, help="Without the answers that changed: no texts.")
def report(folder: Path, style: str, out: Path | None, no_examples: bool) -> None:
    """Write what RUN found as one HTML page, or as Markdown with figures beside it."""
    from headsearch.report.figures import require_matplotlib
    from headsearch.report.page import write_report
    from headsearch.run.findings import gather

    require_matplotlib()  # before anything that takes long
    findings = gather(folder, with_examples=not no_examples)
    for path in write_report(out or folder / f"report.{style}", style, **findings):
        click.echo(path)


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [runs/demo-N]")
def demo(out: Path | None) -> None:
    """The whole way on a real model and real data; no model hub is needed."""
    from headsearch.demo.show import show

    show(out or _next_folder("demo"), Console())


def _config(config_file: Path | None, **options: Any) -> RunConfig:
    """Return what is asked: by the command line, then by the file, then by default."""
    given = {name: value for name, value in options.items() if value is not None}
    if config_file is not None:
        given = read_options(config_file) | given
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in ("model", "data") and given.get(parameter.name) is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    return RunConfig.from_json(given)


def _search(folder: Path, quiet: bool, as_json: bool, call: Callable[[Any], Any]) -> None:
    """Run a search under a progress display, and print how it ended."""
    from headsearch.report.console import Progress
    from headsearch.report.summary import result_lines

    try:
        with Progress(Console(stderr=True), quiet) as progress:
            outcome = call(progress)
    except KeyboardInterrupt:
        # Not through the console: it may be what was interrupted, half way through a line.
        begun = (folder / "config.json").exists()
        text = f"go on with: headsearch resume {folder}" if begun else "nothing was written"
        click.echo(f"headsearch: interrupted; {text}", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(outcome.result, indent=1))
    elif not quiet:
        click.echo("\n".join([*result_lines(outcome.result, outcome.mask), "", f"in {folder}"]))
    if outcome.stopped_by_budget and not outcome.result["best"]["heads_removed"]:
        sys.exit(NOTHING_FOUND)


def _next_folder(name: str) -> Path:
    stem = Path(name).name or "run"
    number = 1
    while (folder := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return folder


def main() -> None:
    """Entry point: every expected error is one line on stderr and exit code 2."""
    try:
        cli(standalone_mode=True)
    except HeadsearchError as error:
        click.echo(f"headsearch: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("headsearch: interrupted", err=True)
        sys.exit(INTERRUPTED)
