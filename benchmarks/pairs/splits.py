"""Draws a pair's three splits; no group of rows (a film, a text, a patent) is in two of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def splits(pair: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the rows that guide a search, certify its outcome, and test it.

    Args:
        pair: the folder that `python -m benchmarks.pairs` made.
        seed: 0, 1, 2, … each deals the pool anew; a fixed test split is the same for all.

    Returns:
        Tables (search, certify, test) with the columns of `pool.csv`. The first two have the sizes
        that `pair.json` states; test is `test.csv` where there is one, else the rest of the pool.
    """
    about = json.loads((pair / "pair.json").read_text())
    sizes = [about["splits"]["search"], about["splits"]["certify"]]
    search, certify, rest = deal(_read(pair / "pool.csv"), sizes, seed)
    fixed = pair / "test.csv"
    return search, certify, _read(fixed) if fixed.exists() else rest


def deal(rows: pd.DataFrame, sizes: Sequence[int], seed: int) -> list[pd.DataFrame]:
    """Deal whole groups in a seeded order to parts of the sizes asked for, and to a last one.

    Every part but the last is filled with whole groups until it has its size and then cut to it;
    what is cut off is in no part, as other rows of its group are in this one.

    Raises:
        ValueError: there are not enough rows.
    """
    random = np.random.default_rng(seed)
    rows = rows.iloc[random.permutation(len(rows))]
    keys = rows["group"].astype(str) if "group" in rows else pd.Series(rows.index, rows.index)
    names = np.array(sorted(keys.unique()))
    random.shuffle(names)
    place = keys.map({name: i for i, name in enumerate(names)}).to_numpy()
    ends = np.bincount(place, minlength=len(names)).cumsum()  # rows up to and with each group
    parts, first, before = [], 0, 0
    for size in sizes:
        if before + size > len(rows):
            raise ValueError(f"sizes must add up to at most {len(rows)} rows but got {list(sizes)}")
        stop = int(np.searchsorted(ends, before + size)) + 1
        parts.append(rows[(place >= first) & (place < stop)].head(size))
        first, before = stop, int(ends[stop - 1])
    parts.append(rows[place >= first])
    return [part.reset_index(drop=True) for part in parts]


def _read(file: Path) -> pd.DataFrame:
    """Read a table; "null" and "NA" are words that texts may be."""
    return pd.read_csv(file, keep_default_na=False, dtype={"text": str, "group": str})
