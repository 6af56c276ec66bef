"""Equality with transformers 4.57's own `prune_heads` and `head_mask`, which version 5 dropped.

    make test-reference

makes an environment with that version and runs these tests; HEADSEARCH_TRANSFORMERS4 names its
interpreter. Its tests of head pruning are here too, as behaviour: prune, save, load, prune more,
and back through the configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import headsearch
from headsearch.heads import HeadSet
from headsearch.model.families import head_map
from headsearch.model.gate import removed_heads
from tests.test_kinds import tiny
from tests.tiny import SPECS, tiny_data
from tests.tiny_families import GPT2, IMAGE

INTERPRETER = os.environ.get("HEADSEARCH_TRANSFORMERS4")
needs_reference = pytest.mark.skipif(
    INTERPRETER is None, reason="HEADSEARCH_TRANSFORMERS4 names no interpreter with transformers 4"
)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", SPECS["BERT"][1]),
    "RoBERTa": ("RobertaForSequenceClassification", SPECS["RoBERTa"][1]),
    "DistilBERT": ("DistilBertForSequenceClassification", SPECS["DistilBERT"][1]),
    "ELECTRA": ("ElectraForSequenceClassification", SPECS["ELECTRA"][1]),
    "GPT-2": ("GPT2ForSequenceClassification", GPT2),
    "ViT": ("ViTForImageClassification", IMAGE),
}
# transformers 4 could not remove all heads of a layer.
REMOVED = {
    "one": {0: [1]},
    "some": {0: [0, 3], 1: [2]},
    "many": {0: [0, 1, 2], 1: [1, 3], 2: [0, 1, 3]},
}
STEPS = ({0: [1], 2: [3]}, {0: [0, 2], 1: [1]})  # numbered as in the whole model


def inputs_for(model: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(5, 3, 8, 8)}
    batch = tiny_data(model, examples=9, per_batch=9).batches[0]
    return {name: torch.from_numpy(array) for name, array in batch.arrays.items()}


@torch.inference_mode()
def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    return np.asarray(model(**inputs).logits)


def pairs(removed: dict[int, list[int]]) -> list[tuple[int, int]]:
    return [(layer, head) for layer, heads in removed.items() for head in heads]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, nn.Module]]:
    """All models in folders, with what transformers 4 says of them."""
    folder, models = tmp_path_factory.mktemp("reference"), {}
    for name, (kind, settings) in MODELS.items():
        models[name] = model = tiny(kind, settings)
        model.save_pretrained(folder / name)
        save_file(inputs_for(model), folder / name / "inputs.safetensors")
        cases = {"class": kind, "layers": 3, "heads": 4, "removed": REMOVED, "steps": STEPS}
        (folder / name / "cases.json").write_text(json.dumps(cases))
    assert INTERPRETER is not None
    script = Path(__file__).with_name("theirs.py")
    done = subprocess.run(
        [INTERPRETER, str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, models


@needs_reference
@pytest.mark.parametrize("case", REMOVED)
@pytest.mark.parametrize("name", MODELS)
def test_gate_and_narrowing_give_what_transformers_4_gave(
    made: tuple[Path, dict[str, nn.Module]], name: str, case: str
) -> None:
    folder, models = made
    model, inputs = models[name], inputs_for(models[name])
    theirs = load_file(folder / name / "theirs.safetensors")
    removed = head_map(model).from_pairs(pairs(REMOVED[case]))
    with removed_heads(model, removed):
        gated = logits(model, inputs)
    narrow = headsearch.prune(model, removed)
    assert np.abs(gated - logits(model, inputs)).max() > 1e-3, "the heads have an effect"
    for ours in (gated, logits(narrow, inputs)):
        np.testing.assert_allclose(ours, theirs[f"{case} mask"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours, theirs[f"{case} pruned"], rtol=0, atol=1e-5)
    left = json.loads((folder / name / "heads.json").read_text())[case]
    assert list(head_map(narrow).heads_per_layer) == left


@needs_reference
@pytest.mark.parametrize("name", MODELS)
def test_pruned_saved_loaded_and_pruned_more_as_transformers_4_did(
    made: tuple[Path, dict[str, nn.Module]], name: str, tmp_path: Path
) -> None:
    folder, models = made
    model, inputs = models[name], inputs_for(models[name])
    theirs = load_file(folder / name / "theirs.safetensors")["two steps"]
    headsearch.save_pruned(headsearch.prune(model, pairs(STEPS[0])), tmp_path / "once")
    once = headsearch.load_pruned(tmp_path / "once")
    # Heads of the second step, by their place among those that are left.
    twice = headsearch.prune(once, [(0, 0), (0, 1), (1, 1)])
    np.testing.assert_allclose(logits(twice, inputs), theirs, rtol=0, atol=1e-5)
    at_once = headsearch.prune(model, pairs(STEPS[0]) + pairs(STEPS[1]))
    np.testing.assert_allclose(logits(twice, inputs), logits(at_once, inputs), rtol=0, atol=1e-6)


# What its own tests said of `prune_heads`; none needs it to be there.


@pytest.mark.parametrize("name", MODELS)
def test_pruning_saving_and_loading_keeps_the_heads_that_are_left(
    name: str, tmp_path: Path
) -> None:
    kind, settings = MODELS[name]
    model = tiny(kind, settings)
    inputs = inputs_for(model)
    removed = {0: [1, 2, 3], 2: [0]}  # all heads of a layer but the first; one of the last
    narrow = headsearch.prune(model, pairs(removed))
    assert head_map(narrow).heads_per_layer == (1, 4, 3)
    assert head_map(model).heads_per_layer == (4, 4, 4), "the model itself is left as it is"
    headsearch.save_pruned(narrow, tmp_path / "once")
    loaded = headsearch.load_pruned(tmp_path / "once")
    assert head_map(loaded).heads_per_layer == (1, 4, 3)
    np.testing.assert_array_equal(logits(loaded, inputs), logits(narrow, inputs))
    more = headsearch.prune(loaded, [(1, 0), (1, 1), (2, 2)])
    assert head_map(more).heads_per_layer == (1, 2, 2)
    headsearch.save_pruned(more, tmp_path / "twice")
    back = headsearch.load_pruned(tmp_path / "twice")
    assert head_map(back).heads_per_layer == (1, 2, 2)
    record: Any = back.config
    assert record.headsearch["removed"] == {"0": [1, 2, 3], "1": [0, 1], "2": [0, 3]}
    np.testing.assert_array_equal(logits(back, inputs), logits(more, inputs))


@pytest.mark.parametrize("name", MODELS)
def test_pruning_nothing_changes_nothing(name: str) -> None:
    kind, settings = MODELS[name]
    model = tiny(kind, settings)
    inputs = inputs_for(model)
    same = headsearch.prune(model, HeadSet())
    np.testing.assert_array_equal(logits(same, inputs), logits(model, inputs))
