"""Labelled examples: rows of any source, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headsearch.errors import DataError, InputError
from headsearch.task.labels import class_ids, label_flags, target_values, token_ids
from headsearch.task.mapping import mapped
from headsearch.task.readout import EXAMPLES, LABELS, SEQUENCES, TOKENS
from headsearch.task.sources import open_source


@dataclass(frozen=True)
class Examples:
    """Texts and labels, in the order of their source.

    Attributes:
        texts: the texts; of `TOKENS` each a list of words; or images (height, width, 3) uint8.
        pairs: the second texts of pairs, or None.
        labels: (examples,) int64 class ids, or float64 values for regression; of `LABELS`
            (examples, labels) 0 and 1; of `TOKENS` (words,) class ids for each example; of
            `SEQUENCES`, whose labels are their own tokens, (examples,) 0.
        kind: what is scored one by one, see `task.readout`.
    """

    texts: list[Any]
    pairs: list[str] | None
    labels: np.ndarray | list[np.ndarray]
    kind: str = EXAMPLES

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Return some of the examples, in the given order."""
        labels = self.labels
        return Examples(
            [self.texts[row] for row in rows],
            None if self.pairs is None else [self.pairs[row] for row in rows],
            labels[rows] if isinstance(labels, np.ndarray) else [labels[row] for row in rows],
            self.kind,
        )

    def identities(self) -> list[tuple[Any, str]]:
        """Return what tells an example from others: its texts."""
        second = self.pairs or [""] * len(self.texts)
        return list(zip(map(_identity, self.texts), second, strict=True))

    @property
    def distinct_labels(self) -> int:
        """How many labels there are among them; of `SEQUENCES` any number."""
        if self.kind == SEQUENCES:
            return len(self.texts) + 1
        labels = self.labels if isinstance(self.labels, np.ndarray) else np.concatenate(self.labels)
        return len(np.unique(labels))


def _identity(text: Any) -> Any:
    if isinstance(text, np.ndarray):
        return text.shape, text.tobytes()
    return text if isinstance(text, str) else tuple(text)


def load_examples(
    source: str,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    image_column: str | None = None,
    id2label: Mapping[int, str] | None,
    classes: int,
    subset: str | None = None,
    split: str | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    kind: str = EXAMPLES,
    map_by: str | None = None,
) -> Examples:
    """Load labelled examples.

    Args:
        source: a CSV, JSON-lines or Parquet file; a `save_to_disk` folder; or a hub data set name.
        text_column, pair_column, label_column: where texts and labels are.
        image_column: where images are, which then take the texts' place.
        id2label: the model's class names.
        classes: the model's number of classes; 1 means regression.
        subset, split: of a hub data set; the split of a folder that holds several.
        max_examples: take a seeded random part of that size, in source order.
        seed: of that part.
        kind: what is scored one by one, see `task.readout`.
        map_by: FILE.py:FUNCTION that rows go through first, see `task.mapping`.

    Raises:
        DataError: the data are missing or break a rule; the text names it.
        InputError: there is no function by the name of `map_by`.
    """
    with tempfile.TemporaryDirectory(prefix="headsearch-") as cache:
        table = open_source(source, subset, split, cache)
        if map_by is not None:
            table = mapped(table, map_by)
        return examples_from_rows(
            table,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column,
            image_column=image_column,
            id2label=id2label,
            classes=classes,
            max_examples=max_examples,
            seed=seed,
            kind=kind,
        )


def examples_from_rows(
    rows: Any,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    image_column: str | None = None,
    id2label: Mapping[int, str] | None,
    classes: int,
    max_examples: int | None = None,
    seed: int = 0,
    kind: str = EXAMPLES,
) -> Examples:
    """Check rows and take texts and labels from them; see `load_examples`.

    Args:
        rows: a `datasets.Dataset`, a mapping of columns, or a sequence of dict rows.
    """
    if pair_column is not None and kind in (TOKENS, SEQUENCES):
        raise InputError(f"`pair_column` must not be given where {kind} are scored")
    labelled = None if kind == SEQUENCES else label_column
    inputs = text_column if image_column is None else image_column
    columns = _columns(rows, [inputs, pair_column, labelled])
    if len(columns[inputs]) == 0:
        raise DataError("the data must have at least one example but are empty")
    texts = _inputs(columns[inputs], inputs, kind, image_column is not None)
    pairs = None if pair_column is None else _texts(columns[pair_column], pair_column)
    labels: np.ndarray | list[np.ndarray] = np.zeros(len(texts), np.int64)
    if labelled is not None:
        raw, names = columns[labelled], _label_names(rows, labelled)
        if kind == LABELS:
            labels = label_flags(raw, labelled, id2label or {}, classes, names)
        elif kind == TOKENS:
            words = [len(text) for text in texts]
            labels = token_ids(raw, words, labelled, id2label or {}, classes, names)
        elif classes == 1:
            labels = target_values(raw, labelled)
        else:
            labels = class_ids(raw, labelled, id2label or {}, classes, names)
    examples = Examples(texts, pairs, labels, kind)
    if max_examples is not None:
        if max_examples < 1:
            raise InputError(f"`max_examples` must be at least 1 but got {max_examples}")
        if max_examples < len(texts):
            random = np.random.default_rng(seed)
            examples = examples.take(
                np.sort(random.choice(len(texts), max_examples, replace=False))
            )
    if examples.distinct_labels == 1:
        first = np.ravel(examples.labels[0])[0]
        name = (id2label or {}).get(int(first)) if classes > 1 and kind != LABELS else None
        which = f"{first}" if name is None else f"{name} ({first})"
        raise DataError(
            f"the labels in column {label_column!r} must not all be the same but all "
            f"{len(examples)} are {which}: no metric means anything on them"
        )
    return examples


def _columns(rows: Any, names: Sequence[str | None]) -> dict[str, list[Any]]:
    """Return the named columns of any kind of rows."""
    wanted = [name for name in names if name is not None]
    if hasattr(
        rows, "with_format"
    ):  # a data set that gives tensors holds plain values all the same
        custom = (getattr(rows, "format", None) or {}).get("type") == "custom"
        rows = list(rows) if custom else rows.with_format(None)  # `with_transform` makes others
    if isinstance(rows, Mapping):
        there = list(rows)
    elif getattr(rows, "column_names", None) is not None:
        there = list(rows.column_names)
    elif isinstance(rows, Iterable) or _is_sequence(rows):
        rows = list(rows) if isinstance(rows, Iterable) else [rows[i] for i in range(len(rows))]
        if not all(isinstance(row, Mapping) for row in rows):
            raise DataError("each row of the data must be a mapping of column names to values")
        there = list(rows[0]) if rows else wanted
        rows = {name: [row.get(name) for row in rows] for name in there}
    else:
        raise DataError(f"the data must be rows or columns but got {type(rows).__name__}")
    for name in wanted:
        if name not in there:
            raise DataError(f"column {name!r} not found; the columns are {', '.join(there)}")
    columns = {name: _values(rows, name) for name in wanted}
    if len({len(values) for values in columns.values()}) != 1:
        raise DataError("all columns of the data must have the same length")
    return columns


def _values(rows: Any, name: str) -> list[Any]:
    """Return the values of a column; `datasets` decodes images only now."""
    try:
        return _plain(rows[name])
    except Exception as error:  # Pillow has many
        if not hasattr(rows, "select_columns"):
            raise
        alone = rows.select_columns([name])
        for row in range(len(alone)):
            try:
                alone[row]
            except Exception as wrong:
                raise DataError(
                    f"column {name!r} must hold what can be decoded but row {row} can't be: {wrong}"
                ) from None
        raise DataError(f"column {name!r} can't be read: {error}") from None


def _is_sequence(rows: Any) -> bool:
    """Whether there is a length, and an item at every place: as of torch's own data sets."""
    return hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and not isinstance(rows, str)


def _plain(values: Any) -> list[Any]:
    """Return a list of Python values, also of an array or a tensor, or of those without axes."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return [v.item() if getattr(v, "shape", None) == () else v for v in values]


def _texts(values: list[Any], column: str) -> list[str]:
    wrong = [i for i, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        first = values[wrong[0]]
        kind = "null" if first is None or first != first else f"of type {type(first).__name__}"
        raise DataError(
            f"column {column!r} must hold texts but {len(wrong)} of {len(values)} are not: "
            f"row {wrong[0]} is {kind}"
        )
    _check_characters(values, column)
    return values


def _check_characters(values: Sequence[str | Sequence[str]], column: str) -> None:
    """Check that there are no halves of characters, which no tokenizer takes."""
    for row, value in enumerate(values):
        try:
            (value if isinstance(value, str) else "".join(value)).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise DataError(
                f"column {column!r} must hold valid Unicode but row {row} has {half}, half of a "
                "character"
            ) from None


def _inputs(values: list[Any], column: str, kind: str, images: bool) -> list[Any]:
    """Check what the model is to read."""
    if images:
        from headsearch.task.images import images_of  # builds on this module

        return list(images_of(values, column))
    return _words(values, column) if kind == TOKENS else _texts(values, column)


def _words(values: list[Any], column: str) -> list[list[str]]:
    for row, value in enumerate(values):
        words = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(
                f"column {column!r} must hold lists of words, as the model labels tokens, but row "
                f"{row} is of type {type(value).__name__}; name it by `text_column`"
            )
        if not words:
            raise DataError(f"column {column!r} must hold words but row {row} has none")
    _check_characters(values, column)
    return [list(value) for value in values]


def _label_names(rows: Any, column: str) -> list[str] | None:
    """The names of a `ClassLabel` column, or of one of lists of them, if it is one."""
    feature = (getattr(rows, "features", None) or {}).get(column)
    feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    return None if names is None else list(names)
