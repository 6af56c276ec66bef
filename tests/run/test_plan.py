"""`headsearch plan`: what it says, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import doctest
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from headsearch.engine.ray_cluster import Capacity
from headsearch.errors import InputError, ModelError, StorageError
from headsearch.model.checkpoint import load_model, save_pruned
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.report import plan_text
from headsearch.report.plan_text import plan_lines
from headsearch.run import plan, probe
from headsearch.run.command import start
from headsearch.run.config import RunConfig
from headsearch.run.effort import expected_evaluations, search_seconds
from headsearch.run.plan import make_plan
from headsearch.run.prepare import load_task
from tests.tiny_families import GROUPED, lively
from tests.words import save_folder, texts_and_labels, tiny_tokenizer, trained_model

GIB = 1 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch is enough."""
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def config(assets: Any) -> RunConfig:
    return RunConfig(model=str(assets.model), data=str(assets.data), engine="inline")


def test_it_prints_what_a_run_would_need_and_writes_nothing(
    assets: Any, headsearch: Any, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "run"
    done = headsearch(
        "plan",
        assets.model,
        "--data",
        assets.data,
        "--certify-data",
        assets.certify,
        "--engine",
        "inline",
        "--price-per-hour",
        3600,
        "--out",
        out,
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == (
        "12 heads in 3 layers; 150 search examples, and 1,200 to certify on; "
        "accuracy may fall by 0.01."
    )
    assert lines[1].startswith("Engine inline: 1 worker, 1 shard, float32")
    assert "Evaluations: about 106, between 45 and 216." in lines
    (head,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["workers", "time"]]
    assert [line.split()[0] for line in lines[head + 1 :]][:4] == ["1", "2", "4", "8"]
    assert lines[head + 1].endswith("this run")
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_agree_with_each_other(config: RunConfig, tmp_path: Path) -> None:
    found = make_plan(config, tmp_path / "run", price=7200.0)
    json.dumps(found, allow_nan=False)
    # Cache of 512 MiB and 1 GiB for a process; the model is tiny.
    assert 1.5 * GIB < found["bytes_per_worker"] < 1.51 * GIB
    alone, *_ = times = found["times"]
    assert [row["workers"] for row in times[:4]] == [1, 2, 4, 8]
    for row in times:
        took, cost = row["seconds"], row["cost"]
        assert took["low"] <= took["expected"] <= took["high"]
        assert took["expected"] <= alone["seconds"]["expected"]
        # 7,200 an hour is 2 a second and worker; both are rounded.
        assert cost["expected"] == pytest.approx(
            2 * row["workers"] * took["expected"], abs=0.11 * row["workers"]
        )


def test_a_time_limit_limits_the_time(config: RunConfig, tmp_path: Path) -> None:
    values = config.to_json() | {"time_limit": 0.5}
    found = make_plan(RunConfig(**values), tmp_path / "run")
    free = make_plan(config, tmp_path / "run")
    assert found["times"][0]["seconds"]["high"] < free["times"][0]["seconds"]["high"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Shares of the heads: .75, 1 and 1.5 to begin with, .25, .5 and 1 for each expansion.
        ({"metric": "f1"}, (126, 216, 396)),
        ({"metric": "f1", "patience": 2}, (90, 144, 252)),
        # Of accuracy 20, 40 and 80, and .25, .25 and 1 of the heads, to begin with; for each
        # expansion 5, 15 and 25, and .05, .0625 and .5 of the heads.
        ({}, (72.4, 136, 396)),
        ({"patience": 2}, (55.2, 97, 274)),
        ({"max_expansions": 2}, (55.2, 97, 274)),
        ({"max_evaluations": 130}, (72.4, 130, 130)),
        ({"bound_evaluations": 100}, (72.4, 236, 496)),
        ({"patience": 0, "max_evaluations": 50}, (50, 50, 50)),
        ({"patience": 0, "max_expansions": 2}, (55.2, 97, 274)),
    ],
)
def test_expected_evaluations_of_72_heads(
    options: dict[str, Any], expected: tuple[float, float, float]
) -> None:
    found = expected_evaluations(72, RunConfig(model="m", data="d", **options))
    assert found is not None
    assert tuple(vars(found).values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "pair", "heads"),
    [("accuracy", "rt", 72), ("accuracy", "rxnfp", 48), ("pearson", "vader", 72)],
)
def test_what_was_measured_lies_in_the_expected_range(metric: str, pair: str, heads: int) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    searches = [
        result["headsearch"]
        for file in sorted((folder / "quality").glob(f"{pair}-*.json"))
        for result in json.loads(file.read_text()).values()
    ]
    cut = [s["evaluations"] for s in searches if s["stopped"] == "evaluation budget spent"]
    rows = json.loads((folder / "plan" / f"{pair}.json").read_text())["rows"]
    taken = [row["evaluations"]["taken"] for row in rows]
    taken += [s["evaluations"] for s in searches if s["stopped"].endswith("a better state")]
    assert len(taken) + len(cut) == len(searches) + len(rows)
    expected = expected_evaluations(heads, RunConfig(model="m", data="d", metric=metric))
    assert expected is not None
    assert len(searches) + len(rows) >= 2
    assert len(taken) >= 1
    # A search that was cut short would have taken more than it took.
    assert expected.low <= min(taken)
    assert max(cut, default=0) <= expected.high
    assert max(taken) <= expected.high


@pytest.mark.parametrize("heads", [1024, 100_000])
def test_the_largest_models_have_an_expectation(heads: int) -> None:
    found = expected_evaluations(heads, RunConfig(model="m", data="d"))
    assert found is not None
    assert heads / 4 < found.low < found.expected < found.high < 10 * heads


def test_no_more_is_expected_than_there_are_sets_of_heads() -> None:
    found = expected_evaluations(3, RunConfig(model="m", data="d"))
    assert found is not None
    assert vars(found) == {"low": 8, "expected": 8, "high": 8}


def test_several_workers_wait_for_each_other_in_rounds_of_proposals() -> None:
    assert search_seconds(100, 50, 200, 1, 80) == search_seconds(100, 50, 200, 1)
    more = search_seconds(100, 50, 200, 4, 80) - search_seconds(100, 50, 200, 4)
    assert more == pytest.approx(0.25 * 80 / 4)


def test_the_time_agrees_with_the_simulated_clusters() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "scaling_simulated.json"
    rows = [row for row in json.loads(file.read_text())["rows"] if row["useful"]]
    off = [
        # These searches had no proposals.
        search_seconds(row["ideal"], 0, row["examples"], row["gpus"]) / row["seconds"]
        for row in rows
    ]
    assert len(off) > 30
    assert min(off) > 0.8
    assert max(off) < 1.5
    assert 1.0 <= float(np.median(off)) < 1.2


def test_a_search_that_nothing_ends_has_no_expected_time(config: RunConfig, tmp_path: Path) -> None:
    found = make_plan(RunConfig(**config.to_json() | {"patience": 0}), tmp_path / "run")
    assert (found["evaluations"], found["times"]) == (None, [])
    assert "Evaluations: as many as there are sets of heads; no budget ends this search." in (
        plan_lines(found)
    )


def test_the_probe_asks_for_real_states_and_meets_all_lengths(config: RunConfig) -> None:
    task = load_task(config)
    parent, children = probe._asked(task.shape)
    assert len(parent) == 6
    assert len(children) == len(set(children)) >= 5
    assert all(child != parent and child <= task.shape.full for child in children)
    order = probe._spread(task.data)
    assert sorted(order) == list(range(len(task.data.batches)))


def test_bad_input_is_one_clear_line(assets: Any, headsearch: Any, tmp_path: Path) -> None:
    def refused(*options: object, data: object = None) -> str:
        done = headsearch("plan", assets.model, "--data", data or assets.data, *options)
        assert done.code == 2
        assert len(done.err.strip().splitlines()) == 1
        return str(done.err)

    assert "data file not found: no.csv" in refused(data="no.csv")
    assert "`max_drop` must be in [0, 1) but got 2.0" in refused("--max-drop", 2)
    assert "`price_per_hour` must not be negative but got -1.0" in refused("--price-per-hour", -1)
    assert "the run folder must not exist yet" in refused("--out", tmp_path)
    (tmp_path / "file").touch()
    assert "is not a folder to write in" in refused("--out", tmp_path / "file" / "run")


@pytest.mark.parametrize("seconds", [0.0, 600.0])  # some of the batches, and all of them
@pytest.mark.parametrize(
    ("weight", "metric", "said"),
    [
        (float("nan"), "accuracy", "the full model's outputs must be finite but"),
        (0.0, "matthews", "its answers are all the same, and so its matthews is 0"),
    ],
)
def test_a_full_model_that_a_run_refuses_is_refused(
    seconds: float,
    weight: float,
    metric: str,
    said: str,
    tmp_path: Path,
    assets: Any,
    headsearch: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = trained_model()
    with torch.no_grad():
        model.classifier.weight.fill_(weight)
    save_folder(tmp_path / "model", model)
    monkeypatch.setattr(plan, "PROBE_SECONDS", seconds)
    asked = [tmp_path / "model", "--data", assets.data, "--metric", metric, "--engine", "inline"]
    assert said in headsearch("run", *asked, "--quiet", "--out", tmp_path / "run").err
    done = headsearch("plan", *asked)
    if weight == 0.0 and not seconds:  # of some answers it can't be told
        assert done.code == 0
    else:
        assert (done.code, done.out) == (2, "")
        assert said in done.err


def test_a_disk_without_room_is_refused_and_too_little_memory_is_said(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "machine_memory", lambda: GIB)
    (warning,) = make_plan(config, tmp_path / "run")["warnings"]
    assert "1 workers may need 1.5 GiB but this machine has 1.0 GiB" in warning
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        StorageError, match=r"the scores may take [0-9.]+ kB but .* has 1.0 kB free"
    ):
        make_plan(config, tmp_path / "run")


def test_a_search_that_holds_more_than_there_is_memory_is_told(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_plan(config, tmp_path / "run")
    assert found["warnings"] == []
    outputs = 4 * found["examples"] * 2  # bytes of one state's, of two classes
    # All that are scored, and what each head does to them.
    assert found["bytes_of_search"] > outputs * (found["evaluations"]["high"] + found["heads"])
    needed = found["bytes_of_search"] + found["bytes_per_worker"]
    monkeypatch.setattr(plan, "machine_memory", lambda: needed)
    assert make_plan(config, tmp_path / "run")["warnings"] == []
    monkeypatch.setattr(plan, "machine_memory", lambda: needed - 1)
    (warning,) = make_plan(config, tmp_path / "run")["warnings"]
    assert "the search itself may need 0.0 GiB, beside 1.5 GiB of workers, but" in warning
    assert "use fewer examples (`--max-examples`)" in warning


def test_a_model_without_heads_is_refused_as_a_run_of_it_is(
    assets: Any, config: RunConfig, tmp_path: Path
) -> None:
    model, tokenizer = load_model(config.model)
    every = head_map(model).full
    save_pruned(narrowed(model, every), tmp_path / "none", tokenizer)
    asked = dataclasses.replace(config, model=str(tmp_path / "none"))
    with pytest.raises(InputError, match="saves no heads: nothing to search"):
        make_plan(asked, tmp_path / "run")
    with pytest.raises(InputError, match="saves no heads: nothing to search"):
        start(asked, tmp_path / "run", SimpleNamespace(on_progress=print))
    assert not (tmp_path / "run").exists()


def test_a_model_whose_layers_can_not_be_emptied_is_told_before_it_is_searched(
    tmp_path: Path,
) -> None:
    tokenizer, model = tiny_tokenizer(), tmp_path / "model"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    lively("GemmaForSequenceClassification", GROUPED).save_pretrained(model)
    tokenizer.save_pretrained(model)
    data = tmp_path / "data.csv"
    texts = texts_and_labels(9)[0]
    pd.DataFrame({"text": texts, "label": [0, 1, 2] * 3}).to_csv(data, index=False)
    asked = {"model": str(model), "data": str(data), "engine": "inline"}
    (warning,) = make_plan(RunConfig(**asked), tmp_path / "run")["warnings"]
    assert "a GemmaAttention can't lose all of its heads" in warning
    assert "can only be exported as zeroed" in warning
    for weight in ("parameters", "latency"):  # which `run` refuses too
        with pytest.raises(ModelError, match="GemmaAttention can't lose all of its heads"):
            make_plan(RunConfig(**asked, weight=weight), tmp_path / "run")


def test_scores_on_disk_are_limited_by_time_where_nothing_else_ends_a_search(
    config: RunConfig, tmp_path: Path
) -> None:
    def disk(**options: Any) -> int:
        values = config.to_json() | {"patience": 0} | options
        return int(make_plan(RunConfig(**values), tmp_path / "run")["disk_bytes"])

    an_hour = disk(time_limit=3600.0)
    assert an_hour > 100 * disk(time_limit=0.0) > 0
    assert an_hour > disk(time_limit=3600.0, max_evaluations=10)


def test_a_head_without_a_gpu_plans_for_a_cluster_that_has_some(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headsearch.engine.ray_workers.independent_there", lambda *_: True)
    found = Capacity(8, 2, None)
    monkeypatch.setattr("headsearch.engine.ray_cluster.capacity", lambda address: found)
    values = config.to_json() | {"engine": "ray", "ray_address": "auto", "dtype": "bfloat16"}
    planned = make_plan(RunConfig(**values), tmp_path / "run")
    assert planned["gpus_per_worker"] == 1
    assert planned["probe"]["evaluation"] > 0
    assert (
        "the speed is that of this machine's CPU in float32: it has no GPU" in planned["warnings"]
    )


def test_durations() -> None:
    assert doctest.testmod(plan_text).failed == 0
