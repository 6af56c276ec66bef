"""Tiny random models of every family, and batches for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.task.batches import Batch, BatchedData

COMMON: dict[str, Any] = {"vocab_size": 60, "num_labels": 3, "pad_token_id": 0}
BERT_LIKE: dict[str, Any] = {
    **COMMON,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", BERT_LIKE),
    "RoBERTa": ("Roberta", {**BERT_LIKE, "pad_token_id": 1}),
    "ELECTRA": ("Electra", {**BERT_LIKE, "embedding_size": 16}),
    "DistilBERT": (
        "DistilBert",
        {
            **COMMON,
            "dim": 24,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 40,
            "max_position_embeddings": 40,
        },
    ),
    "MPNet": ("MPNet", {**BERT_LIKE, "pad_token_id": 1}),
}


def tiny_model(family: str, seed: int = 0, **changes: Any) -> nn.Module:
    """Return a random classifier whose attention matters: weights are larger than the default."""
    stem, settings = SPECS[family]
    config = getattr(transformers, f"{stem}Config")(**{**settings, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{stem}ForSequenceClassification")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and "layer_norm" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tiny_data(
    model: nn.Module, examples: int = 23, per_batch: int = 5, seed: int = 0
) -> BatchedData:
    """Return random batches sorted by length, with padding in some, and random labels."""
    random = np.random.default_rng(seed)
    pad = model.config.pad_token_id
    lengths = np.sort(random.integers(3, 14, size=examples))
    batches = []
    for start in range(0, examples, per_batch):
        sizes = lengths[start : start + per_batch]
        mask = (np.arange(sizes.max())[None] < sizes[:, None]).astype(np.int64)
        ids = random.integers(5, 60, size=mask.shape)
        batches.append(Batch({"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}))
    labels = random.integers(0, model.config.num_labels, size=examples)
    return BatchedData(tuple(batches), labels, np.arange(examples))


def learnt(model: nn.Module, data: BatchedData) -> BatchedData:
    """Return the data with labels that the model gets right but for every tenth.

    With random labels every head could go; these make removing heads cost something.
    """
    labels = plain_outputs(model, data.batches, HeadSet()).argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % model.config.num_labels
    return dataclasses.replace(data, labels=labels)
