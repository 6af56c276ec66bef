"""Labels: class ids or class names to ids, or numbers for regression."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from headsearch.errors import DataError


def class_ids(
    values: Sequence[Any],
    column: str,
    id2label: Mapping[int, str],
    classes: int,
    feature_names: Sequence[str] | None = None,
    rows: Sequence[int] | None = None,
) -> np.ndarray:
    """Return class ids, (examples,) int64.

    Names that are written as numbers ("1" to "5" for 0 to 4, say) are told from ids by the whole
    column: texts are names if all of them are, numbers are ids unless one of them is none.

    Args:
        values: ids (also as floats or digits) or names of `id2label`.
        column: where they come from, for errors.
        id2label: the model's class names.
        classes: how many classes the model has.
        feature_names: names of the ids in the data; followed where the model knows them all, be it
            in capitals.
        rows: the row of each value, for errors; by default they are rows.

    Raises:
        DataError: a label is null or unknown, or numbers may be either ids or names.
    """
    ids = _ids(id2label)
    named = _named(values, ids)
    if feature_names is None:
        named |= _named_by_numbers(values, column, ids, classes)
    renumber = None if feature_names is None else _renumbered(feature_names, ids)
    found = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        number = named.get(value, _class_id(value)) if isinstance(value, Hashable) else None
        if number is not None and renumber is not None and not isinstance(value, str):
            number = renumber[number] if 0 <= number < len(renumber) else None
        if number is None or not 0 <= number < classes:
            known = ", ".join(
                f"{name} ({i})" for name, i in sorted(ids.items(), key=lambda x: x[1])
            )
            raise DataError(
                f"column {column!r} must hold labels of the model, {known or f'0..{classes - 1}'}, "
                f"but row {row if rows is None else rows[row]} is {_shown(value)}"
            )
        found[row] = number
    return found


def token_ids(
    values: Sequence[Any],
    words: Sequence[int],
    column: str,
    id2label: Mapping[int, str],
    classes: int,
    feature_names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Return the class ids of every word, (words,) int64 for each example; see `class_ids`.

    Args:
        values: for each example, a label for each word.
        words: how many words each example has.
        column, id2label, classes, feature_names: see `class_ids`.

    Raises:
        DataError: an example has another number of labels than words, or one is unknown.
    """
    lists = [_list(value, row, column, "a label for each word") for row, value in enumerate(values)]
    for row, (labels, count) in enumerate(zip(lists, words, strict=True)):
        if len(labels) != count:
            raise DataError(
                f"column {column!r} must hold a label for each word but row {row} has "
                f"{len(labels)} labels for {count} words"
            )
    flat = [label for labels in lists for label in labels]
    rows = [row for row, labels in enumerate(lists) for _ in labels]
    ids = class_ids(flat, column, id2label, classes, feature_names, rows)
    return np.split(ids, np.cumsum([len(labels) for labels in lists])[:-1])


def label_flags(
    values: Sequence[Any],
    column: str,
    id2label: Mapping[int, str],
    classes: int,
    feature_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Return which labels an example has, (examples, classes) int64, 0 or 1.

    Args:
        values: for each example, the names of its labels (none is an empty list), or as many zeros
            and ones as the model has labels.
        column, id2label, classes, feature_names: see `class_ids`.

    Raises:
        DataError: one is neither, or a name is unknown.
    """
    found = np.zeros((len(values), classes), dtype=np.int64)
    rule = f"names of labels, or {classes} zeros and ones"
    ids = _ids(id2label)
    texts_are_flags = {"0", "1"}.isdisjoint(ids)
    # In a column of class labels [1, 0] are the labels 1 and 0, unless each says "no" or "yes".
    are_ids = feature_names is not None and (
        _renumbered(feature_names, ids) is not None or len(feature_names) == classes > 2
    )
    for row, value in enumerate(values):
        labels = _list(value, row, column, rule)
        if len(labels) == classes and texts_are_flags and all(x in ("0", "1") for x in labels):
            found[row] = [int(label) for label in labels]
        elif are_ids or all(isinstance(label, str) for label in labels):
            rows = [row] * len(labels)
            found[row, class_ids(labels, column, id2label, classes, feature_names, rows)] = 1
        elif len(labels) == classes and all(label in (0, 1) for label in labels):
            found[row] = [int(label) for label in labels]
        else:
            raise DataError(
                f"column {column!r} must hold {rule}, as the model gives any number of labels, "
                f"but row {row} is {_shown(labels)}"
            )
    return found


def _list(value: Any, row: int, column: str, rule: str) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise DataError(f"column {column!r} must hold {rule} but row {row} is {_shown(value)}")
    return list(value)


def target_values(values: Sequence[Any], column: str) -> np.ndarray:
    """Return regression targets, (examples,) float64.

    Raises:
        DataError: one is not a finite number.
    """
    found = np.empty(len(values), dtype=np.float64)
    for row, value in enumerate(values):
        try:
            found[row] = float("nan" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            found[row] = np.nan
        if not np.isfinite(found[row]):
            raise DataError(
                f"column {column!r} must hold finite numbers, as the model has 1 output, "
                f"but row {row} is {_shown(value)}"
            )
    return found


def _named(values: Sequence[Any], ids: Mapping[str, int]) -> dict[Any, int]:
    """Return the class ids of texts that are names.

    Of those that are written as numbers too, where all of such texts are names.
    """
    texts = {value for value in values if isinstance(value, str)}
    numbers = {text for text in texts if _class_id(text) is not None}
    if not numbers <= ids.keys():
        texts -= numbers
    return {text: ids[text] for text in texts if text in ids}


def _ids(id2label: Mapping[int, str]) -> dict[str, int]:
    """Return the class id of each of the model's names."""
    return {str(name): int(i) for i, name in id2label.items()}


def _renumbered(feature_names: Sequence[str], ids: Mapping[str, int]) -> list[int] | None:
    """Return the model's class of each id in the data; None if the names are not the model's."""
    for known, names in (
        (ids, list(feature_names)),
        (_folded(ids), [name.casefold() for name in feature_names]),
    ):
        if len(set(names)) == len(names) and all(name in known for name in names):
            return [known[name] for name in names]
    return None


def _folded(ids: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of names whatever their capitals; none where these tell two apart."""
    folded = {name.casefold(): i for name, i in ids.items()}
    return folded if len(folded) == len(ids) else {}


def _named_by_numbers(
    values: Sequence[Any], column: str, ids: Mapping[str, int], classes: int
) -> dict[Any, int]:
    """Return the class ids of numbers that are names: a CSV file does not tell the two apart."""
    flags = {value for value in values if isinstance(value, bool)}
    if flags and {"true", "false"} <= (folded := _folded(ids)).keys():
        return {flag: folded[str(flag).casefold()] for flag in flags}
    numbers = {
        value: number
        for value in values
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if (number := _class_id(value)) is not None
    }
    # "01" is read as 1, too.
    names = {number: i for name, i in ids.items() if (number := _class_id(name)) is not None}
    if not numbers or not set(numbers.values()) <= names.keys():
        return {}
    found = {value: names[number] for value, number in numbers.items()}
    if all(0 <= number < classes for number in numbers.values()):
        for value, number in numbers.items():
            if found[value] != number:
                raise DataError(
                    f"column {column!r} must tell names from ids but {number} may be the class of "
                    f"that name, with id {found[value]}, or of that id; have texts be read as "
                    "names: from a JSON-lines or Parquet file"
                )
    return found


def _class_id(value: Any) -> int | None:
    if isinstance(value, str):
        # No class id has 19 digits, and int() refuses thousands of them.
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None
    if isinstance(value, (int, np.integer)):
        # True and False are 1 and 0 in every file format that has them.
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)
    return None


def _shown(value: Any) -> str:
    """Return a value as an error shows it: short, even if it is a whole text."""
    null = value is None or (isinstance(value, float) and value != value)
    return "null" if null else reprlib.repr(value)
