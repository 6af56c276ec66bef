"""What is to be saved: `--weight`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headsearch.run import weighing
from tests.run.conftest import Assets, Done

Headsearch = Callable[..., Done]
# Query, key, value: 6 x 24 weights and 6 biases a head; output: 24 x 6 weights.
A_HEAD = 3 * (6 * 24 + 6) + 24 * 6
TIMES = [[0, 1, 2, 3, 50], [0, 10, 20, 30, 40], [0, 1, 1, 2, 3]]
MEASURED = {"format": 1, "kind": "latency", "unit": "microseconds", "saved": TIMES}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Times as they might be measured; returns what for, (examples, tokens)."""
    asked: list[tuple[int, int]] = []

    def times(model: Any, batch: int, tokens: int) -> list[list[int]]:
        asked.append((batch, tokens))
        return TIMES

    monkeypatch.setattr(weighing, "attention_times", times)
    return asked


def options(assets: Assets, run: Path, weight: str) -> list[object]:
    given: list[object] = ["run", assets.model, "--data", assets.data, "--weight", weight]
    given += ["--engine", "inline"]
    return [*given, "--max-drop", "0.1", "--max-evaluations", "60", "--quiet", "--out", run]


def read(run: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / name).read_text())
    return values


def saved(removed: list[list[int]]) -> int:
    return sum(TIMES[layer][sum(pair[0] == layer for pair in removed)] for layer in range(3))


def test_parameters_are_counted_as_narrowing_saves_them(
    headsearch: Headsearch, assets: Assets, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert headsearch(*options(assets, run, "parameters")).code == 0
    result = read(run, "result.json")
    weight, best = result["weight"], result["best"]
    assert (weight["kind"], weight["unit"]) == ("parameters", "parameters")
    assert weight["total"] == 12 * A_HEAD
    assert weight["saved"] == best["saved"] == best["heads_removed"] * A_HEAD > 0
    assert weight["saved"] <= weight["bound"] <= weight["total"]


def test_time_is_measured_once_and_the_run_keeps_it(
    headsearch: Headsearch,
    assets: Assets,
    tmp_path: Path,
    measured: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    assert headsearch(*options(assets, run, "latency")).code == 0
    result = read(run, "result.json")
    assert read(run, "weight.json") == MEASURED
    assert [batch for batch, _ in measured] == [32]
    for point in result["operating_points"]:
        assert point["saved"] == saved(point["removed"])
    assert result["weight"]["saved"] == result["best"]["saved"] > 0
    assert [p["saved"] for p in result["operating_points"]] == sorted(
        {p["saved"] for p in result["operating_points"]}, reverse=True
    )
    steps = [json.loads(line) for line in (run / "transcript.jsonl").read_text().splitlines()]
    assert steps[-1]["saved"] == {"microseconds": result["best"]["saved"]}
    status = headsearch("status", run).out
    assert f"{result['best']['saved']} microseconds saved" in status

    transcript = (run / "transcript.jsonl").read_bytes()
    monkeypatch.setattr(weighing, "attention_times", lambda *_: [[0, 9, 9, 9, 9]] * 3)
    assert headsearch("resume", run, "--quiet").code == 0
    assert (run / "transcript.jsonl").read_bytes() == transcript
    assert read(run, "weight.json") == MEASURED


def test_the_summary_says_what_is_saved(
    headsearch: Headsearch, assets: Assets, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    run = tmp_path / "run"
    asked = [option for option in options(assets, run, "latency") if option != "--quiet"]
    out = headsearch(*asked).out
    best = read(run, "result.json")["best"]["saved"]
    assert f"That saves {best} of 93 microseconds ({best / 93:.0%} of attention's time)." in out


def test_a_weight_of_other_heads_is_refused(
    headsearch: Headsearch, assets: Assets, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    run = tmp_path / "run"
    assert headsearch(*options(assets, run, "latency")).code == 0
    (run / "weight.json").write_text(json.dumps({**MEASURED, "saved": TIMES[:2]}))
    done = headsearch("resume", run)
    assert done.code == 2
    assert "the weight is for heads [4, 4] but the model has [4, 4, 4]" in done.err


def test_an_unknown_weight_names_the_known_ones(
    headsearch: Headsearch, assets: Assets, tmp_path: Path
) -> None:
    done = headsearch(*options(assets, tmp_path / "run", "watts"))
    assert done.code == 2
    assert "'heads', 'parameters', 'latency'" in done.err
    assert not (tmp_path / "run").exists()
