"""What a person at a terminal meets: help, status, watching, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete

from headsearch.cli import cli
from tests.report.progress import values

# What a terminal of 80 columns and 24 lines shows, with the prompt.
LINES, COLUMNS = 23, 80


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that some process may be working on."""
    folder = tmp_path / "my runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"format": 1, "asked": {"model": "m", "data": "d"}}')
    return folder


def write(run: Path, **changed: Any) -> None:
    (run / "progress.json").write_text(json.dumps(values(**changed)))


@pytest.mark.parametrize("command", [None, *cli.commands])
def test_help_fits_a_screen_and_gives_an_example(command: str | None, headsearch: Any) -> None:
    shown = headsearch(*([] if command is None else [command]), "--help")
    lines = shown.out.splitlines()
    assert shown.code == 0
    assert len(lines) <= LINES
    assert max(map(len, lines)) < COLUMNS
    assert lines[-1].startswith("  Example: headsearch ")


@pytest.mark.parametrize("command", ["run", "plan", "resume"])
def test_all_options_are_shown_on_demand(command: str, headsearch: Any) -> None:
    shown = headsearch(command, "--help-all")
    assert shown.code == 0
    for parameter in cli.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in shown.out
            assert parameter.help, parameter.name
    assert "--cache-mb" in shown.out
    assert "--cache-mb" not in headsearch(command, "--help").out


def test_resume_says_that_defaults_are_not_its_own(headsearch: Any) -> None:
    words = " ".join(headsearch("resume", "--help").out.split())
    assert "--max-drop X How far the metric may fall, absolute. [0.01]" in words
    assert "What is not given stays as the run had it" in words


def test_a_running_search_is_shown_as_on_its_own_screen(run: Path, headsearch: Any) -> None:
    write(run)
    lines = headsearch("status", run).out.splitlines()
    assert lines[0] == "running"
    assert "removed    50 of 72 heads (69%), accuracy 0.8091" in lines
    assert "accuracy by heads removed" in lines


def test_what_an_old_encoding_lacks_is_a_question_mark(run: Path, headsearch: Any) -> None:
    write(run)
    shown = headsearch("status", run).out
    assert "┤" in shown
    done = subprocess.run(
        [sys.executable, "-m", "headsearch", "status", str(run)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == shown.encode("latin-1", "replace")


def test_a_search_that_has_fallen_silent_says_how_to_go_on(run: Path, headsearch: Any) -> None:
    write(run)
    then = time.time() - 300
    os.utime(run / "progress.json", (then, then))
    line = headsearch("status", run).out.splitlines()[0]
    assert line.startswith("running, but silent for 30")
    assert line.endswith(f"if its process is gone: headsearch resume '{run}'")
    assert headsearch("status", run, "--watch").code == 0  # it does not wait for ever


def test_an_interrupted_search_says_how_to_go_on(run: Path, headsearch: Any) -> None:
    write(run, state="interrupted")
    line = headsearch("status", run).out.splitlines()[0]
    assert line == f"interrupted; go on with: headsearch resume '{run}'"


def test_data_that_went_through_a_function_do_so_again(run: Path, headsearch: Any) -> None:
    write(run, state="interrupted")
    config = json.loads((run / "config.json").read_text())
    config["asked"]["map"] = "my prep.py:clean"
    (run / "config.json").write_text(json.dumps(config))
    line = headsearch("status", run).out.splitlines()[0]
    assert line.endswith(f"go on with: headsearch resume '{run}' --map 'my prep.py:clean'")


def end(run: Path) -> None:
    """Write that a search has failed, with another head removed by then."""
    aside = run / "aside"
    aside.write_text(json.dumps(values(state="failed", best=[51, 0.809, 0.4])))
    aside.rename(run / "progress.json")


def test_watching_goes_on_until_the_run_ends(run: Path) -> None:
    write(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "headsearch", "status", str(run), "--watch"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("50 heads removed, accuracy 0.8091 | ")
    assert process.poll() is None
    end(run)
    rest, _ = process.communicate(timeout=60)
    assert rest.splitlines()[0].startswith("51 heads removed")
    assert rest.splitlines()[-1].startswith("failed; go on with: headsearch resume ")
    assert process.returncode == 0


def test_who_watches_for_json_gets_how_it_ended(run: Path) -> None:
    write(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "headsearch", "status", str(run), "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("50 heads removed, accuracy 0.8091 | ")
    end(run)
    printed, _ = process.communicate(timeout=60)
    ended = json.loads(printed)
    assert (ended["state"], ended["best"][0]) == ("failed", 51)
    assert ended == json.loads((run / "progress.json").read_text())
    assert process.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str, headsearch: Any) -> None:
    shown = headsearch("completion", shell)
    assert shown.code == 0
    assert "_HEADSEARCH_COMPLETE" in shown.out
    assert headsearch("completion", "cmd").code == 2


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    binary = Path(sys.executable).parent / "headsearch"
    script = subprocess.run(
        [binary, "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout

    def complete(*words: str) -> list[str]:
        program = (
            f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); PATH="{binary.parent}:$PATH"\n'
            '_headsearch_completion headsearch; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert complete("headsearch", "re") == ["report", "resume"]
    assert complete("headsearch", "status", "--w") == ["--watch"]
    assert complete("headsearch", "run", "--metric", "p") == ["pearson", "perplexity"]
    assert complete("headsearch", "run", "m", "--max-ev") == ["--max-evaluations"]


@pytest.mark.parametrize(
    ("options", "read"), [((), ""), (("--json",), ""), (("--watch",), "50 heads removed")]
)
def test_a_reader_that_goes_is_no_failed_verification(
    run: Path, options: tuple[str, ...], read: str
) -> None:
    write(run)
    with subprocess.Popen(
        [sys.executable, "-m", "headsearch", "status", str(run), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if read:
            assert process.stdout.readline().startswith(read)
        process.stdout.close()
        end(run)
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_nobody_has_to_read_an_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "headsearch", "verify", str(tmp_path)], stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(60) == 141


@pytest.mark.parametrize(
    "words",
    [
        "run",
        "plan",
        "verify",
        "latency",
        "latency one",
        "run m --data",
        "run m --certify-data",
        "run m --map",
        "run m --config",
        "verify m --data",
        "status",
    ],
)
def test_shells_complete_paths_where_one_may_stand(words: str) -> None:
    completion = BashComplete(cli, {}, "headsearch", "_HEADSEARCH_COMPLETE")
    (found,) = completion.get_completions(words.split(), "./begun")
    assert (found.type, found.value) == ("file", "./begun")


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), OSError("no file is named")])
def test_a_fault_of_its_own_is_no_failed_verification(
    error: Exception, monkeypatch: pytest.MonkeyPatch, headsearch: Any
) -> None:
    def faulty(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("headsearch.run.command.verify", faulty)
    done = headsearch("verify", "model", "--data", "dev.csv")
    assert done.code == 70
    assert f"{type(error).__name__}: {error}" in done.err
    assert "Traceback" in done.err


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("headsearch.run.command.verify", ("verify", "model", "--data", "dev.csv")),
        ("headsearch.run.plan.make_plan", ("plan", "model", "--data", "dev.csv")),
        ("headsearch.run.export.export", ("export", "run", "--format", "zeroed", "--out", "small")),
        ("headsearch.run.latency.latency", ("latency", "model")),
        ("headsearch.run.findings.gather", ("report", "run")),
        ("headsearch.cli.app._config", ("run", "model", "--data", "dev.csv")),
    ],
)
def test_whatever_is_interrupted_does_not_look_as_if_it_had_failed(
    target: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, headsearch: Any
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, interrupted)
    done = headsearch(*options)
    assert (done.code, done.out) == (130, "")
    assert done.err.strip() == "headsearch: interrupted"
