"""Rows that go through a function of the user's own first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import headsearch as headsearch_api
from headsearch.errors import DataError, InputError
from headsearch.task.data import load_examples

FUNCTION = """
def clean(row):
    return {"text": row["body"].removeprefix("> "), "label": row["mood"].lower()}

def late(row):
    return {"text": row["nothing"]}

def bare(row):
    return 5

table = {"a": 1}

def leave(row):
    raise SystemExit(1)
"""


@pytest.fixture
def prep(tmp_path: Path) -> Path:
    file = tmp_path / "prep.py"
    file.write_text(FUNCTION)
    return file


def quoted(data: Path, folder: Path) -> Path:
    """The same rows in another form, which the function undoes."""
    rows = pd.read_csv(data)
    changed = pd.DataFrame({"body": "> " + rows["text"], "mood": rows["label"].str.upper()})
    file = folder / "raw.csv"
    changed.to_csv(file, index=False)
    return file


def load(data: Path, named: str) -> Any:
    return load_examples(str(data), id2label={0: "neg", 1: "pos"}, classes=2, map_by=named)


def test_the_function_makes_texts_and_labels(prep: Path, assets: Any, tmp_path: Path) -> None:
    found = load(quoted(assets.data, tmp_path), f"{prep}:clean")
    plain = pd.read_csv(assets.data)
    assert found.texts == list(plain["text"])
    assert list(found.labels) == [int(name == "pos") for name in plain["label"]]


def test_the_file_may_have_data_classes_and_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_prep.py").write_text("MARK = '> '\n")
    (tmp_path / "later_prep.py").write_text("def low(text):\n    return text.lower()\n")
    file = tmp_path / "prep.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from beside_prep import MARK\n"
        "@dataclass\n"
        "class Row:\n"
        "    text: str\n"
        "def clean(row):\n"
        "    from later_prep import low\n"
        "    text = Row(row['body'].removeprefix(MARK)).text\n"
        "    return {'text': text, 'label': low(row['mood'])}\n"
    )
    data = tmp_path / "raw.csv"
    data.write_text("body,mood\n> good,POS\n> bad,NEG\n")
    assert load(data, f"{file}:clean").texts == ["good", "bad"]


def test_nothing_is_written_beside_the_data(prep: Path, tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "saved"
    rows = {"body": ["> a", "b"], "mood": ["NEG", "POS"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    before = sorted(folder.iterdir())
    assert load(folder, f"{prep}:clean").texts == ["a", "b"]
    assert sorted(folder.iterdir()) == before


def test_what_the_function_prints_is_no_part_of_the_output(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    file = tmp_path / "prep.py"
    file.write_text("print('begin')\n" + FUNCTION.replace("(row):", "(row):\n    print('a row')"))
    data = quoted(assets.data, tmp_path)
    options = ("--data", data, "--map", f"{file}:clean", "--json")
    done = headsearch("verify", assets.model, *options)
    assert json.loads(done.out)["examples"] == 150
    said = done.err.splitlines()
    assert (said.count("begin"), said.count("a row")) == (1, 150)


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ("clean", InputError, "`map` must be FILE.py:FUNCTION but got 'clean'"),
        ("prep.py", InputError, "`map` must be FILE.py:FUNCTION but got 'prep.py'"),
        ("prep.py:a-b", InputError, "`map` must be FILE.py:FUNCTION but got 'prep.py:a-b'"),
        ("os:system", InputError, "`map` must be FILE.py:FUNCTION but got 'os:system'"),
        ("none.py:clean", InputError, "the file of `map` was not found: "),
        ("prep.py:cleen", InputError, "must have the function 'cleen' but has bare, clean, late"),
        ("prep.py:table", InputError, "must have the function 'table' but has bare, clean, late"),
        ("prep.py:late", DataError, "failed on the data: KeyError: 'nothing' (line 6)"),
        ("prep.py:bare", DataError, "failed on the data: TypeError: "),
        ("wrong.py:clean", DataError, "could not be run: ZeroDivisionError: "),
        ("torn.py:clean", DataError, "could not be run: SyntaxError: "),
        ("script.py:clean", DataError, "could not be run: SystemExit: 0 (line 4)"),
        ("prep.py:leave", DataError, "failed on the data: SystemExit: 1 (line 14)"),
    ],
)
def test_what_is_wrong_is_one_line(
    prep: Path, assets: Any, tmp_path: Path, named: str, error: type, message: str
) -> None:
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "torn.py").write_text("def (:\n")
    # A script that nothing keeps from running when it is imported.
    script = "import sys\ndef clean(row):\n    return {}\nsys.exit(0)\n"
    (tmp_path / "script.py").write_text(script)
    data = quoted(assets.data, tmp_path)
    named = f"{tmp_path}/{named}" if ".py" in named else named
    with pytest.raises(error) as caught:
        load(data, named)
    assert type(caught.value) is error
    text = str(caught.value).replace(f"{tmp_path}/", "")
    assert message in text
    assert "\n" not in text


def test_a_run_by_a_function_is_the_run_on_what_it_makes(
    prep: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    raw, options = quoted(assets.data, tmp_path), ("--engine", "inline", "--max-evaluations", 30)
    one, two = tmp_path / "one", tmp_path / "two"
    by = ("--map", f"{prep}:clean")
    done = headsearch("run", assets.model, "--data", raw, *by, "--out", one, *options)
    assert done.code == 0, done.err
    headsearch("run", assets.model, "--data", assets.data, "--out", two, *options)
    for name in ("transcript.jsonl", "mask.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()

    # No command that needs the data again runs the code on the word of the run folder.
    for command in (("verify", one), ("resume", one), ("report", one)):
        refused = headsearch(*command)
        assert refused.code == 2
        assert "`map` must be given again: the run's data went through " in refused.err
        assert headsearch(*command, *by).code == 0
    assert "`map` must not be given as the run had none" in headsearch("verify", two, *by).err
    headsearch_api.write_report(one, out=tmp_path / "page.html", map=by[1])
    assert "turned wrong" in (tmp_path / "page.html").read_text()
    with pytest.raises(InputError, match="`map` must be given again"):
        headsearch_api.write_report(one, out=tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()
    # Without the answers that changed it needs no data, and so no code.
    assert headsearch("report", one, "--no-examples").code == 0

    # Nor on that of a file of options; one without is as good as any.
    again = ("run", "--config", one / "config.json", "--out", tmp_path / "three")
    refused = headsearch(*again)
    assert refused.code == 2
    assert "`map` in " in refused.err
    assert "must be given on the command line instead" in refused.err
    done = headsearch(*again, *by)
    assert done.code == 0, done.err
    for name in ("transcript.jsonl", "mask.json", "config.json"):
        assert (tmp_path / "three" / name).read_bytes() == (one / name).read_bytes()
    config = json.loads((two / "config.json").read_text())
    assert config["asked"]["map"] is None
    done = headsearch("run", "--config", two / "config.json", "--out", tmp_path / "four")
    assert done.code == 0, done.err
