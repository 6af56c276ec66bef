"""The commands of the contract on a tiny trained model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headsearch.heads import HeadMap, HeadSet
from headsearch.model.checkpoint import load_model
from headsearch.model.plain import plain_outputs
from headsearch.run import command
from headsearch.run.config import RunConfig
from headsearch.run.prepare import Task, load_task
from tests.tiny import tiny_model
from tests.words import save_folder, texts_and_labels

FILES = {"config.json", "memo.sqlite", "transcript.jsonl", "result.json", "mask.json"}
BUDGET = ("--max-drop", "0.03", "--engine", "inline", "--max-evaluations", "70")
# What tells of the process that searched, not of the search.
OF_THE_PROCESS = ("wall_seconds", "memo_hits")


def memo_hits_of(run: Path) -> float:
    return float(json.loads((run / "result.json").read_text())["memo_hits"])


def result_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in OF_THE_PROCESS}


@pytest.fixture(scope="module")
def run(assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "headsearch", "run", assets.model, "--data", assets.data]
    done = subprocess.run(
        [*map(str, command), *BUDGET, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Removed" in done.stdout
    return out


def test_the_run_folder_is_as_in_the_contract(run: Path, assets: Any) -> None:
    assert {path.name for path in run.iterdir()} >= FILES
    result = json.loads((run / "result.json").read_text())
    mask = json.loads((run / "mask.json").read_text())
    assert result["format"] == mask["format"] == 1
    assert (result["metric"], result["max_drop"]) == ("accuracy", 0.03)
    assert (result["examples"], result["layers"], result["heads"]) == (150, 3, 12)
    assert result["certificate"]["verified"] is True
    shape, removed = HeadMap.from_mask(mask)
    assert shape == HeadMap((4, 4, 4))
    assert shape.pairs(removed) == result["best"]["removed"]
    assert result["best"]["heads_removed"] == len(removed) >= 1
    # 0.03 of 150 examples is 4.5: at most 4 more may be wrong.
    assert result["threshold"] == (result["baseline"]["correct"] - 4) / 150
    assert result["best"]["correct"] >= result["baseline"]["correct"] - 4
    counts = [point["heads_removed"] for point in result["operating_points"]]
    metrics = [point["metric"] for point in result["operating_points"]]
    assert counts == sorted(set(counts), reverse=True)
    assert metrics == sorted(set(metrics))
    assert {"evaluations", "expansions", "memo_hits", "wall_seconds", "engine", "environment"} <= (
        set(result)
    )
    steps = [json.loads(line) for line in (run / "transcript.jsonl").read_text().splitlines()]
    assert steps[-1]["evaluations"] == result["evaluations"] <= 70


def test_the_claim_is_true_by_the_plain_forward(run: Path, assets: Any) -> None:
    result = json.loads((run / "result.json").read_text())
    task = load_task(RunConfig(model=str(assets.model), data=str(assets.data)))
    for name in ("baseline", "best"):
        removed = task.shape.from_pairs(result[name].get("removed", []))
        outputs = plain_outputs(task.model, task.data.batches, removed)
        correct = int((outputs.argmax(axis=1) == task.data.labels).sum())
        assert correct == result[name]["correct"]


def test_the_bound_is_live(run: Path, headsearch: Any) -> None:
    steps = [json.loads(line) for line in (run / "transcript.jsonl").read_text().splitlines()]
    assert steps[0]["bound"]["heads"] == 12
    for step in steps:
        assert step["best"][0] <= step["bound"]["assumed"] <= step["bound"]["heads"]
    assert steps[-1]["bound"]["tested"] >= steps[0]["bound"]["tested"] == 0
    limits = result_of(run)["certificate"]["bound"]
    assert steps[-1]["bound"]["heads"] == limits["heads"]
    assert steps[-1]["bound"]["assumed"] == limits["assumed"]["heads"]
    progress = json.loads(headsearch("status", run, "--json").out)
    assert progress["bound"] == steps[-1]["bound"]
    assert f"bound      {limits['heads']} (proved)" in headsearch("status", run).out


def test_status_tells_how_it_ended(run: Path, headsearch: Any) -> None:
    done = headsearch("status", run)
    assert done.code == 0
    best = json.loads((run / "result.json").read_text())["best"]["heads_removed"]
    assert done.out.startswith("done\n")
    assert f"removed    {best} of 12 heads" in done.out
    assert json.loads(headsearch("status", run, "--json").out)["state"] == "done"


def test_verify_scores_again_and_on_other_data(run: Path, assets: Any, headsearch: Any) -> None:
    done = headsearch("verify", run, "--json")
    result = json.loads((run / "result.json").read_text())
    scores = json.loads(done.out)
    assert (done.code, scores["verified"]) == (0, True)
    assert scores["pruned"]["correct"] == result["best"]["correct"]
    assert "holds" in headsearch("verify", run).out
    other = json.loads(headsearch("verify", run, "--data", assets.held_out, "--json").out)
    assert other["examples"] == 90


def test_verify_says_so_when_a_mask_costs_too_much(
    run: Path, tmp_path: Path, headsearch: Any
) -> None:
    import shutil

    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    mask = HeadMap((4, 4, 4)).to_mask(HeadSet.of(range(12)))
    (broken / "mask.json").write_text(json.dumps(mask))
    done = headsearch("verify", broken)
    assert done.code == 1
    assert "DOES NOT HOLD" in done.out


def test_verify_scores_a_model_folder(assets: Any, headsearch: Any) -> None:
    done = headsearch("verify", assets.model, "--data", assets.held_out)
    assert done.code == 0
    assert done.out.startswith("accuracy on 90 examples: ")


def test_verify_takes_the_metric_and_columns_of_a_model(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    table = pd.read_csv(assets.held_out).rename(columns={"text": "review", "label": "verdict"})
    table.to_csv(tmp_path / "other.csv", index=False)
    columns = ("--text-column", "review", "--label-column", "verdict")
    done = headsearch(
        "verify", assets.model, "--data", tmp_path / "other.csv", *columns, "--metric", "matthews"
    )
    assert (done.code, done.out.split(":")[0]) == (0, "matthews on 90 examples")


def test_verify_finds_the_metric_of_a_regression_by_itself(tmp_path: Path, headsearch: Any) -> None:
    folder = save_folder(tmp_path / "model", tiny_model("BERT", num_labels=1, vocab_size=60))
    texts, _ = texts_and_labels(20)
    data = tmp_path / "data.csv"
    pd.DataFrame({"text": texts, "label": np.arange(20) / 7}).to_csv(data, index=False)
    done = headsearch("verify", folder, "--data", data)
    assert (done.code, done.out.split(":")[0]) == (0, "pearson on 20 examples")


def test_verify_takes_no_columns_of_a_run(run: Path, headsearch: Any) -> None:
    done = headsearch("verify", run, "--metric", "f1")
    assert done.code == 2
    assert "`metric` must not be given with a run" in done.err


def test_resume_of_a_finished_run_changes_nothing_and_computes_nothing(
    run: Path, headsearch: Any
) -> None:
    before = (run / "transcript.jsonl").read_bytes(), result_of(run)
    assert headsearch("resume", run).code == 0
    assert ((run / "transcript.jsonl").read_bytes(), result_of(run)) == before
    progress = json.loads((run / "progress.json").read_text())
    assert progress["computed"] == 0
    assert progress["reused"] == memo_hits_of(run) == before[1]["evaluations"]


def test_another_budget_on_the_same_memo_reuses_scores(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    import shutil

    memo = tmp_path / "memo.sqlite"
    shutil.copy(run / "memo.sqlite", memo)
    args = ("run", assets.model, "--data", assets.data, "--engine", "inline")
    out = tmp_path / "again"
    done = headsearch(*args, "--max-drop", "0.06", "--memo", memo, "--out", out)
    assert done.code == 0, done.err
    shared = json.loads((out / "progress.json").read_text())
    assert shared["reused"] >= 10
    total = result_of(out)["evaluations"]
    assert shared["reused"] + shared["computed"] == pytest.approx(total, abs=2e-3)
    fresh = tmp_path / "fresh"
    headsearch(*args, "--max-drop", "0.06", "--out", fresh)
    assert (memo_hits_of(out), memo_hits_of(fresh)) == (shared["reused"], 0)
    for name in ("mask.json", "transcript.jsonl"):  # what was in the memo changes nothing
        assert (fresh / name).read_bytes() == (out / name).read_bytes()


def test_resume_may_change_the_budget(run: Path, tmp_path: Path, headsearch: Any) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert headsearch("resume", copy, "--max-drop", "0.06", "--max-evaluations", "90").code == 0
    result = result_of(copy)
    assert result["max_drop"] == 0.06
    assert result["best"]["heads_removed"] >= result_of(run)["best"]["heads_removed"]
    asked = json.loads((copy / "config.json").read_text())["asked"]
    assert (asked["max_drop"], asked["max_evaluations"]) == (0.06, 90)


def test_json_and_quiet(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    args = ("run", assets.model, "--data", assets.data, "--engine", "inline")
    limit = ("--max-evaluations", "4")
    done = headsearch(*args, *limit, "--out", tmp_path / "a", "--json", "--quiet")
    assert json.loads(done.out)["evaluations"] <= 4
    assert done.err == ""
    done = headsearch(*args, *limit, "--out", tmp_path / "b", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = headsearch(*args, *limit, "--out", tmp_path / "c")
    assert "heads removed, accuracy" in done.err, "plain lines when piped"
    assert "\x1b" not in done.err


def test_nothing_but_the_full_model_within_the_budget_is_exit_code_3(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    done = headsearch(
        "run",
        assets.model,
        "--data",
        assets.data,
        "--engine",
        "inline",
        "--max-evaluations",
        1,
        "--out",
        tmp_path / "run",
    )
    assert done.code == 3
    assert result_of(tmp_path / "run")["best"]["removed"] == []


def test_runs_that_start_side_by_side_get_folders_of_their_own(
    assets: Any, tmp_path: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "runs" / "model-1"

    def load(config: RunConfig) -> Task:
        other.mkdir(parents=True, exist_ok=True)  # while this one loads its model
        return load_task(config)

    monkeypatch.setattr(command, "load_task", load)
    args = ("run", assets.model, "--data", assets.data, "--engine", "inline", "--quiet")
    done = headsearch(*args, "--max-evaluations", 4)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert list(other.iterdir()) == []
    assert {path.name for path in (tmp_path / "runs" / "model-2").iterdir()} >= FILES

    taken = headsearch(*args, "--out", other)  # one that was named is not put elsewhere
    assert taken.code == 2
    assert "the run folder must not exist yet" in taken.err


def test_other_metrics_run_too(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    for metric in ("f1", "matthews"):
        out = tmp_path / metric
        args = ("--metric", metric, "--engine", "inline", "--max-evaluations", 20, "--out", out)
        done = headsearch("run", assets.model, "--data", assets.data, *args)
        assert done.code == 0, done.err
        result = result_of(out)
        assert result["best"]["metric"] >= result["threshold"]
        assert "correct" not in result["best"]


def test_time_limit_ends_a_run(assets: Any, tmp_path: Path, headsearch: Any) -> None:
    out = tmp_path / "run"
    args = ("--engine", "inline", "--time-limit", "0s", "--out", out)
    done = headsearch("run", assets.model, "--data", assets.data, *args)
    assert done.code == 3
    assert result_of(out)["stopped"] == "time limit reached"


def test_the_model_itself_is_untouched_by_a_run(run: Path, assets: Any) -> None:
    model, _ = load_model(str(assets.model))
    assert not hasattr(model.config, "headsearch")
