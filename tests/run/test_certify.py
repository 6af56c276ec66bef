"""Runs with a certificate: it tells of the certify split alone, and the search does not see it."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headsearch.heads import HeadMap, HeadSet
from headsearch.model.checkpoint import load_model
from headsearch.model.narrow import narrowed
from headsearch.run.config import RunConfig
from headsearch.run.prepare import load_task
from headsearch.search.certificate import Flips, p_value, upper_bound

BUDGET = ("--max-drop", "0.04", "--engine", "inline", "--max-evaluations", "70")


def json_of(run: Path, name: str = "result.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def claim_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json_of(run)["certificate"]["population"]
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def certified(runs: Path, assets: Any, headsearch: Any) -> Path:
    """A run with a certificate; made once."""
    out = runs / "certified"
    if not out.exists():
        args = ("--certify-data", assets.certify, "--out", out)
        done = headsearch("run", assets.model, "--data", assets.data, *BUDGET, *args)
        assert done.code == 0, done.err
        assert "With 95 % confidence, over draws of the 1200 certify examples, removing" in done.out
        assert "on the population by at most 0.04." in done.out
    return out


@pytest.fixture
def plain(runs: Path, assets: Any, headsearch: Any) -> Path:
    """The same run without a certificate; made once."""
    out = runs / "plain"
    if not out.exists():
        done = headsearch("run", assets.model, "--data", assets.data, *BUDGET, "--out", out)
        assert done.code == 0, done.err
        assert "Nothing is claimed about other data: no certify examples were given." in done.out
    return out


def right(model: Any, tokenizer: Any, data: Path) -> list[bool]:
    """Which answers are right, by nothing but transformers, without gates or batches' order."""
    rows = pd.read_csv(data)
    inputs = tokenizer(list(rows["text"]), padding=True, return_tensors="pt")
    chosen = model(**inputs).logits.argmax(dim=1).tolist()
    names = [model.config.id2label[one] for one in chosen]
    return [one == label for one, label in zip(names, rows["label"], strict=True)]


def test_the_counts_are_those_of_the_certify_data_alone(certified: Path, assets: Any) -> None:
    """Would fail if a point was tested on the search split, or on scores the search had made."""
    claim = claim_of(certified)
    model, tokenizer = load_model(str(assets.model))
    shape = HeadMap((4, 4, 4))
    before = right(model, tokenizer, assets.certify)
    assert claim["examples"] == len(before) == 1200
    assert claim["baseline"]["correct"] == sum(before)
    assert claim["tried"], "something was tried"
    for point in claim["tried"]:
        pruned = narrowed(model, shape.from_pairs(point["removed"]))
        after = right(pruned, tokenizer, assets.certify)
        pairs = list(zip(before, after, strict=True))
        assert point["worse"] == pairs.count((True, False))
        assert point["better"] == pairs.count((False, True))
        assert point["correct"] == sum(after)
        flips = Flips(1200, point["worse"], point["better"])
        assert point["p_value"] == p_value(flips, Fraction("0.04"), claim["alpha"])
        assert point["passed"] == (point["p_value"] <= 0.05)


def test_points_are_those_of_the_search_in_the_order_of_heads_removed(certified: Path) -> None:
    result, claim = json_of(certified), claim_of(certified)
    feasible = [
        point["removed"]
        for point in result["operating_points"]
        if point["metric"] >= result["threshold"]
        and 0 < point["heads_removed"] < result["best"]["heads_removed"]
    ]
    order = [*reversed(feasible), result["best"]["removed"]]
    tried = [point["removed"] for point in claim["tried"]]
    assert claim["points"] == len(order)
    assert tried == order[: len(tried)]
    passed = [point["passed"] for point in claim["tried"]]
    assert all(passed[:-1])
    assert passed[-1] == (len(tried) == len(order))
    last = [point for point in claim["tried"] if point["passed"]][-1]
    assert last.items() <= claim["certified"].items()
    bound = upper_bound(Flips(1200, last["worse"], last["better"]), 0.05)
    assert claim["certified"]["upper_bound_alone"] == float(bound) <= 0.04
    assert (claim["offered"], claim["confidence"], claim["max_drop"]) == (True, 0.95, 0.04)
    assert claim["alpha"] == 0.05


def test_the_certified_mask_is_written_beside_the_other(certified: Path, plain: Path) -> None:
    shape, removed = HeadMap.from_mask(json_of(certified, "certified_mask.json"))
    assert shape == HeadMap((4, 4, 4))
    assert shape.pairs(removed) == claim_of(certified)["certified"]["removed"]
    assert (certified / "mask.json").read_bytes() == (plain / "mask.json").read_bytes()
    assert not (plain / "certified_mask.json").exists()


def test_the_search_does_not_see_the_certify_data(certified: Path, plain: Path) -> None:
    same = "transcript.jsonl"
    assert (certified / same).read_bytes() == (plain / same).read_bytes()
    ours, theirs = json_of(certified), json_of(plain)
    for name in ("best", "operating_points", "safer_points", "threshold", "evaluations"):
        assert ours[name] == theirs[name]
    fingerprints = {json_of(run, "config.json")["fingerprint"] for run in (certified, plain)}
    assert len(fingerprints) == 1
    assert claim_of(plain) == {"offered": False, "reason": "no certify examples were given"}


def test_certify_data_on_which_the_heads_matter_certify_nothing(
    certified: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    """The same search, another certify split: those examples that the first point gets wrong."""
    run, data = tmp_path / "run", tmp_path / "hard.csv"
    shutil.copytree(certified, run)
    first = claim_of(certified)["tried"][0]
    model, tokenizer = load_model(str(assets.model))
    pruned = narrowed(model, HeadMap((4, 4, 4)).from_pairs(first["removed"]))
    rows = pd.read_csv(assets.certify)
    wrong = [not one for one in right(pruned, tokenizer, assets.certify)]
    rows[wrong].to_csv(data, index=False)
    done = headsearch("resume", run, "--certify-data", data)
    assert done.code == 0, done.err
    assert "No point could be certified: the first point that was tried did not pass." in done.out
    claim = claim_of(run)
    assert claim["certified"] is None
    assert [point["removed"] for point in claim["tried"]] == [first["removed"]]
    assert not (run / "certified_mask.json").exists(), "the old one is no longer true"
    assert json_of(run)["best"] == json_of(certified)["best"]
    assert (run / "mask.json").read_bytes() == (certified / "mask.json").read_bytes()
    assert json_of(run, "progress.json")["computed"] == 0


def test_confidence_may_change_on_resume(certified: Path, tmp_path: Path, headsearch: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(certified, run)
    counts = {}
    for confidence in ("0.9999999999", "0.6"):
        done = headsearch("resume", run, "--confidence", confidence)
        assert done.code == 0, done.err
        claim = claim_of(run)
        assert claim["confidence"] == float(confidence)
        counts[confidence] = (claim["certified"] or {"heads_removed": 0})["heads_removed"]
    usual = claim_of(certified)["certified"]["heads_removed"]
    assert counts["0.9999999999"] < usual <= counts["0.6"]
    assert (run / "transcript.jsonl").read_bytes() == (certified / "transcript.jsonl").read_bytes()
    assert "With 60 % confidence" in headsearch("status", run).out


def test_a_certificate_may_be_asked_for_later(
    plain: Path, certified: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    assert headsearch("resume", run, "--certify-data", assets.certify).code == 0
    assert claim_of(run) == claim_of(certified)


def test_a_fraction_of_the_data_is_held_out(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    run = tmp_path / "run"
    args = ("--certify-fraction", "0.4", "--max-examples", "500", "--out", run)
    done = headsearch("run", assets.model, "--data", assets.certify, *BUDGET, *args)
    assert done.code == 0, done.err
    assert (json_of(run)["examples"], claim_of(run)["examples"]) == (300, 200)
    scores = json.loads(headsearch("verify", run, "--json").out)
    assert scores["examples"] == 300, "the search split is what was promised"
    assert scores["pruned"]["correct"] == json_of(run)["best"]["correct"]
    other = json.loads(headsearch("verify", run, "--data", assets.data, "--json").out)
    assert other["examples"] == 150, "all of other data"
    done = headsearch("resume", run, "--certify-data", assets.data)
    assert done.code == 2
    assert "`certify_data` and `certify_fraction` exclude each other" in done.err


def test_the_splits_of_a_fraction_share_nothing(assets: Any) -> None:
    config = RunConfig(model=str(assets.model), data=str(assets.certify), certify_fraction=0.5)
    task = load_task(config)
    assert task.certify is not None
    texts = [
        {tuple(row[row != 0]) for batch in part.batches for row in batch.arrays["input_ids"]}
        for part in (task.data, task.certify)
    ]
    assert (len(texts[0]), len(texts[1])) == (600, 600)
    assert not texts[0] & texts[1]


def test_the_part_of_the_data_that_is_searched_on_leaves_certify_data_whole(assets: Any) -> None:
    config = RunConfig(
        model=str(assets.model),
        data=str(assets.data),
        certify_data=str(assets.certify),
        max_examples=50,
    )
    task = load_task(config)
    assert task.certify is not None
    assert (task.data.examples, task.certify.examples) == (50, 1200)


def test_verify_does_not_need_the_certify_data(
    certified: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(certified, run)
    config = json_of(run, "config.json")
    config["asked"]["certify_data"] = "gone.csv"
    (run / "config.json").write_text(json.dumps(config))
    assert headsearch("verify", run).code == 0


def test_other_metrics_say_why_there_is_none(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    out = tmp_path / "run"
    args = ("--metric", "f1", "--engine", "inline", "--max-evaluations", 4, "--out", out)
    done = headsearch("run", assets.model, "--data", assets.data, *args)
    reason = "there is no paired test of f1 here that is valid in finite samples"
    assert claim_of(out) == {"offered": False, "reason": reason}
    assert f"Nothing is claimed about other data: {reason}." in done.out
    done = headsearch("resume", out, "--certify-data", assets.certify)
    assert done.code == 2
    assert "`metric` must be accuracy for a certificate" in done.err


def test_nothing_found_is_nothing_certified(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    out = tmp_path / "run"
    args = ("--engine", "inline", "--max-evaluations", 1, "--certify-data", assets.certify)
    done = headsearch("run", assets.model, "--data", assets.data, *args, "--out", out)
    assert done.code == 3
    assert "No point could be certified: the search found no pruned state" in done.out
    assert (claim_of(out)["tried"], claim_of(out)["certified"]) == ([], None)


def test_the_full_model_is_no_point(certified: Path) -> None:
    assert HeadSet() not in [
        HeadMap((4, 4, 4)).from_pairs(point["removed"]) for point in claim_of(certified)["tried"]
    ]
