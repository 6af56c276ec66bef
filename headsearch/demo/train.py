"""Fine-tunes a small classifier from an encoder, seeded, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from headsearch.demo.reviews import LABELS, MAX_TOKENS
from headsearch.model.checkpoint import quiet_transformers


@dataclass(frozen=True)
class Recipe:
    """What is trained and for how long.

    Attributes:
        layers: how many of the uppermost encoder layers are trained, besides pooler and classifier.
        snippets: how many training snippets are used (None: all).
        epochs: passes over them.
        rate: peak learning rate; rises over the first tenth of the steps, then falls to 0.
    """

    layers: int
    snippets: int | None
    epochs: int
    rate: float
    batch: int = 32
    seed: int = 0


FULL = Recipe(layers=6, snippets=None, epochs=2, rate=1e-4)
SHORT = Recipe(layers=3, snippets=3000, epochs=1, rate=2e-4)


def train(
    encoder: Path, rows: pd.DataFrame, recipe: Recipe, say: Callable[[str], None]
) -> tuple[Any, Any]:
    """Fine-tune a sequence classifier and return (model, tokenizer), the model in eval mode."""
    torch.manual_seed(recipe.seed)
    names = dict(enumerate(LABELS))
    with quiet_transformers():  # it would note that the classifier is new, which is as it should be
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder,
            num_labels=len(names),
            id2label=names,
            label2id={n: i for i, n in enumerate(LABELS)},
        )
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    for layer in model.bert.encoder.layer[: len(model.bert.encoder.layer) - recipe.layers]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    rows = rows.head(recipe.snippets) if recipe.snippets is not None else rows
    texts = list(rows["text"])
    ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    labels = torch.tensor([LABELS.index(name) for name in rows["label"]])
    batches = _epochs(np.array([len(row) for row in ids]), recipe)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=recipe.rate, weight_decay=0.01
    )
    warm = max(1, len(batches) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, (len(batches) - i) / max(1, len(batches) - warm))
    )
    model.train()
    total = 0.0
    for step, rows_of_batch in enumerate(batches):
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in rows_of_batch]}, return_tensors="pt")
        loss = model(**inputs, labels=labels[torch.from_numpy(rows_of_batch)]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if (step + 1) % 50 == 0 or step + 1 == len(batches):
            since = (step % 50) + 1
            say(f"step {step + 1}/{len(batches)}, training loss {total / since:.3f}")
            total = 0.0
    return model.eval(), tokenizer


def _epochs(lengths: np.ndarray, recipe: Recipe) -> list[np.ndarray]:
    """Batches for all epochs: shuffled, then sorted by length within pools of 50 batches."""
    random = np.random.default_rng(recipe.seed)
    pool = 50 * recipe.batch
    batches: list[np.ndarray] = []
    for _ in range(recipe.epochs):
        order = random.permutation(len(lengths))
        epoch = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(lengths[part], kind="stable")]
            epoch += [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        random.shuffle(epoch)
        batches += epoch
    return batches
