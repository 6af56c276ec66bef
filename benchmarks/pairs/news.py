"""MiniLM on 20 Newsgroups: 20 classes, the first 64 tokens. About 15 minutes on one core."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pairs import made, sources, tuning
from benchmarks.pairs.splits import deal
from headsearch.demo.train import Recipe

MAX_LENGTH = 64
RECIPE = Recipe(layers=4, snippets=6000, epochs=2, rate=2e-4)
CHARACTERS = 1200  # three times what 64 tokens take
HEADER_LINES = 3  # of the .tab format: names, types, roles
TEST = 2000


def load(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (train, later) as they were divided by date, columns `text`, `label` and `group`.

    A text that is in both, or twice, is kept once, in the test part if it is there.
    """
    parts = []
    for name in ("test", "train"):
        (file,) = folder.rglob(f"*{name}.tab")
        lines = file.read_text(encoding="utf-8").splitlines()[HEADER_LINES:]
        fields = [line.split("\t", 1) for line in lines if "\t" in line]
        table = pd.DataFrame(fields, columns=["label", "text"])
        table["text"] = table["text"].str.strip().str.slice(0, CHARACTERS)
        parts.append(table[table["text"].str.len() > 0].assign(part=name))
    table = pd.concat(parts).drop_duplicates("text")[["text", "label", "part"]]
    table["group"] = table["text"].map(group)
    train, later = (
        table[table["part"] == n].drop(columns="part").reset_index(drop=True)
        for n in ("train", "test")
    )
    return train, later


def group(text: str) -> str:
    """Return a group of threads that a post is of: the first word of its subject, without "re".

    Subjects are not told from what follows them. Posts of one thread are of one group, wherever
    they were sent, and as a rule those of other threads too; the largest has 158 of 7,517 posts.
    """
    words = iter(text.split())
    return next((word for word in words if word != "re"), "re")


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Train, and write the pair."""
    train, later = load(sources.files_of(sources.NEWSGROUPS))
    names = sorted(train["label"].unique())
    train = train.sample(frac=1.0, random_state=0).head(RECIPE.snippets)
    labels = np.array([names.index(name) for name in train["label"]])
    model, tokenizer = tuning.tune(
        sources.files_of(sources.MINILM),
        list(train["text"]),
        labels,
        names,
        RECIPE,
        MAX_LENGTH,
        say,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    test, pool = deal(later, [TEST], seed=0)
    about = {
        "pair": "news",
        "task": "20 Newsgroups, 20 classes; pool and test are the later posts of the usual split",
        "metric": "accuracy",
        "max_length": MAX_LENGTH,
        "splits": {"search": 2000, "certify": 1800, "test": "test.csv"},
        "group": "threads whose subjects begin with the same word",
        "sources": sources.described(sources.MINILM, sources.NEWSGROUPS),
        "training": tuning.described(RECIPE, len(train), MAX_LENGTH),
    }
    return made.write(folder, about, pool, test)
