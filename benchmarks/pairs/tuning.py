"""Fine-tunes an encoder to any labels: classes or one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from headsearch.demo.train import Recipe, _epochs
from headsearch.model.checkpoint import quiet_transformers


def tune(
    encoder: Path,
    texts: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str] | None,
    recipe: Recipe,
    max_length: int,
    say: Callable[[str], None],
) -> tuple[Any, Any]:
    """Fine-tune as the demo does and return (model, tokenizer), the model in eval mode.

    Args:
        encoder: a folder with a BERT encoder.
        texts: what is trained on.
        labels: (texts,) class ids, or values for regression.
        classes: names of the classes; None: regression.
        recipe: see there; the embeddings are not trained.
        max_length: longest input in tokens.
        say: takes lines of progress.
    """
    torch.manual_seed(recipe.seed)
    names = {"num_labels": 1, "problem_type": "regression"}
    if classes is not None:
        names = {
            "id2label": dict(enumerate(classes)),
            "label2id": {name: i for i, name in enumerate(classes)},
        }
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = AutoModelForSequenceClassification.from_pretrained(encoder, **names)
    base = getattr(model, model.base_model_prefix)
    below = base.encoder.layer[: len(base.encoder.layer) - recipe.layers]
    for module in (base.embeddings, *below):
        module.requires_grad_(False)
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    targets = torch.from_numpy(labels if classes is not None else labels.astype(np.float32))
    batches = batched(ids, recipe)

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
        loss: torch.Tensor = model(**inputs, labels=targets[torch.from_numpy(rows)]).loss
        return loss

    fit(model, batches, loss_of, recipe.rate, say)
    return model, tokenizer


def batched(ids: Sequence[Sequence[int]], recipe: Recipe) -> list[np.ndarray]:
    """Return the rows of the batches of all epochs, texts of like lengths together."""
    return _epochs(np.array([len(row) for row in ids]), recipe)


def fit(
    model: torch.nn.Module,
    batches: Sequence[np.ndarray],
    loss_of: Callable[[np.ndarray], torch.Tensor],
    rate: float,
    say: Callable[[str], None],
) -> None:
    """Train what requires gradients, a step a batch; the rate rises for a tenth, then falls to 0.

    Args:
        model: what is trained; left in eval mode.
        batches: the rows of each.
        loss_of: the loss on rows.
        rate: its peak.
        say: takes lines of progress.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    warm = max(1, len(batches) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm, (len(batches) - i) / max(1, len(batches) - warm))
    )
    model.train()
    losses: list[float] = []
    for step, rows in enumerate(batches):
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == len(batches):
            say(f"step {step + 1}/{len(batches)}, training loss {np.mean(losses):.3f}")
            losses = []
    model.eval()


def described(recipe: Recipe, texts: int, max_length: int) -> dict[str, Any]:
    """Return what `pair.json` says of a training."""
    return {**dataclasses.asdict(recipe), "texts": texts, "max_length": max_length}
