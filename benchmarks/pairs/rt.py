"""MiniLM on Rotten Tomatoes, trained as `benchmarks.train_minilm` does. Ten minutes on one core."""

from __future__ import annotations

import dataclasses
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pairs import made, sources
from headsearch.demo import reviews, train


def unseen(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (training rows, all rows of the films that are not among them), with column `group`.

    The second part is the demo's search and held-out splits and what their sizes cut off.
    """
    parts = reviews.load(folder)
    table = pd.read_csv(folder / reviews.FILE)
    table = table.rename(columns={"category": "label", "movie_name": "group"})
    table = table[table["label"].isin(reviews.LABELS)].drop_duplicates("text")
    pool = table[~table["group"].isin(set(parts.train["film"]))]
    return parts.train, pool[["text", "label", "group"]].reset_index(drop=True)


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Train, or take the model that is given, and write the pair."""
    rows, pool = unseen(sources.files_of(sources.REVIEWS))
    if options.model is not None:
        shutil.copytree(options.model, folder / "model")
    else:
        model, tokenizer = train.train(sources.files_of(sources.MINILM), rows, train.FULL, say)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    about = {
        "pair": "rt",
        "task": "Rotten Tomatoes snippets, fresh or rotten; all splits are of films not trained on",
        "metric": "accuracy",
        "max_length": reviews.MAX_TOKENS,
        "splits": {"search": 1746, "certify": 950, "test": "rest"},
        "group": "film",
        "sources": sources.described(sources.MINILM, sources.REVIEWS),
        "training": {
            **dataclasses.asdict(train.FULL),
            "texts": len(rows),
            "max_length": reviews.MAX_TOKENS,
        },
    }
    return made.write(folder, about, pool, None)
