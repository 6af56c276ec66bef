"""Options from a file: what a run was asked is taken back, and every mistake is one clear line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headsearch.cli import cli
from headsearch.errors import InputError
from headsearch.run.config import RunConfig
from headsearch.run.options import read_options


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without --out writes into the folder that it is started in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def refuse(tmp_path: Path, headsearch: Any) -> Any:
    """Run with a file of this content and expect one line on stderr, and nothing written."""

    def call(content: str | bytes, message: str, *options: object) -> None:
        file = tmp_path / "options.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        for command in ("run", "plan"):
            done = headsearch(command, "--config", file, *options)
            assert (done.code, done.out) == (2, "")
            (line,) = done.err.strip().splitlines()
            assert line.startswith("headsearch: ")
            assert message in line
        assert list(Path.cwd().iterdir()) == []

    return call


def test_a_run_repeats_another_by_its_config(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    options = ("--max-drop", 0.03, "--engine", "inline", "--max-evaluations", 20, "--seed", 7)
    done = headsearch("run", assets.model, "--data", assets.data, *options, "--out", first)
    assert done.code == 0, done.err

    assert headsearch("run", "--config", first / "config.json", "--out", second).code == 0
    for name in ("transcript.jsonl", "mask.json", "config.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes()

    again = ("run", "--config", first / "config.json", "--max-evaluations", 4, "--out", third)
    assert headsearch(*again).code == 0
    asked = [json.loads((run / "config.json").read_text())["asked"] for run in (first, third)]
    assert asked[1] == {**asked[0], "max_evaluations": 4}


@pytest.mark.parametrize("spelling", ["max_evaluations", "max-evaluations"])
def test_a_plain_object_holds_options_by_their_names(
    assets: Any, tmp_path: Path, headsearch: Any, spelling: str
) -> None:
    file, out = tmp_path / "options.json", tmp_path / "run"
    data = str(assets.data)
    file.write_text(
        json.dumps({"data": data, "engine": "inline", spelling: 3, "time_limit": "30m"})
    )
    done = headsearch("run", assets.model, "--config", file, "--out", out)
    assert done.code in (0, 3), done.err
    asked = json.loads((out / "config.json").read_text())["asked"]
    expected = RunConfig(
        model=str(assets.model), data=data, engine="inline", max_evaluations=3, time_limit=1800.0
    )
    assert asked == expected.to_json()


def test_every_option_can_be_in_a_file(tmp_path: Path) -> None:
    config = RunConfig(model="m", data="d", max_drop=0.02, workers=2, engine="ray", seed=3)
    file = tmp_path / "options.json"
    file.write_text(json.dumps(config.to_json()))
    assert RunConfig.from_json(read_options(file)) == config
    named = {parameter.name for parameter in cli.commands["run"].params}
    assert set(config.to_json()) <= named  # the command line knows each by the same name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"max_dorp": 0.1}', "unknown option 'max_dorp' in a run's configuration; did you mean "),
        ('{"max_dorp": 0.1}', "`max_drop`?"),
        ('{"max-evaluation": 1}', "did you mean `max_evaluations`?"),
        ('{"zzz": 1}', "unknown option 'zzz' in a run's configuration; there are model, data, "),
        ('{"max_drop": "0.01"}', "`max_drop` must be a number but got '0.01'"),
        ('{"max_drop": null}', "`max_drop` must be a number but got None"),
        ('{"max_drop": [1]}', "`max_drop` must be a number but got [1]"),
        ('{"max_drop": 1}', "`max_drop` must be in [0, 1) but got 1"),
        ('{"max_drop": NaN}', "`max_drop` must be in [0, 1) but got nan"),
        ('{"workers": 2.5}', "`workers` must be a whole number but got 2.5"),
        ('{"workers": true}', "`workers` must be a whole number but got True"),
        ('{"metric": 3}', "`metric` must be a text but got 3"),
        ('{"metric": "bleu"}', "`metric` must be one of accuracy, "),
        ('{"split": {}}', "`split` must be a text but got {}"),
        ('{"time_limit": "soon"}', "a duration must be like 90, 30m, 1.5h or 1h30m but got 'soon'"),
        ('{"time_limit": Infinity}', "`time_limit` must not be negative but got inf"),
        ('{"gpus_per_worker": 1.5}', "`gpus_per_worker` must be a share of one GPU or a whole num"),
        ('{"gpus_per_worker": -1' + "0" * 400 + "}", "`gpus_per_worker` must not be negative"),
        ('{"certify_data": "a", "certify_fraction": 0.5}', "exclude each other"),
        ('{"seed": 1, "seed": 2}', "`seed` must be given once in a configuration but is there twi"),
        ('{"max_drop": 0.1, "max-drop": 0.2}', "`max_drop` must be given once"),
        ('{"out": "runs/1"}', "`out` in "),
        ('{"out": "runs/1"}', "must be given on the command line instead"),
        ('{"format": 2, "asked": {}}', "must have format 1 but has 2"),
        ('{"format": 1, "asked": [1]}', "must hold a JSON object of options but got [1]"),
        ("[]", "must hold a JSON object of options but got []"),
        ("", "must hold JSON: "),
        ("{max_drop: 1}", "must hold JSON: "),
        ("[" * 100_000, "must hold JSON: "),
        (b"\xff\xfe", "must hold JSON: "),
    ],
)
def test_mistakes(refuse: Any, content: str | bytes, message: str) -> None:
    refuse(content, message, "a model", "--data", "a.csv")


def test_no_such_file(tmp_path: Path, headsearch: Any) -> None:
    done = headsearch("run", "--config", "no.json")
    assert (done.code, done.err) == (2, "headsearch: configuration not found: no.json\n")
    done = headsearch("run", "--config", tmp_path)
    assert (done.code, done.err) == (2, f"headsearch: {tmp_path} can't be read: Is a directory\n")


def test_model_and_data_must_come_from_somewhere(tmp_path: Path, headsearch: Any) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"data": "a.csv"}')
    for options, missing in (
        (("--config", file), "Missing argument 'MODEL'"),
        (("a model",), "Missing option '--data'"),
        ((), "Missing argument 'MODEL'"),
    ):
        done = headsearch("run", *options)
        assert done.code == 2
        assert missing in done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float32(0.05), 0.05),  # the decimal that was written, not the float32 next to it
        (np.float64(0.05), 0.05),
        (np.int8(0), 0.0),
        (Fraction(1, 4), 0.25),
    ],
)
def test_numbers_of_other_libraries_are_kept_as_pythons(given: Any, kept: float) -> None:
    config = RunConfig(model="m", data="d", max_drop=given, workers=np.int64(2))  # type: ignore[arg-type]  # as NumPy's users do
    assert (config.max_drop, type(config.max_drop)) == (kept, float)
    assert type(config.workers) is int
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_types_are_checked_in_python_too() -> None:
    with pytest.raises(InputError, match="`max_evaluations` must be a whole number but got '80'"):
        RunConfig(model="m", data="d", max_evaluations="80")  # type: ignore[arg-type]  # wrong on purpose
