"""Labelled examples: rows of any source, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headsearch.errors import DataError, InputError
from headsearch.task.labels import class_ids, target_values
from headsearch.task.sources import open_source


@dataclass(frozen=True)
class Examples:
    """Texts and labels, in the order of their source.

    Attributes:
        texts: the texts.
        pairs: the second texts of pairs, or None.
        labels: (examples,) int64 class ids, or float64 values for regression.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray


def load_examples(
    source: str,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    id2label: Mapping[int, str] | None,
    classes: int,
    subset: str | None = None,
    split: str | None = None,
    max_examples: int | None = None,
    seed: int = 0,
) -> Examples:
    """Load labelled examples.

    Args:
        source: a CSV, JSON-lines or Parquet file; a `save_to_disk` folder; or a hub data set name.
        text_column, pair_column, label_column: where texts and labels are.
        id2label: the model's class names.
        classes: the model's number of classes; 1 means regression.
        subset, split: of a hub data set; the split of a folder that holds several.
        max_examples: take a seeded random part of that size, in source order.
        seed: of that part.

    Raises:
        DataError: the data are missing or break a rule; the text names it.
    """
    with tempfile.TemporaryDirectory(prefix="headsearch-") as cache:
        table = open_source(source, subset, split, cache)
        return examples_from_rows(
            table,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            id2label=id2label,
            classes=classes,
            max_examples=max_examples,
            seed=seed,
        )


def examples_from_rows(
    rows: Any,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    id2label: Mapping[int, str] | None,
    classes: int,
    max_examples: int | None = None,
    seed: int = 0,
) -> Examples:
    """Check rows and take texts and labels from them; see `load_examples`.

    Args:
        rows: a `datasets.Dataset`, a mapping of columns, or a sequence of dict rows.
    """
    columns = _columns(rows, [text_column, pair_column, label_column])
    raw = columns[label_column]
    if len(raw) == 0:
        raise DataError("the data must have at least one example but are empty")
    texts = _texts(columns[text_column], text_column)
    pairs = None if pair_column is None else _texts(columns[pair_column], pair_column)
    if classes == 1:
        labels = target_values(raw, label_column)
    else:
        labels = class_ids(
            raw, label_column, id2label or {}, classes, _label_names(rows, label_column)
        )
    if max_examples is not None:
        if max_examples < 1:
            raise InputError(f"`max_examples` must be at least 1 but got {max_examples}")
        if max_examples < len(texts):
            random = np.random.default_rng(seed)
            picked = np.sort(random.choice(len(texts), max_examples, replace=False))
            texts = [texts[i] for i in picked]
            pairs = None if pairs is None else [pairs[i] for i in picked]
            labels = labels[picked]
    if len(np.unique(labels)) == 1:
        raise DataError(
            f"the labels in column {label_column!r} must not all be the same but all "
            f"{len(labels)} are {labels[0]}: no metric means anything on them"
        )
    return Examples(texts, pairs, labels)


def _columns(rows: Any, names: Sequence[str | None]) -> dict[str, list[Any]]:
    """Return the named columns of any kind of rows."""
    wanted = [name for name in names if name is not None]
    if hasattr(
        rows, "with_format"
    ):  # a data set that gives tensors holds plain values all the same
        rows = rows.with_format(None)
    if isinstance(rows, Mapping):
        there = list(rows)
    elif hasattr(rows, "column_names"):
        there = list(rows.column_names)
    elif isinstance(rows, Iterable):
        rows = list(rows)
        if not all(isinstance(row, Mapping) for row in rows):
            raise DataError("each row of the data must be a mapping of column names to values")
        there = list(rows[0]) if rows else wanted
        rows = {name: [row.get(name) for row in rows] for name in there}
    else:
        raise DataError(f"the data must be rows or columns but got {type(rows).__name__}")
    for name in wanted:
        if name not in there:
            raise DataError(f"column {name!r} not found; the columns are {', '.join(there)}")
    columns = {name: _plain(rows[name]) for name in wanted}
    if len({len(values) for values in columns.values()}) != 1:
        raise DataError("all columns of the data must have the same length")
    return columns


def _plain(values: Any) -> list[Any]:
    """Return a list of Python values, also of an array or a tensor."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _texts(values: list[Any], column: str) -> list[str]:
    wrong = [i for i, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        first = values[wrong[0]]
        kind = "null" if first is None or first != first else f"of type {type(first).__name__}"
        raise DataError(
            f"column {column!r} must hold texts but {len(wrong)} of {len(values)} are not: "
            f"row {wrong[0]} is {kind}"
        )
    return values


def _label_names(rows: Any, column: str) -> list[str] | None:
    """The names of a `ClassLabel` column, if it is one."""
    feature = getattr(rows, "features", {}).get(column)
    names = getattr(feature, "names", None)
    return None if names is None else list(names)
