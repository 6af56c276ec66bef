"""`headsearch report` on a real run of a tiny model."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import headsearch as package
from headsearch.cli import cli
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.checkpoint import load_model
from headsearch.model.plain import plain_outputs
from headsearch.run import findings
from headsearch.run.command import resume, start
from headsearch.run.config import RunConfig
from headsearch.run.findings import changed_answers, command_line, gather
from headsearch.run.folder import RunFolder
from headsearch.run.prepare import load_task
from headsearch.task.data import Examples
from tests.report.made import make_run


class Silent:
    def on_progress(self, values: Any) -> None: ...


@pytest.fixture(scope="module")
def config(assets: Any) -> RunConfig:
    return RunConfig(
        model=str(assets.model),
        data=str(assets.data),
        max_drop=0.05,
        engine="inline",
        max_evaluations=30,
    )


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(config, out, Silent())
    return out


def test_the_answers_that_changed_are_those_of_the_narrow_model(run: Path, assets: Any) -> None:
    model, tokenizer = load_model(str(assets.model))
    small = package.prune(model, json.loads((run / "mask.json").read_text()))
    rows = pd.read_csv(assets.data)
    inputs = tokenizer(list(rows["text"]), padding=True, return_tensors="pt")
    with torch.inference_mode():
        before, after = (
            [model.config.id2label[int(i)] for i in each(**inputs).logits.argmax(dim=1)]
            for each in (model, small)
        )
    expected = [
        (text, label, old, new)
        for text, label, old, new in zip(rows["text"], rows["label"], before, after, strict=True)
        if old != new
    ]
    found = gather(run)["changes"]
    assert found["examples"] == 150
    listed = [(e["text"], e["label"], e["before"], e["after"]) for e in found["changed"]]
    assert Counter(listed) == Counter(expected)
    kinds = Counter("worse" if old == label else "better" for _, label, old, _ in expected)
    assert (found["worse"], found["better"]) == (kinds["worse"], kinds["better"])
    right = Counter(label for label, new in zip(rows["label"], after, strict=True) if label == new)
    assert {each["name"]: each["after"] for each in found["classes"]} == right


def test_answers_change_in_three_ways_and_those_that_turned_wrong_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, before = np.array([0, 1, 2, 2, 0, 1]), np.array([1, 1, 2, 0, 1, 0])
    after = np.array([2, 1, 0, 2, 0, -1])
    examples = Examples(list("abcdef"), None, labels)
    names = {0: "no", 1: "yes", 2: "so", -1: "not a number"}
    found = findings._compare(examples, before, after, names)
    assert (found["worse"], found["better"], found["other"]) == (1, 2, 2)
    assert [(each["text"], each["kind"]) for each in found["changed"]] == [
        ("c", "worse"),
        ("d", "better"),
        ("e", "better"),
        ("a", "other"),
        ("f", "other"),
    ]
    last = found["changed"][-1]
    assert (last["label"], last["before"], last["after"]) == ("yes", "no", "not a number")
    assert found["classes"] == [
        {"name": "no", "examples": 2, "before": 0, "after": 1},
        {"name": "yes", "examples": 2, "before": 1, "after": 1},
        {"name": "so", "examples": 2, "before": 1, "after": 1},
    ]
    monkeypatch.setattr(findings, "MOST_CHANGED", 2)
    fewer = findings._compare(examples, before, after, names)
    assert [each["text"] for each in fewer.pop("changed")] == ["c", "d"]
    assert fewer == {name: value for name, value in found.items() if name != "changed"}


def test_only_examples_that_were_searched_on_are_compared(config: RunConfig, run: Path) -> None:
    held = dataclasses.replace(config, certify_fraction=0.4)
    task = load_task(held)
    found = changed_answers(held, task.fingerprint, json.loads((run / "mask.json").read_text()))
    assert found["examples"] == task.data.examples < 100


def test_the_command_writes_the_page_where_it_is_asked_to(
    run: Path, headsearch: Any, tmp_path: Path
) -> None:
    done = headsearch("report", run)
    assert (done.code, done.out.strip()) == (0, str(run / "report.html"))
    assert "turned wrong" in (run / "report.html").read_text()
    done = headsearch("report", run, "--format", "md", "--out", tmp_path / "a.md", "--no-examples")
    assert done.code == 0
    assert "they were not asked for" in (tmp_path / "a.md").read_text()
    assert {Path(line).name for line in done.out.split()} == {p.name for p in tmp_path.iterdir()}


def test_from_python(run: Path, tmp_path: Path) -> None:
    assert package.write_report(run, out=tmp_path / "r.html") == tmp_path / "r.html"
    assert "turned wrong" in (tmp_path / "r.html").read_text()


def test_where_the_data_are_gone_or_changed_the_page_says_so(
    run: Path, assets: Any, tmp_path: Path
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    written = json.loads((moved / "config.json").read_text())
    written["asked"]["data"] = str(tmp_path / "gone.csv")
    (moved / "config.json").write_text(json.dumps(written))
    assert "data file not found" in gather(moved)["changes"]["missing"]
    pd.read_csv(assets.data).iloc[:100].to_csv(tmp_path / "gone.csv", index=False)
    assert "differ from those of the run" in gather(moved)["changes"]["missing"]


def test_why_answers_are_not_shown_is_said_where_the_command_is_given_too(
    run: Path, headsearch: Any, tmp_path: Path
) -> None:
    moved, page = tmp_path / "run", tmp_path / "page.md"
    shutil.copytree(run, moved)
    written = json.loads((moved / "config.json").read_text())
    written["asked"]["map"] = f"{tmp_path}/prep.py:clean"
    (moved / "config.json").write_text(json.dumps(written))
    command = ("report", moved, "--format", "md", "--out", page)
    done = headsearch(*command, "--map", "mop.py:clean")
    reason = "the file of `map` was not found: mop.py"
    assert (done.code, done.err) == (0, f"headsearch: answers are not shown: {reason}\n")
    assert "mop.py" in page.read_text()
    assert headsearch(*command, "--no-examples").err == ""


def test_what_is_no_finished_run_is_refused(headsearch: Any, tmp_path: Path) -> None:
    done = headsearch("report", tmp_path / "none")
    assert (done.code, done.err) == (2, f"headsearch: run folder not found: {tmp_path / 'none'}\n")
    make_run(tmp_path / "run", HeadMap((2, 2)), 5)
    (tmp_path / "run" / "result.json").unlink()
    done = headsearch("report", tmp_path / "run")
    assert done.code == 2
    assert "has no result.json yet: the run is not done" in done.err


def test_a_search_that_was_gone_on_with_and_stopped_half_way_is_not_reported_as_the_one_before(
    run: Path, tmp_path: Path, headsearch: Any
) -> None:
    class Stops:
        def on_progress(self, values: dict[str, Any]) -> None:
            if values["step"] == 3:
                raise KeyboardInterrupt

    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report*"))
    with pytest.raises(KeyboardInterrupt):
        resume(RunFolder.open(copy), {"max_evaluations": 60}, Stops())
    assert (copy / "result.json").read_bytes() == (run / "result.json").read_bytes()
    done = headsearch("report", copy, "--no-examples")
    assert (done.code, done.out) == (2, "")
    assert "transcript.jsonl and result.json" in done.err
    assert f"`headsearch resume {copy}` writes both anew" in done.err
    assert not (copy / "report.html").exists()

    assert headsearch("resume", copy, "--quiet").code == 0
    assert headsearch("report", copy, "--no-examples").code == 0


def test_the_command_that_repeats_a_run_asks_for_the_same() -> None:
    config = RunConfig(
        model="a model's", data="dev.csv", pair_column="b", max_drop=0.02, time_limit=90.0, seed=3
    )
    words = shlex.split(command_line(config))
    assert words[:2] == ["headsearch", "run"]
    read = cli.commands["run"].make_context("run", words[2:]).params
    shown = ("quiet", "as_json")
    assert config == RunConfig(
        **{k: v for k, v in read.items() if v is not None and k not in shown}
    )


def test_long_texts_are_cut(config: RunConfig, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headsearch.run.findings.MOST_CHARACTERS", 10)
    found = gather(run)["changes"]["changed"]
    assert found
    assert all(len(each["text"]) == 10 and each["text"].endswith("…") for each in found)


def test_an_answer_that_is_not_finite_is_wrong(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gather(run)["changes"]

    def broken(model: Any, batches: Any, heads: HeadSet) -> Any:
        outputs = plain_outputs(model, batches, heads)
        if heads:
            outputs[:, 0] = float("nan")
        return outputs

    monkeypatch.setattr("headsearch.run.findings.plain_outputs", broken)
    found = gather(run)["changes"]
    assert [each["after"] for each in found["classes"]] == [0, 0]
    right = sum(each["before"] for each in expected["classes"])
    assert (found["worse"], found["better"], found["other"]) == (right, 0, 150 - right)
    assert {each["after"] for each in found["changed"]} == {"not a number"}
