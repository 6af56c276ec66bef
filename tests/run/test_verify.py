"""`headsearch verify` on points of a run, on other splits, and where things have changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch

from headsearch.model.checkpoint import load_model
from headsearch.model.families import head_map
from headsearch.model.gate import removed_heads
from tests.words import save_folder


@pytest.fixture(scope="module")
def parts(assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search and certify data as splits of one saved folder."""
    folder = tmp_path_factory.mktemp("data") / "parts"
    tables = {"dev": assets.data, "late": assets.certify, "test": assets.held_out}
    made = {name: datasets.Dataset.from_pandas(pd.read_csv(path)) for name, path in tables.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(runs: Path, assets: Any, parts: Path, headsearch: Any) -> Path:
    """A run with a certificate, both on splits of one folder; made once."""
    out = runs / "one"
    if not out.exists():
        args = ["--data", parts, "--split", "dev", "--certify-data", parts]
        args += ["--certify-split", "late", "--max-drop", "0.04", "--engine", "inline"]
        done = headsearch("run", assets.model, *args, "--max-evaluations", 70, "--out", out)
        assert done.code == 0, done.err
    return out


def json_of(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def right(assets: Any, data: Path, removed: list[list[int]]) -> int:
    """Count right answers by nothing but transformers, under gates."""
    model, tokenizer = load_model(str(assets.model))
    rows = pd.read_csv(data)
    inputs = tokenizer(list(rows["text"]), padding=True, return_tensors="pt")
    with torch.inference_mode(), removed_heads(model, head_map(model).from_pairs(removed)):
        answers = model(**inputs).logits.argmax(dim=1)
    return sum(
        model.config.id2label[int(i)] == y for i, y in zip(answers, rows["label"], strict=True)
    )


def test_a_certificate_may_be_made_on_another_split(run: Path, assets: Any) -> None:
    claim = json_of(run, "result.json")["certificate"]["population"]
    assert claim["examples"] == 1200
    assert claim["baseline"]["correct"] == right(assets, assets.certify, [])
    assert json_of(run, "config.json")["asked"]["certify_split"] == "late"


def test_any_point_may_be_verified(run: Path, assets: Any, headsearch: Any) -> None:
    result = json_of(run, "result.json")
    certified = result["certificate"]["population"]["certified"]
    most = result["best"]["heads_removed"]
    mild = next(p for p in result["operating_points"] if 0 < p["heads_removed"] < most)
    safe = result["safer_points"][1]
    for options, point in (
        ((), result["best"]),
        (("--heads", mild["heads_removed"]), mild),
        (("--heads", safe["heads_removed"], "--safer"), safe),
        (("--certified",), certified),
    ):
        done = headsearch("verify", run, *options, "--json")
        found = json.loads(done.out)
        assert found["heads_removed"] == point["heads_removed"]
        assert found["pruned"]["correct"] == right(assets, assets.data, point["removed"])
        assert found["as_searched"]
        assert done.code == 0
    lines = headsearch("verify", run, "--certified", "--data", assets.held_out).out.splitlines()
    assert len(lines) == 2
    assert f"after removing {certified['heads_removed']} of 12 heads" in lines[0]


def test_the_certified_point_is_exported_by_its_name(
    run: Path, tmp_path: Path, headsearch: Any
) -> None:
    done = headsearch("export", run, "--certified", "--format", "narrow", "--out", tmp_path / "m")
    assert done.code == 0, done.err
    assert json_of(tmp_path / "m", "mask.json") == json_of(run, "certified_mask.json")
    assert f"export {run} --certified --format narrow" in (tmp_path / "m" / "README.md").read_text()


def test_another_split_of_the_runs_own_data(
    run: Path, parts: Path, assets: Any, headsearch: Any
) -> None:
    best = json_of(run, "result.json")["best"]["removed"]
    for options in (("--split", "test"), ("--data", parts, "--split", "test")):
        found = json.loads(headsearch("verify", run, *options, "--json").out)
        assert found["examples"] == 90
        assert found["baseline"]["correct"] == right(assets, assets.held_out, [])
        assert found["pruned"]["correct"] == right(assets, assets.held_out, best)
        assert "as_searched" not in found


def test_a_file_has_no_splits(run: Path, assets: Any, tmp_path: Path, headsearch: Any) -> None:
    done = headsearch("verify", run, "--data", assets.held_out, "--split", "test")
    assert done.code == 2
    assert f"`split` must not be given as {assets.held_out} is one file" in done.err
    # The run's own split is of its own data, and so is that of its certify data.
    assert headsearch("verify", run, "--data", assets.held_out).code in (0, 1)
    again, config = tmp_path / "again", ("run", "--config", run / "config.json")
    for data in (("--data", assets.data), ("--certify-data", assets.certify)):
        out = tmp_path / data[0]
        done = headsearch(*config, *data, "--out", out)
        assert done.code == 0, done.err
        for name in ("transcript.jsonl", "mask.json"):
            assert (out / name).read_bytes() == (run / name).read_bytes()
    shutil.copytree(run, again)
    held = ("--certify-data", assets.certify)
    done = headsearch("resume", again, *held, "--certify-split", "late")
    assert done.code == 2
    assert f"`certify_split` must not be given as {assets.certify} is one file" in done.err
    assert headsearch("resume", again, *held).code == 0
    assert json_of(again, "config.json")["asked"]["certify_split"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--safer",), "`safer` must come with `heads`"),
        (("--heads", 0), "no operating point has 0 heads removed; there are "),
        (("--heads", 99), "no operating point has 99 heads removed; there are "),
        (("--certified", "--heads", 2), "`certified` is one point by itself"),
        (("--text-column", "text"), "`text_column` must not be given with a run"),
        (("--split", "none"), "none"),
    ],
)
def test_what_can_not_be_verified_is_refused(
    options: tuple[Any, ...], message: str, run: Path, headsearch: Any
) -> None:
    done = headsearch("verify", run, *options)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert message in line


def test_a_model_has_no_points(assets: Any, headsearch: Any) -> None:
    done = headsearch("verify", assets.model, "--data", assets.data, "--heads", 3)
    assert (done.code, "a model has no points to choose from" in done.err) == (2, True)


def test_another_model_by_now_is_refused_and_other_data_are_named(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    moved, config = tmp_path / "run", json_of(run, "config.json")
    shutil.copytree(run, moved)
    model, _ = load_model(str(assets.model))
    with torch.no_grad():
        model.classifier.bias += 0.25
    config["asked"]["model"] = str(save_folder(tmp_path / "model", model))
    (moved / "config.json").write_text(json.dumps(config))
    done = headsearch("verify", moved)
    assert done.code == 2
    assert f"the model's weights differ from those that {moved} searched" in done.err

    config["asked"] |= {"model": str(assets.model), "data": str(assets.held_out), "split": None}
    (moved / "config.json").write_text(json.dumps(config))
    done = headsearch("verify", moved)
    assert "Data, or versions of libraries, are not those that were searched." in done.out
    assert not json.loads(headsearch("verify", moved, "--json").out)["as_searched"]


def test_a_certify_split_needs_certify_data(assets: Any, headsearch: Any) -> None:
    done = headsearch("run", assets.model, "--data", assets.data, "--certify-split", "late")
    assert done.code == 2
    assert "`certify_split` needs `certify_data`, of which it is a split" in done.err
