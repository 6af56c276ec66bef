"""Zeroed and ONNX models give the outputs of the model with heads turned off."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import ViTConfig

from headsearch.errors import InputError, ModelError
from headsearch.heads import HeadSet
from headsearch.model import onnx
from headsearch.model.checkpoint import load_pruned, save_pruned
from headsearch.model.gate import removed_heads
from headsearch.model.narrow import narrowed
from headsearch.model.onnx import OnnxSession, export_onnx
from headsearch.model.samples import largest_difference, logits_of, random_inputs, sample_inputs
from headsearch.model.zeroed import zeroed
from tests.tiny import SPECS, tiny_model
from tests.tiny_families import case

# A head, two heads, a whole layer.
REMOVED = HeadSet.of([0, 5, 6, 8, 9, 10, 11])


@pytest.mark.parametrize("family", sorted(SPECS))
def test_zeroed_is_as_large_and_equals_the_gate(family: str) -> None:
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made, inputs = zeroed(model, REMOVED), sample_inputs(model, 4, 9, padded=True)
    with removed_heads(model, REMOVED):
        expected = logits_of(model, inputs)
    np.testing.assert_allclose(logits_of(made, inputs), expected, rtol=0, atol=1e-6)
    changed = {n: v for n, v in made.state_dict().items() if not torch.equal(v, before[n])}
    assert len(changed) == 3  # the output projections
    # Of 24 columns, 6 a head.
    assert sorted(int((v == 0).all(dim=0).sum()) for v in changed.values()) == [6, 12, 24]
    assert not hasattr(made.config, "headsearch")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["BERT", "ViT", "DeiT", "GPT-2"])
def test_zeroed_has_the_names_that_transformers_writes(family: str, tmp_path: Path) -> None:
    """Whatever loads the original knows these; the modules' own names may be others."""
    model, _ = case(family)
    model.save_pretrained(tmp_path / "stock")  # type: ignore[operator]  # transformers' own
    save_pruned(zeroed(model, REMOVED), tmp_path / "zeroed")
    names = [
        set(safetensors.torch.load_file(tmp_path / name / "model.safetensors"))
        for name in ("stock", "zeroed")
    ]
    assert names[0] == names[1]
    found = load_pruned(tmp_path / "zeroed")
    expected = zeroed(model, REMOVED).state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_zeroed_of_a_narrow_model_is_refused() -> None:
    with pytest.raises(ModelError, match="narrowed before"):
        zeroed(narrowed(tiny_model("BERT"), HeadSet.of([0])), HeadSet.of([1]))


@pytest.mark.parametrize("family", ["BERT", "MPNet"])
def test_onnx_runs_for_any_batch_and_length(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
    whole, names = tiny_model(family, num_hidden_layers=2), ["input_ids", "attention_mask"]
    model = narrowed(whole, HeadSet.of([0, 4, 5, 6, 7]))  # one head, and a whole layer
    assert export_onnx(model, names, tmp_path) < 1e-5
    session = OnnxSession(tmp_path, threads=1)
    assert session.names == names
    for batch, tokens in ((1, 2), (7, 13), (2, 38)):  # MPNet has 38 positions
        inputs = random_inputs(model.config, batch, tokens, padded=True)
        expected = logits_of(model, {name: inputs[name] for name in names})
        np.testing.assert_allclose(session(inputs), expected, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match="ONNX Runtime could not run the model"):
        session(random_inputs(model.config, 1, 99))


@pytest.mark.parametrize("family", ["ViT", "DeiT"])
def test_onnx_of_image_models_without_a_layers_heads(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
    model = narrowed(case(family)[0], HeadSet.of([1, 4, 5, 6, 7]))  # one head, and a whole layer
    assert export_onnx(model, ["pixel_values"], tmp_path) < 1e-5
    inputs = random_inputs(model.config, 3, 1)
    expected = logits_of(model, inputs)
    np.testing.assert_allclose(OnnxSession(tmp_path)(inputs), expected, rtol=0, atol=1e-5)


def test_onnx_that_differs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("BERT")

    def other(_: Path) -> Any:
        return lambda inputs: logits_of(model, inputs) + 0.01

    monkeypatch.setattr(onnx, "NEEDED", ())
    monkeypatch.setattr(onnx, "OnnxSession", other)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Mock())
    with pytest.raises(ModelError, match=r"must be within 0.0001 of the model's but are 0.0"):
        export_onnx(model, ["input_ids"], tmp_path)

    def fails(*_: Any, **__: Any) -> None:
        reason = RuntimeError("no such operator\nsecond line")
        raise torch.onnx.errors.OnnxExporterError("How to report this") from reason

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ModelError, match=r"^could not write the model as ONNX: no such operator$"):
        export_onnx(model, ["input_ids"], tmp_path)


def test_a_broken_onnx_file_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"could not load .*model\.onnx in ONNX Runtime"):
        OnnxSession(tmp_path)


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "NEEDED", ("onnx_that_is_not_there", "json"))
    assert importlib.util.find_spec("json") is not None
    with pytest.raises(
        InputError, match=r"onnx_that_is_not_there.*pip install 'headsearch\[onnx\]'"
    ):
        export_onnx(tiny_model("BERT"), ["input_ids"], tmp_path)


def test_differences_are_relative_and_nan_is_far() -> None:
    one, ten = np.ones((2, 2)), np.full((2, 2), 10.0)
    assert largest_difference([(one, one + 0.5)]) == 0.5
    assert largest_difference([(ten, ten + 0.5), (one, one)]) == 0.05
    assert largest_difference([(one, one * np.nan)]) == np.inf


def test_inputs_are_the_same_each_time_and_hold_no_padding_by_chance() -> None:
    config = tiny_model("MPNet").config  # padding is 1, and 2 ends a text
    made, again = (random_inputs(config, 4, 200) for _ in range(2))
    assert torch.equal(made["input_ids"], again["input_ids"])
    assert set(made["input_ids"][:, :-1].flatten().tolist()) == set(range(60)) - {1, 2}
    assert made["input_ids"][:, -1].tolist() == [2] * 4
    padded = random_inputs(config, 4, 5, padded=True)
    assert padded["attention_mask"].sum(dim=1).tolist() == [5, 3, 5, 3]
    assert (padded["input_ids"][padded["attention_mask"] == 0] == 1).all()
    assert padded["input_ids"][1].tolist()[2:] == [2, 1, 1]
    images = random_inputs(ViTConfig(image_size=8), 2, 1)
    assert images["pixel_values"].shape == (2, 3, 8, 8)
