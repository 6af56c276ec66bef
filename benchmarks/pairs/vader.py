"""MiniLM on the valence of VADER's texts, a regression. About 12 minutes on one core."""

from __future__ import annotations

import html
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pairs import made, sources, tuning
from benchmarks.pairs.splits import deal
from headsearch.demo.train import Recipe

MAX_LENGTH = 48
RECIPE = Recipe(layers=6, snippets=8000, epochs=2, rate=1e-4)
INSIDE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
PARTS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
TEST = 2000


def load(archive: Path) -> pd.DataFrame:
    """Return columns `text`, `label` (mean human valence, -4 to 4) and `group`.

    Product reviews and editorials were cut into sentences, "12_3" is the third of the twelfth: all
    of one text are a group. Snippets of film reviews and tweets are groups of their own.
    """
    rows = []
    with (
        zipfile.ZipFile(archive) as outer,
        outer.open(INSIDE) as packed,
        tarfile.open(fileobj=packed, mode="r:gz") as inner,
    ):
        for name in PARTS:
            file = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            assert file is not None
            for line in file.read().decode("utf-8", errors="replace").splitlines():
                number, valence, text = line.split("\t", 2)
                group = f"{name} {number.split('_')[0]}"
                rows.append((html.unescape(text).strip(), float(valence), group))
    table = pd.DataFrame(rows, columns=["text", "label", "group"])
    return table[table["text"].str.len() > 0].drop_duplicates("text").reset_index(drop=True)


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Train, and write the pair."""
    table = load(sources.archive_of(sources.VADER))
    assert RECIPE.snippets is not None
    train, test, pool = deal(table, [RECIPE.snippets, TEST], seed=0)
    model, tokenizer = tuning.tune(
        sources.files_of(sources.MINILM),
        list(train["text"]),
        train["label"].to_numpy(),
        None,
        RECIPE,
        MAX_LENGTH,
        say,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    about = {
        "pair": "vader",
        "task": "mean valence that people gave to sentences of film reviews, product reviews, "
        "editorials and tweets",
        "metric": "pearson",
        "max_length": MAX_LENGTH,
        "splits": {"search": 2000, "certify": 2000, "test": "test.csv"},
        "group": "product review or editorial, else the text",
        "sources": sources.described(sources.MINILM, sources.VADER),
        "training": tuning.described(RECIPE, len(train), MAX_LENGTH),
    }
    return made.write(folder, about, pool, test)
