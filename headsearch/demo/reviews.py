"""Rotten Tomatoes review snippets, split by film: no film is in two splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

FILE = "rotten_tomatoes_corpus_full.csv.bz2"
LABELS = ("rotten", "fresh")
MAX_TOKENS = 48  # 99 % of the snippets are shorter


@dataclass(frozen=True)
class Splits:
    """Three tables with columns `text` and `label` (a name in `LABELS`) and `film`."""

    train: pd.DataFrame
    search: pd.DataFrame
    held_out: pd.DataFrame


def load(folder: Path, *, search: int = 1746, held_out: int = 1900, seed: int = 0) -> Splits:
    """Read the snippets and split them by film.

    Whole films are dealt in a seeded order: first to the held-out split until it has at least
    `held_out` snippets, then to the search split, the rest to training. The sizes asked for are
    then cut exactly.
    """
    table = pd.read_csv(folder / FILE)
    table = table[table["category"].isin(LABELS)].drop_duplicates("text")
    table = table.rename(columns={"category": "label", "movie_name": "film"})
    table = table[["text", "label", "film"]].reset_index(drop=True)
    films = np.array(sorted(table["film"].unique()), dtype=object)
    np.random.default_rng(seed).shuffle(films)
    counts = table["film"].value_counts().reindex(films).to_numpy().cumsum()
    first = int(np.searchsorted(counts, held_out)) + 1
    second = int(np.searchsorted(counts, counts[first - 1] + search)) + 1
    deal = (films[:first], films[first:second], films[second:])
    held, searched, train = (
        table[table["film"].isin(set(part))].sample(frac=1.0, random_state=seed) for part in deal
    )
    return Splits(
        train=train.reset_index(drop=True),
        search=searched.head(search).reset_index(drop=True),
        held_out=held.head(held_out).reset_index(drop=True),
    )
