"""The commands."""

from __future__ import annotations

import io
import json
import shlex
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class
from rich.console import Console

from headsearch import __version__
from headsearch.cli import options
from headsearch.cli.helping import Command, Common
from headsearch.cli.options import MAYBE_PATH, PATH
from headsearch.errors import FolderTakenError, HeadsearchError
from headsearch.run.config import EXPORT_FORMATS, RunConfig, inherited
from headsearch.run.options import read_options
from headsearch.task.metric import METRICS

INTERRUPTED = 130
NOTHING_FOUND = 3
NOT_VERIFIED = 1
FAULT = 70  # EX_SOFTWARE of sysexits.h
UNREAD = 141  # as shells call the end of a command whose output nobody reads: 128 and SIGPIPE
SHELLS = ("bash", "zsh", "fish")


@click.group(
    epilog="Example: headsearch run ./model --data dev.csv --max-drop 0.01",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="headsearch")
def cli() -> None:
    """Remove attention heads while a metric stays within a budget that you state."""


@cli.command(
    cls=Command,
    epilog="Example: headsearch run ./model --data dev.csv --max-drop 0.01",
    short_help="Search a model on labelled validation data.",
)
@options.search
@click.option("--memo", type=PATH, help="Share scores in this file. [OUT/memo.sqlite]")
@options.shown
def run(out: Path | None, memo: Path | None, quiet: bool, as_json: bool, **given: Any) -> None:
    """Search MODEL, a local folder or a hub name, on labelled validation data."""
    config = _config(**given)
    from headsearch.run.command import start  # torch and transformers take seconds to import

    while True:
        folder = out or _next_folder(config.model)
        call = partial(start, config, folder, memo=memo)
        try:
            return _search(folder, quiet, as_json, call)
        except FolderTakenError:
            if out is not None:
                raise  # else a run that was started beside this one has it: the next one is free


@cli.command(
    cls=Command,
    epilog="Example: headsearch plan ./model --data dev.csv --price-per-hour 2.5",
    short_help="Say what a search will cost, before.",
)
@options.search
@click.option("--price-per-hour", type=float, help="Of one worker: says the cost too.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(out: Path | None, price_per_hour: float | None, as_json: bool, **given: Any) -> None:
    """Check all that a run of MODEL needs, probe the speed, and say what the search will cost."""
    config = _config(**given)
    from headsearch.report.plan_text import plan_lines
    from headsearch.run.plan import make_plan

    found = make_plan(config, out or _next_folder(config.model), price_per_hour)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(plan_lines(found)))


@cli.command(
    cls=Command,
    epilog="Example: headsearch resume runs/model-1 --max-drop 0.02",
    short_help="Go on with a run; budgets may change.",
)
@click.argument("folder", metavar="RUN", type=PATH)
@options.resumable
@options.shown
def resume(folder: Path, quiet: bool, as_json: bool, **given: Any) -> None:
    """Go on with RUN; budgets, certificate and engine may change. Every score it has is used.

    What is not given stays as the run had it: defaults below are those of a new run.
    """
    from headsearch.run import command
    from headsearch.run.folder import RunFolder

    opened = RunFolder.open(folder)
    changes = {k: v for k, v in given.items() if v is not None}
    _search(folder, quiet, as_json, lambda watcher: command.resume(opened, changes, watcher))


@cli.command(
    epilog="Example: headsearch status runs/model-1 --watch", short_help="Show how a run is going."
)
@click.argument("folder", metavar="RUN", type=PATH)
@click.option("--watch", "stay", is_flag=True, help="Stay, and show how it goes until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print progress.json to stdout.")
def status(folder: Path, stay: bool, as_json: bool) -> None:
    """Show how RUN is going, from any machine that sees its folder."""
    from headsearch.report.console import StderrConsole
    from headsearch.report.screen import screen_lines
    from headsearch.report.summary import result_lines
    from headsearch.report.watch import state_line, wait_for_start, watch
    from headsearch.run.folder import MASK, PROGRESS, RESULT, RunFolder

    opened = RunFolder.open(folder)
    console = StderrConsole() if as_json else Console()
    if stay:
        wait_for_start(lambda: opened.read_json(PROGRESS))
    progress = opened.progress()
    if stay:
        progress = watch(opened.progress, opened.progress_age, console)
    if as_json:
        click.echo(json.dumps(progress, indent=1))
        return
    lines = [state_line(progress, opened.progress_age(), _resume_command(folder))]
    if not stay:
        lines += screen_lines(progress, console.width)
    result, mask = opened.read_json(RESULT), opened.read_json(MASK)
    if progress["state"] == "done" and result is not None and mask is not None:
        lines += ["", *result_lines(result, mask)]
    click.echo("\n".join(lines))


@cli.command(
    cls=Command,
    epilog="Example: headsearch verify runs/model-1 --data held_out.csv",
    short_help="Score a run's mask again by the plain forward.",
)
@click.argument("target", metavar="RUN_OR_MODEL", type=PATH)
@options.point
@click.option(
    "--data", cls=Common, help="Score on other data, with the run's columns.", **MAYBE_PATH
)
@click.option("--metric", type=click.Choice(METRICS), metavar="NAME", help="Of a model. [its own]")
@options.columns
@click.option("--max-length", type=int, help="Cut texts to so many tokens.")
@click.option("--json", "as_json", cls=Common, is_flag=True, help="Print the scores as JSON.")
@options.map_by
def verify(
    target: Path,
    data: str | None,
    as_json: bool,
    map: str | None,
    heads: int | None,
    safer: bool,
    certified: bool,
    **given: Any,
) -> None:
    """Score a run's mask, or a model, again by the plain transformers forward.

    A run knows its metric and columns; of a model they are given, as to `headsearch run`.
    """
    from headsearch.report.summary import verify_lines
    from headsearch.run import command

    given = {name: value for name, value in given.items() if value is not None}
    chosen = {"heads": heads, "safer": safer, "certified": certified}
    point = chosen if heads is not None or safer or certified else None
    scores = command.verify(target, data, map, given, point)
    click.echo(json.dumps(scores, indent=1) if as_json else "\n".join(verify_lines(scores)))
    if not scores.get("verified", True):
        click.get_current_context().exit(NOT_VERIFIED)


@cli.command(
    epilog="Example: headsearch export runs/model-1 --format narrow --out small",
    short_help="Write the pruned model of a run.",
)
@click.argument("folder", metavar="RUN", type=PATH)
@options.point
@click.option(
    "--format",
    "kind",
    type=click.Choice(EXPORT_FORMATS),
    required=True,
    help="narrow: smaller, transformers loads it with a file that comes along; zeroed: as large as "
    "before, any tool loads it; onnx: for ONNX Runtime.",
)
@click.option("--out", type=PATH, required=True, help="Must not exist yet.")
def export(folder: Path, kind: str, out: Path, **point: Any) -> None:
    """Write the model of an operating point of RUN, with tokenizer and model card."""
    from headsearch.report.card import card, export_lines
    from headsearch.run.export import export as export_model

    click.echo("\n".join(export_lines(export_model(folder, out, kind, card=card, **point))))


@cli.command(
    epilog="Example: headsearch latency ./model ./small --batch 1 --tokens 128",
    short_help="Measure models against each other.",
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, **MAYBE_PATH)
@click.option("--batch", "batches", type=int, multiple=True, help="Examples. [1 and 32]")
@click.option("--tokens", type=int, multiple=True, help="Of each text. [32 and 128]")
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


@cli.command(
    epilog="Example: headsearch report runs/model-1 --no-examples",
    short_help="Write what a run found as one page.",
)
@click.argument("folder", metavar="RUN", type=PATH)
@click.option("--format", "style", type=click.Choice(("html", "md")), default="html", help="[html]")
@click.option("--out", type=PATH, help="The file. [RUN/report.html or .md]")
@click.option("--no-examples", is_flag=True, help="Without the answers that changed: no texts.")
@options.map_by
def report(folder: Path, style: str, out: Path | None, no_examples: bool, map: str | None) -> None:
    """Write what RUN found as one HTML page, or as Markdown with figures beside it."""
    from headsearch.report.figures import require_matplotlib
    from headsearch.report.page import write_report
    from headsearch.run.findings import gather

    require_matplotlib()  # before anything that takes long
    findings = gather(folder, with_examples=not no_examples, map_by=map)
    for path in write_report(out or folder / f"report.{style}", style, **findings):
        click.echo(path)
    if not no_examples and (missing := findings["changes"].get("missing")):
        click.echo(f"headsearch: answers are not shown: {missing}", err=True)


@cli.command(
    epilog="Example: headsearch demo --out runs/demo",
    short_help="Prune a real model on real data, no hub needed.",
)
@click.option("--out", type=PATH, help="Run folder. [runs/demo-N]")
def demo(out: Path | None) -> None:
    """The whole way on a real model and real data; no model hub is needed."""
    from headsearch.demo.show import show

    show(out or _next_folder("demo"), Console())


@cli.command(
    epilog="Example: headsearch completion bash >> ~/.bash_completion",
    short_help="Let a shell complete commands and options.",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what lets SHELL complete commands, options and paths."""
    found = get_completion_class(shell)
    assert found is not None  # it is one of those that there are
    click.echo(found(cli, {}, "headsearch", "_HEADSEARCH_COMPLETE").source())


def _config(config_file: Path | None, **values: Any) -> RunConfig:
    """Return what is asked: by the command line, then by the file, then by default."""
    given = {name: value for name, value in values.items() if value is not None}
    if config_file is not None:
        given = inherited(read_options(config_file, given.get("map")), given)
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in ("model", "data") and given.get(parameter.name) is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    return RunConfig.from_json(given)


def _search(folder: Path, quiet: bool, as_json: bool, call: Callable[[Any], Any]) -> None:
    """Run a search under a progress display, and print how it ended."""
    from headsearch.report.console import Progress, StderrConsole
    from headsearch.report.summary import result_lines

    title = f"headsearch: {folder} (Ctrl-C stops it, and it can be resumed)"
    try:
        with Progress(StderrConsole(), quiet, title) as progress:
            outcome = call(progress)
    except KeyboardInterrupt:
        # Not through the console: it may be what was interrupted, half way through a line.
        begun = (folder / "config.json").exists()
        text = f"go on with: {_resume_command(folder)}" if begun else "nothing was written"
        click.echo(f"headsearch: interrupted; {text}", err=True)
        click.get_current_context().exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(outcome.result, indent=1))
    elif not quiet:
        click.echo("\n".join([*result_lines(outcome.result, outcome.mask), "", f"in {folder}"]))
    if outcome.stopped_by_budget and not outcome.result["best"]["heads_removed"]:
        click.get_current_context().exit(NOTHING_FOUND)


def _resume_command(folder: Path) -> str:
    """Return what goes on with a run; where its data went through a function, that is named again.

    The function's code is run, so a run folder that somebody gave away must not be enough.
    """
    from headsearch.run.folder import RunFolder

    map_by = RunFolder.open(folder).config()[0].map
    words = ["headsearch", "resume", str(folder), *(["--map", map_by] if map_by else [])]
    return shlex.join(words)


def _next_folder(name: str) -> Path:
    stem = Path(name).name or "run"
    number = 1
    while (folder := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return folder


def main() -> None:
    """Entry point: every expected error is one line on stderr and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # blocks and dots are not in every encoding
        sys.stdout.reconfigure(errors="replace")
    try:
        _main()
    except BrokenPipeError:  # nobody reads the error either
        from headsearch.report.console import silence

        silence(sys.stderr)
        sys.exit(UNREAD)
    except Exception:  # Python's own exit code for it is `NOT_VERIFIED`
        traceback.print_exc()
        sys.exit(FAULT)


def _main() -> None:
    try:
        # Not standalone: click would end with 1 where it is interrupted, which is `NOT_VERIFIED`.
        code = cli.main(standalone_mode=False)
    except SystemExit as ended:  # commands return their codes: click or rich found a closed pipe
        sys.exit(UNREAD if ended.code == 1 else ended.code)
    except HeadsearchError as error:
        click.echo(f"headsearch: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:  # not about a path that a user gave
            raise
        click.echo(f"headsearch: can't use {error.filename}: {error.strerror}", err=True)
        sys.exit(HeadsearchError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("headsearch: interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code)
