"""From a search to transformers alone: the metric stays what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import headsearch
from headsearch.heads import HeadSet
from headsearch.model.families import reads_images
from headsearch.model.plain import plain_outputs
from headsearch.run.config import RunConfig
from headsearch.run.prepare import make_task
from headsearch.task.data import Examples
from tests.test_images import PICTURES, PROCESSOR
from tests.test_kinds import noisy, tiny
from tests.tiny import SPECS
from tests.tiny_families import GPT2, GROUPED, IMAGE
from tests.words import texts_and_labels, tiny_tokenizer

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", SPECS["BERT"][1]),
    "RoBERTa": ("RobertaForSequenceClassification", {**SPECS["RoBERTa"][1], "pad_token_id": 0}),
    "DistilBERT": ("DistilBertForSequenceClassification", SPECS["DistilBERT"][1]),
    "ViT": ("ViTForImageClassification", IMAGE),
    "GPT-2": ("GPT2ForSequenceClassification", GPT2),
    "Llama": ("LlamaForSequenceClassification", GROUPED),
}
DROP = 0.2
# Run by an interpreter that can't import headsearch; prints how many answers are right.
SCRIPT = """
import json, sys
sys.modules["headsearch"] = None
import torch, transformers
from pathlib import Path
from safetensors.torch import load_file

found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    loader = "AutoModelForImageClassification" if folder.name == "ViT" else None
    loader = getattr(transformers, loader or "AutoModelForSequenceClassification")
    model = loader.from_pretrained(folder, trust_remote_code=True).eval()
    data, right = load_file(folder / "data.safetensors"), 0
    labels = data.pop("labels")
    for row, label in enumerate(labels):
        inputs = {name: tensor[row : row + 1] for name, tensor in data.items()}
        if "attention_mask" in inputs:  # one text at a time, without padding
            length = int(inputs["attention_mask"].sum())
            inputs = {name: tensor[:, :length] for name, tensor in inputs.items()}
        with torch.inference_mode():
            right += int(model(**inputs).logits.argmax()) == int(label)
    found[folder.name] = right
print(json.dumps(found))
"""


def texts_for(model: nn.Module) -> tuple[Any, list[Any], dict[str, torch.Tensor]]:
    """What reads the inputs, the inputs, and these as tensors."""
    if reads_images(model):
        pixels = PROCESSOR(PICTURES, return_tensors="pt")
        return PROCESSOR, list(PICTURES), dict(pixels)
    tokenizer, texts = tiny_tokenizer(), texts_and_labels(50, seed=3)[0]
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer, texts, dict(tokenizer(texts, padding=True, return_tensors="pt"))


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, int]]:
    """For each family what the search found, and what transformers alone says of its model."""
    folder, results = tmp_path_factory.mktemp("trips"), {}
    for name, (kind, settings) in MODELS.items():
        model = tiny(kind, settings)
        reader, inputs, tensors = texts_for(model)
        config = RunConfig(model="m", data="d", engine="inline")
        unlabelled = Examples(inputs, None, np.zeros(len(inputs), np.int64))
        task = make_task(model, reader, unlabelled, config)
        answers = plain_outputs(model, task.data.batches, HeadSet()).argmax(axis=1)
        labels = np.empty_like(answers)
        labels[task.data.order] = noisy(answers, 3)
        column = "image" if name == "ViT" else "text"
        rows = [{column: i, "label": int(j)} for i, j in zip(inputs, labels, strict=True)]
        result = headsearch.search(model, reader, rows, max_drop=DROP, max_evaluations=25)
        place = folder / name
        headsearch.save_pruned(headsearch.prune(model, result.best.removed), place, reader)
        save_file({**tensors, "labels": torch.from_numpy(labels)}, place / "data.safetensors")
        results[name] = result
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    right = json.loads(done.stdout.splitlines()[-1])
    return {name: (results[name], right[name]) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_alone_gives_the_metric_that_the_search_found(
    trips: dict[str, tuple[Any, int]], name: str
) -> None:
    result, right = trips[name]
    assert result.best.heads_removed >= 1
    assert right == result.best.correct
    assert right >= result.details["baseline"]["correct"] - DROP * 50
