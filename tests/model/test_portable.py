"""Narrow folders in the hands of transformers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, dynamic_module_utils

from headsearch.heads import HeadSet
from headsearch.model import narrow, portable
from headsearch.model.checkpoint import load_pruned, save_pruned
from headsearch.model.families import NARROW, family_of, head_map
from headsearch.model.gate import removed_heads
from headsearch.model.narrow import narrowed
from headsearch.model.plain import inputs_of
from headsearch.model.samples import logits_of, sample_inputs
from tests.tiny import SPECS, tiny_model
from tests.tiny_families import CASES, case
from tests.words import tiny_tokenizer

CLEAN = Path(__file__).parent.parent / "clean.py"
CPU = torch.device("cpu")
NARROW_CASES = [name for name in CASES if NARROW not in family_of(case(name)[0]).limits]
# A head, two heads, a whole layer.
REMOVED = HeadSet.of([0, 5, 6, 8, 9, 10, 11])


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have transformers copy the folders' code to a temporary place, not to the home folder."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save_pruned(narrowed(tiny_model("MPNet"), REMOVED), tmp_path / "small", tiny_tokenizer())
    return tmp_path / "small"


def load(folder: Path, **options: Any) -> Any:
    (loader,) = json.loads((folder / "config.json").read_text())["auto_map"]
    return getattr(transformers, loader).from_pretrained(folder, trust_remote_code=True, **options)


def some_heads(model: nn.Module) -> HeadSet:
    """A whole layer, and a head and a bit of the others."""
    shape = head_map(model)
    return HeadSet.of(j for j in range(shape.total) if j < shape.start(1) or j % 4 == 1)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_every_family_loads_where_headsearch_is_not_installed(tmp_path: Path) -> None:
    expected, folders = {}, []
    for name in NARROW_CASES:
        model, batches = case(name)
        folders.append(tmp_path / name.replace(" ", "-"))
        pruned = narrowed(model, some_heads(model))
        save_pruned(pruned, folders[-1])
        expected[folders[-1]] = logits_of(pruned, inputs_of(batches[-1], CPU))
        np.savez(f"{folders[-1]}.npz", **batches[-1].arrays)
    done = subprocess.run(
        [sys.executable, CLEAN, *folders],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder, logits in expected.items():
        np.testing.assert_array_equal(np.load(f"{folder}.npy"), logits, err_msg=folder.name)


@pytest.mark.parametrize("name", NARROW_CASES)
def test_saved_again_by_transformers_it_is_the_same(name: str, tmp_path: Path) -> None:
    whole, batches = case(name)
    pruned, inputs = narrowed(whole, some_heads(whole)), inputs_of(batches[-1], CPU)
    expected = logits_of(pruned, inputs)
    save_pruned(pruned, tmp_path / "once")
    load(tmp_path / "once").save_pretrained(tmp_path / "twice")
    again = load(tmp_path / "twice").eval()
    np.testing.assert_array_equal(logits_of(again, inputs), expected)
    np.testing.assert_array_equal(logits_of(load_pruned(tmp_path / "twice"), inputs), expected)
    assert type(again).__name__ == type(whole).__name__, "pipelines go by it"


@pytest.mark.parametrize("family", sorted(SPECS))
def test_pruned_more_after_transformers_loaded_it(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    save_pruned(narrowed(model, REMOVED), tmp_path / "small")
    again = load(tmp_path / "small").eval()
    inputs = sample_inputs(model, 3, 9, padded=True)
    expected = logits_of(again, inputs)
    save_pruned(again, tmp_path / "same")
    np.testing.assert_array_equal(logits_of(load(tmp_path / "same").eval(), inputs), expected)
    save_pruned(narrowed(again, HeadSet.of([0])), tmp_path / "less")  # head 1 of the whole model
    with removed_heads(model, REMOVED.add(1)):
        less = logits_of(model, inputs)
    np.testing.assert_allclose(logits_of(load(tmp_path / "less"), inputs), less, rtol=0, atol=1e-5)


def test_half_precision_devices_compilation_and_training(small: Path) -> None:
    inputs = sample_inputs(load_pruned(small), 4, 9)
    expected = logits_of(load_pruned(small), inputs)
    half = load(small, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    np.testing.assert_allclose(logits_of(half, inputs), expected, rtol=0, atol=0.2)
    model = load(small).to("cpu").eval()
    # Without a code generator: what dynamo can trace, a backend can compile.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    np.testing.assert_allclose(logits_of(compiled, inputs), expected, rtol=0, atol=1e-6)
    labels = torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    moved = model.mpnet.encoder.layer[0].attention.attn.q.weight
    assert moved.shape == (18, 24)
    assert not torch.equal(moved, load(small).mpnet.encoder.layer[0].attention.attn.q.weight)


def test_without_trust_it_is_an_error_and_our_loader_runs_no_code(small: Path) -> None:
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForSequenceClassification.from_pretrained(small)
    (small / "modeling_headsearch.py").write_text("raise SystemExit('code was run')")
    assert head_map(load_pruned(small)).heads_per_layer == (3, 2, 0)


Q = "mpnet.encoder.layer.1.attention.attn.q"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("headsearch"), "has no record 'headsearch'"),
        (lambda c: c.update(headsearch=[1]), "has no sizes of modules"),
        (lambda c: c["headsearch"].pop("narrow"), "has no sizes of modules"),
        (lambda c: c["headsearch"]["narrow"].update(format=2), "must be 1 but is 2"),
        (lambda c: c.update(num_hidden_layers=1), "which the model lacks"),
        (lambda c: c.update(hidden_size=16), "all_head_size is 16 in the whole model but not 24"),
        (lambda c: c.update(num_attention_heads=2), "in the whole model but not 4"),
        (
            lambda c: c["headsearch"]["narrow"]["modules"][Q]["tensors"].pop("bias"),
            "mismatch",
        ),
        (
            lambda c: c["headsearch"]["narrow"]["modules"][Q]["tensors"].update(
                weight=[[24, 24], [6, 24]]
            ),
            "mismatch",
        ),
        (
            lambda c: c["headsearch"]["narrow"]["modules"][Q]["tensors"].update(
                weight=[[24, 24], [30, 24]]
            ),
            r"can't be made \[30, 24\]",
        ),
        (
            lambda c: c["headsearch"]["narrow"]["modules"][Q.removesuffix(".q")].update(
                {"class": "Popen"}
            ),
            "do not fit: 'Popen'",
        ),
        (lambda c: c["headsearch"]["narrow"]["modules"].pop(Q), "mismatch"),
        (lambda c: c["headsearch"]["narrow"]["modules"].update({Q: 7}), "do not fit"),
    ],
)
def test_a_tampered_config_is_an_error_in_transformers(
    small: Path, edit: Any, message: str
) -> None:
    change(small, edit)
    with pytest.raises((ValueError, RuntimeError), match=message):
        load(small)


def test_weights_that_are_missing_foreign_or_truncated_are_an_error(small: Path) -> None:
    weights, name = load_file(small / "model.safetensors"), "classifier.dense.weight"
    save_file({k: v for k, v in weights.items() if k != name}, small / "model.safetensors")
    with pytest.raises(ValueError, match=f"missing_keys.*{name}"):
        load(small)
    save_file({**weights, "extra": torch.zeros(1)}, small / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected_keys.*extra"):
        load(small)
    save_file({**weights, f"{Q}.weight": torch.zeros(6, 24)}, small / "model.safetensors")
    with pytest.raises(ValueError, match="must not be set"):
        load(small, ignore_mismatched_sizes=True)
    with pytest.raises(RuntimeError, match="mismatch"):
        load(small)
    with (small / "model.safetensors").open("r+b") as file:
        file.truncate(700)
    with pytest.raises(Exception, match=r"(?i)header|incomplete|safetensor"):
        load(small)


def test_pickled_weights_are_not_read(small: Path) -> None:
    torch.save(load_file(small / "model.safetensors"), small / "pytorch_model.bin")
    (small / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load(small)


def test_a_model_that_lost_no_head_loads_too(tmp_path: Path) -> None:
    model = narrowed(tiny_model("BERT"), HeadSet())
    save_pruned(model, tmp_path / "whole")
    inputs = sample_inputs(model, 2, 5)
    np.testing.assert_array_equal(
        logits_of(load(tmp_path / "whole").eval(), inputs), logits_of(model, inputs)
    )


def test_the_copied_file_names_the_record_as_we_do() -> None:
    assert portable.RECORD == narrow.RECORD
