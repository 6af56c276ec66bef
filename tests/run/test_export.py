"""From a search to a model elsewhere: `headsearch export` and `headsearch latency`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from headsearch.errors import InputError, RunFolderError
from headsearch.heads import HeadSet
from headsearch.model import onnx
from headsearch.model.checkpoint import load_model, load_pruned, save_pruned
from headsearch.model.gate import removed_heads
from headsearch.model.narrow import narrowed
from headsearch.model.samples import logits_of
from headsearch.report.console import Progress
from headsearch.run.command import start
from headsearch.run.config import RunConfig
from headsearch.run.points import operating_point
from tests.tiny import tiny_model
from tests.words import save_folder, tiny_tokenizer

CLEAN = Path(__file__).parent.parent / "clean.py"


@pytest.fixture(scope="module")
def run(assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    config = RunConfig(
        model=str(assets.model),
        data=str(assets.data),
        max_drop=0.03,
        engine="inline",
        max_evaluations=60,
    )
    start(config, out, Progress(Console(stderr=True), quiet=True))
    return out


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def gated(assets: Any, point: dict[str, Any], inputs: Any) -> np.ndarray:
    """The original's outputs with the point's heads off, by the stock class and hooks alone."""
    model = AutoModelForSequenceClassification.from_pretrained(assets.model)
    removed = HeadSet.of(4 * layer + head for layer, head in point["removed"])
    with removed_heads(model.eval(), removed):
        return logits_of(model, inputs)


def encoded(assets: Any) -> tuple[Any, np.ndarray]:
    """The search split as the model's inputs, and right answers."""
    rows = pd.read_csv(assets.data)
    inputs = tiny_tokenizer()(list(rows["text"]), padding=True, return_tensors="pt")
    return inputs, (rows["label"] == "pos").to_numpy().astype(int)


def test_a_narrow_export_is_what_was_searched_where_headsearch_is_not_installed(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    best, out = result_of(run)["best"], tmp_path / "small"
    done = headsearch("export", run, "--format", "narrow", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert f"Removed {best['heads_removed']} of 12 heads" in done.out
    inputs, answers = encoded(assets)
    np.savez(f"{out}.npz", **{name: t.numpy() for name, t in inputs.items()})
    clean = subprocess.run(
        [sys.executable, CLEAN, out],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert clean.returncode == 0, clean.stderr
    found = np.load(f"{out}.npy")
    np.testing.assert_allclose(found, gated(assets, best, inputs), rtol=0, atol=1e-6)
    assert int((found.argmax(axis=1) == answers).sum()) == best["correct"]
    ours = logits_of(load_pruned(out), inputs)
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-6)
    assert AutoTokenizer.from_pretrained(out)("good1")["input_ids"][0] == 2
    assert json.loads((out / "mask.json").read_text()) == json.loads(
        (run / "mask.json").read_text()
    )
    done = headsearch("verify", out, "--data", assets.data, "--json")
    assert json.loads(done.out)["model"]["correct"] == best["correct"]


def test_the_card_says_what_holds_and_how_it_was_made(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    result, out = result_of(run), tmp_path / "small"
    headsearch("export", run, "--format", "narrow", "--out", out)
    card = (out / "README.md").read_text()
    best = result["best"]
    assert f"# Without {best['heads_removed']} of 12 attention heads" in card
    assert f"({best['correct']} correct) after; at least {result['threshold']:.4f}" in card
    assert "Verified by the plain transformers forward in float32" in card
    assert "Nothing is claimed about other data: no certify examples were given." in card
    assert f'from_pretrained("{out}", trust_remote_code=True)' in card
    assert f"headsearch run {assets.model} --data {assets.data} --max-drop 0.03" in card
    assert f"headsearch export {run} --format narrow --out {out}" in card
    assert "transformers " + result["environment"]["transformers"] in card
    for block in card.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_another_operating_point_by_its_number_of_heads(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    result = result_of(run)
    others = [p for p in result["operating_points"] if p["removed"] != result["best"]["removed"]]
    assert others
    inputs, _ = encoded(assets)
    for point in (others[0], others[-1]):
        out = tmp_path / str(point["heads_removed"])
        args = ("--heads", point["heads_removed"], "--format", "zeroed", "--out", out)
        done = headsearch("export", run, *args)
        assert done.code == 0, done.err
        stock = AutoModelForSequenceClassification.from_pretrained(out)
        found = logits_of(stock.eval(), inputs)
        np.testing.assert_allclose(found, gated(assets, point, inputs), rtol=0, atol=1e-6)
        below = point["metric"] < result["threshold"]
        assert ("BELOW what was asked" in done.out) == below
        assert "NOT verified" in (out / "README.md").read_text()
        assert not (out / "modeling_headsearch.py").exists()


def test_a_safer_point_by_its_number_of_heads(run: Path, tmp_path: Path, headsearch: Any) -> None:
    result, out = result_of(run), tmp_path / "safer"
    point = result["safer_points"][1]
    heads = ("--heads", point["heads_removed"])
    done = headsearch("export", run, *heads, "--safer", "--format", "narrow", "--out", out)
    assert done.code == 0, done.err
    assert json.loads((out / "mask.json").read_text())["removed"] == by_layer(point["removed"])
    card = (out / "README.md").read_text()
    assert f"headsearch export {run} --heads {heads[1]} --safer --format narrow" in card


def by_layer(removed: list[list[int]]) -> dict[str, list[int]]:
    layers = sorted({layer for layer, _ in removed})
    return {str(at): [head for layer, head in removed if layer == at] for at in layers}


def test_a_model_in_half_precision_stays_in_it(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    model, _ = load_model(str(assets.model))
    half = save_folder(tmp_path / "half", model.bfloat16())
    options = ("--max-drop", "0.1", "--engine", "inline", "--max-evaluations", 12)
    done = headsearch("run", half, "--data", assets.data, *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    sizes = {"half": (half / "model.safetensors").stat().st_size}
    for kind in ("narrow", "zeroed"):
        out = tmp_path / kind
        assert headsearch("export", tmp_path / "run", "--format", kind, "--out", out).code == 0
        sizes[kind] = (out / "model.safetensors").stat().st_size
        weights = load_file(out / "model.safetensors").values()
        assert {each.dtype for each in weights} == {torch.bfloat16}
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert sizes["narrow"] < sizes["half"]
    assert abs(sizes["zeroed"] - sizes["half"]) < 4096


def test_what_says_half_precision_and_is_not_loses_nothing(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    shutil.copytree(assets.model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    options = ("--max-drop", "0.1", "--engine", "inline", "--max-evaluations", 8)
    asked = ("run", tmp_path / "model", "--data", assets.data, "--out", tmp_path / "run")
    assert headsearch(*asked, *options).code == 0
    out = tmp_path / "small"
    assert headsearch("export", tmp_path / "run", "--format", "narrow", "--out", out).code == 0
    assert {p.dtype for p in load_pruned(out).parameters()} == {torch.float32}


def test_onnx_of_a_run(run: Path, assets: Any, tmp_path: Path, headsearch: Any) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
    out = tmp_path / "onnx"
    done = headsearch("export", run, "--format", "onnx", "--out", out)
    assert (done.code, done.err) == (0, "")
    inputs, _ = encoded(assets)
    session = runtime.InferenceSession(out / "model.onnx")
    (logits,) = session.run(["logits"], {name: t.numpy() for name, t in inputs.items()})
    expected = gated(assets, result_of(run)["best"], inputs)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert "headsearch" not in config
    card = (out / "README.md").read_text()
    assert "onnxruntime" in card.split("Exported with")[1]
    done = headsearch(
        "latency", assets.model, out, "--batch", 2, "--tokens", 8, "--repeats", 2, "--json"
    )
    assert [row["model"] for row in json.loads(done.out)["results"]] == [
        str(assets.model),
        str(out),
    ]


def refused(done: Any, message: str) -> None:
    assert done.code == 2, (done.out, done.err)
    assert done.err.startswith("headsearch: ")
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def write(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_no_such_operating_point() -> None:
    def point(heads: int) -> dict[str, Any]:
        removed = [[0, n] for n in range(heads)]
        return {"heads_removed": heads, "removed": removed, "metric": 0.9 - heads / 100}

    # Of several with as many heads, the one that scores best; the best itself was verified.
    points = [{**point(6), "metric": 0.1}, point(6), {**point(4), "metric": 1.0}, point(2)]
    rest = {"baseline": {}, "certificate": {}, "threshold": 0.5}
    result = {**rest, "best": point(4), "operating_points": points}
    assert operating_point(result, None) == operating_point(result, 4) == result["best"]
    assert operating_point(result, 6) == point(6)
    with pytest.raises(
        InputError, match="no operating point has 5 heads removed; there are 2, 4, 6"
    ):
        operating_point(result, 5)
    low = {**point(3), "loss": 0.1}
    safer = {**result, "safer_points": [point(4), low]}
    assert operating_point(safer, 3, safer=True) == low
    with pytest.raises(InputError, match=r"^`safer` must come with `heads`"):
        operating_point(safer, None, safer=True)
    with pytest.raises(InputError, match="no safer point has 6 heads removed; there are 3, 4"):
        operating_point(safer, 6, safer=True)
    with pytest.raises(InputError, match=r"^no point of this run is certified"):
        operating_point(result, None, certified=True)
    with pytest.raises(InputError, match=r"^`certified` is one point by itself: no `heads`"):
        operating_point(result, 4, certified=True)
    certificate = {"population": {"certified": {"removed": point(2)["removed"], "metric": 0.3}}}
    certified = {**result, "certificate": certificate}
    assert operating_point(certified, None, certified=True) == point(2)
    with pytest.raises(RunFolderError, match="lacks 'safer_points'"):
        operating_point(result, 3, safer=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "mask.json",
            lambda m: m.update(layers=2, heads_per_layer=[4, 4], removed={}),
            "the mask is for heads [4, 4] but the model has [4, 4, 4]",
        ),
        ("mask.json", lambda m: m.update(removed={"0": [9]}), "head of layer 0 must be in 0..3"),
        ("mask.json", lambda m: m.update(removed={}), "are not of the same heads"),
        ("mask.json", lambda m: m.update(format=3), "`format` must be 1 but got 3"),
        ("result.json", lambda r: r.pop("best"), "result.json is not complete: it lacks 'best'"),
        ("config.json", lambda c: c.update(weights="00"), "the model's weights differ from those"),
    ],
)
def test_a_run_folder_that_was_changed(
    run: Path, tmp_path: Path, headsearch: Any, name: str, change: Any, message: str
) -> None:
    copy, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run, copy)
    write(copy / name, change)
    refused(headsearch("export", copy, "--format", "narrow", "--out", out), message)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_can_not_be_exported(
    run: Path, assets: Any, tmp_path: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def call(kind: str = "narrow", folder: Path = run, *more: object) -> Any:
        return headsearch("export", folder, "--format", kind, "--out", out, *more)

    refused(
        call("narrow", run, "--heads", 99), "no operating point has 99 heads removed; there are"
    )
    refused(call(folder=tmp_path / "no"), "run folder not found")
    monkeypatch.setattr(onnx, "NEEDED", ("not_there",))
    refused(call("onnx"), "pip install 'headsearch[onnx]'")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "config.json", unfinished)
    refused(call(folder=unfinished), "the run is not done")
    assert not out.exists()
    out.write_text("precious")
    refused(call(), "must not exist yet")
    assert out.read_text() == "precious"


Tamper = Callable[[Path], object]


def _config(change: Callable[[dict[str, Any]], object]) -> Tamper:
    return lambda folder: write(folder / "config.json", change)


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Tamper:
    def tamper(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")

    return tamper


def _truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(900)


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_config(lambda c: c["headsearch"]["removed"].update({"0": [7]})), "must be in 0..3 but"),
        (_config(lambda c: c["headsearch"]["removed"].update({"9": [0]})), "must be in 0..2 but"),
        (_config(lambda c: c["headsearch"]["removed"].update({"0": [1, 2]})), "record of sizes"),
        (_config(lambda c: c["headsearch"].update(format=8)), "`format` must be 1 but got 8"),
        (
            _config(lambda c: c["headsearch"].update(layers=1, heads_per_layer=[4])),
            "must be in 0..0 but got 1",
        ),
        (_config(lambda c: c["headsearch"].pop("removed")), "not a mask"),
        (_config(lambda c: c.update(headsearch="x")), "must be an object"),
        (
            _config(
                lambda c: c["headsearch"]["narrow"]["modules"][QUERY]["tensors"].update(
                    weight=[[24, 24], [12, 24]]
                )
            ),
            "record of sizes",
        ),
        (_config(lambda c: c.update(hidden_size=48)), "could not load"),
        (_config(lambda c: c.update(model_type="gpt2")), "could not load"),
        (_config(lambda c: c.update(model_type="nothing")), "could not load"),
        (_config(lambda c: c.pop("headsearch")), "weights that are not of its config's sizes"),
        (
            _weights(lambda w: {**w, f"{QUERY}.bias": torch.zeros(24)}),
            "it is [24] but must be [18]",
        ),
        (_weights(lambda w: {k: v for k, v in w.items() if k != f"{QUERY}.bias"}), QUERY),
        (_weights(lambda w: {**w, "more": torch.zeros(1)}), "disagree on more"),
        (_truncate, "could not load"),
        (_pickle, "could not load"),
        (lambda folder: (folder / "config.json").write_text("{"), "could not load"),
        (lambda folder: (folder / "config.json").unlink(), "could not load"),
    ],
)
def test_a_tampered_narrow_model_is_one_clear_error(
    assets: Any, tmp_path: Path, headsearch: Any, tamper: Tamper, message: str
) -> None:
    folder = tmp_path / "small"
    model = narrowed(tiny_model("BERT", num_labels=2), HeadSet.of([0, 5, 6]))
    save_pruned(model, folder, tiny_tokenizer())
    tamper(folder)
    refused(headsearch("latency", folder, "--repeats", 1), message)
    refused(headsearch("verify", folder, "--data", assets.data), message)


def test_latency_measures_each_size_against_the_first(
    assets: Any, tmp_path: Path, headsearch: Any
) -> None:
    small = tmp_path / "small"
    save_pruned(narrowed(tiny_model("BERT"), HeadSet.of(range(12))), small, tiny_tokenizer())
    args = ("--batch", 1, "--batch", 3, "--tokens", 8, "--threads", 1, "--repeats", 3)
    done = headsearch("latency", assets.model, small, *args, "--json")
    assert (done.code, done.err) == (0, "")
    measured = json.loads(done.out)
    assert (measured["threads"], measured["reference"]) == (1, str(assets.model))
    rows = measured["results"]
    assert [(row["batch"], row["model"]) for row in rows] == [
        (batch, str(model)) for batch in (1, 3) for model in (assets.model, small)
    ]
    for row in rows:
        assert 0 < row["milliseconds"]["low"] <= row["milliseconds"]["median"]
        if row["model"] == str(assets.model):
            assert row["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert rows[0]["parameters"] > rows[1]["parameters"]
    table = headsearch("latency", assets.model, small, *args).out
    assert f"{rows[1]['parameters']:,}" in table
    assert "over 3 rounds" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "0"), "`batch` must be at least 1 but got 0"),
        (("--tokens", "0"), "`tokens` must be at least 1 but got 0"),
        (("--repeats", "0"), "`repeats` must be at least 1 but got 0"),
        (("--threads", "0"), "`threads` must be at least 1 but got 0"),
        (("--tokens", "41"), "`tokens` must be at most 40, the positions of"),
        (("--device", "cuda"), "`device` is cuda but torch sees no GPU"),
        (("./no",), "model folder not found: ./no"),
    ],
)
def test_latency_refuses(
    assets: Any,
    headsearch: Any,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(headsearch("latency", assets.model, *options), message)


def test_latency_of_what_can_not_be_loaded(
    assets: Any, tmp_path: Path, headsearch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(assets.model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").rename(tmp_path / "broken" / "model.onnx")
    if importlib.util.find_spec("onnxruntime") is not None:
        refused(headsearch("latency", tmp_path / "broken"), "in ONNX Runtime")
    monkeypatch.setattr(onnx, "NEEDED", ("not_there",))
    refused(headsearch("latency", assets.model, "--onnx"), "pip install 'headsearch[onnx]'")
    model = save_folder(tmp_path / "other", tiny_model("BERT", vocab_size=80))
    write(model / "config.json", lambda c: c.update(vocab_size=60))
    refused(headsearch("latency", assets.model, model), "is [80, 24] but must be [60, 24]")
