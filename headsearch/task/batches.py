"""Tokenised examples in batches; shards are runs of whole batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headsearch.errors import DataError, InputError
from headsearch.task.data import Examples
from headsearch.task.readout import EXAMPLES, LABELS, SEQUENCES, TOKENS, WHOLE, Readout

# Tokenizers that have no limit say so with a very large number.
UNLIMITED = 1_000_000
# Most examples and padded tokens of a batch.
BATCH_EXAMPLES, BATCH_TOKENS = 64, 4096
# Of language models' batches, whose outputs are as wide as a vocabulary, tokens are fewer by this.
VOCABULARY_SHARE = 4
# Batches are decided on in so many rounds, see `task.shards`.
ROUNDS = 4
# A broken tokenizer knows almost nothing; real text in the wrong script still stays below this.
MOST_UNKNOWN = 0.2


@dataclass(frozen=True)
class Span:
    """A run of whole batches, [first, stop)."""

    first: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Examples padded to the longest of them.

    Attributes:
        arrays: what the model's forward takes, by name: `input_ids`, `attention_mask` and, for
            some models, `token_type_ids`, each (examples, tokens) int64; or `pixel_values`,
            (examples, channels, height, width) float32.
        readout: what of the model's outputs is scored.
    """

    arrays: Mapping[str, np.ndarray]
    readout: Readout = WHOLE

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(next(iter(self.arrays.values())))

    @property
    def rows(self) -> int:
        """How many rows are scored."""
        return self.readout.rows(self.examples)

    def part(self, start: int, stop: int) -> Batch:
        """Return the batch of some of the examples, [start, stop)."""
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return Batch(arrays, self.readout.part(start, stop))

    @property
    def tokens(self) -> int:
        """How many tokens each example is padded to; an image counts as one."""
        ids = self.arrays.get("input_ids")
        return 1 if ids is None else int(ids.shape[1])

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens each example has; all padding comes after them. (examples,) int64."""
        mask = self.arrays.get("attention_mask")
        if mask is None:
            return np.full(self.examples, self.tokens, dtype=np.int64)
        return np.asarray(mask.sum(axis=1))


@dataclass(frozen=True)
class BatchedData:
    """All batches of a task, in the one order that every sum is taken in.

    Attributes:
        batches: shortest examples first within each round; every round has all lengths.
        labels: (rows,) in batch order, of whatever is scored: see `Readout`.
        order: (examples,) the source position of every example; of `TOKENS` without those of which
            no word has a token.
    """

    batches: tuple[Batch, ...]
    labels: np.ndarray
    order: np.ndarray

    @property
    def examples(self) -> int:
        """How many examples there are in all."""
        return len(self.order)

    @property
    def kind(self) -> str:
        """What is scored one by one, see `Readout`."""
        return self.batches[0].readout.kind

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens the example of each row has, (rows,) int64."""
        return np.concatenate(
            [
                batch.lengths[batch.readout.examples_of_rows(batch.examples)]
                for batch in self.batches
            ]
        )

    @property
    def sources(self) -> np.ndarray:
        """The source position of the example of each row, (rows,) int64."""
        firsts = np.cumsum([0, *(batch.examples for batch in self.batches)])
        places = [
            first + batch.readout.examples_of_rows(batch.examples)
            for first, batch in zip(firsts[:-1], self.batches, strict=True)
        ]
        return np.asarray(self.order[np.concatenate(places)])

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row of each batch, and the number of rows at the end, (batches + 1,) int64."""
        sizes = [0, *(batch.rows for batch in self.batches)]
        return np.cumsum(np.array(sizes, dtype=np.int64))

    def rows(self, span: Span) -> slice:
        """Return the rows that a span of batches holds."""
        return slice(int(self.offsets[span.first]), int(self.offsets[span.stop]))

    @property
    def padding_waste(self) -> float:
        """Share of positions that are padding."""
        real = sum(int(batch.lengths.sum()) for batch in self.batches)
        return 1.0 - real / sum(batch.examples * batch.tokens for batch in self.batches)

    def fingerprint(self) -> str:
        """Return SHA-256 (hex) over all arrays, labels and the order."""
        digest = hashlib.sha256()
        named = [
            (f"{i} {name}", batch.arrays[name])
            for i, batch in enumerate(self.batches)
            for name in sorted(batch.arrays)
        ]
        if self.kind != EXAMPLES:
            digest.update(f"{self.kind}\n".encode())
        named += [
            (f"{i} places", batch.readout.places)
            for i, batch in enumerate(self.batches)
            if batch.readout.places is not None
        ]
        for name, array in [*named, ("labels", self.labels), ("order", self.order)]:
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def tokenise(
    examples: Examples,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    max_positions: int | None = None,
    batch_examples: int = BATCH_EXAMPLES,
    batch_tokens: int = BATCH_TOKENS,
) -> BatchedData:
    """Tokenise once, sort by length and batch.

    Args:
        examples: texts and labels.
        tokenizer: a transformers tokenizer.
        max_length: longest input in tokens; default: what tokenizer and model allow.
        max_positions: longest input that the model takes.
        batch_examples, batch_tokens: most examples and padded tokens of one batch.

    Raises:
        InputError: `max_length` is out of range, or the tokenizer can't pad.
        DataError: the tokenizer knows hardly any of the words.
    """
    limits = [n for n in (tokenizer.model_max_length, max_positions) if n and n < UNLIMITED]
    if max_length is not None:
        if max_length < 3:
            raise InputError(f"`max_length` must be at least 3 but got {max_length}")
        if max_positions is not None and max_length > max_positions:
            raise InputError(
                f"`max_length` must be at most {max_positions}, the model's positions, "
                f"but got {max_length}"
            )
        limits = [max_length]
    pad = tokenizer.pad_token_id
    if pad is None and examples.kind == SEQUENCES:
        pad = tokenizer.eos_token_id or 0  # any will do: it comes last, and nothing looks ahead
    if pad is None:
        raise InputError("the tokenizer must have a padding token but has none")
    texts = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    kind = examples.kind
    if kind == TOKENS and not tokenizer.is_fast:
        raise InputError("the tokenizer must be a fast one to tell the tokens of words apart")
    encoded = tokenizer(
        *texts,
        is_split_into_words=kind == TOKENS,
        truncation=bool(limits),
        max_length=min(limits, default=None),
        padding=False,
        return_attention_mask=True,
    )
    rows = encoded["input_ids"]
    _check_known(rows, tokenizer)
    lengths = np.array([len(row) for row in rows])
    if kind != SEQUENCES and not lengths.all():
        raise DataError(
            f"texts must have a token at least but {(lengths == 0).sum()} of {len(lengths)} have "
            f"none: example {int(np.argmin(lengths))} is the first"
        )
    order = np.argsort(lengths, kind="stable")
    if kind == TOKENS:
        order = _with_words(encoded, order)
    pads = {"attention_mask": 0, "input_ids": pad}
    if "token_type_ids" in encoded:
        pads["token_type_ids"] = 0
    if kind == SEQUENCES:
        batch_tokens //= VOCABULARY_SHARE
        _check_long(lengths)
    cuts = _cuts(lengths[order], batch_examples, batch_tokens)
    groups = [order[start:stop] for start, stop in cuts]
    # Every round is a fair sample of all lengths.
    groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: (round_of(i), i))]
    batches = []
    for picked in groups:
        arrays = {
            name: _padded([encoded[name][source] for source in picked], pad)
            for name, pad in sorted(pads.items())
        }
        batches.append(Batch(arrays, readout_of(examples, encoded, picked)))
    order = np.concatenate(groups)
    return BatchedData(tuple(batches), labels_of(examples, encoded, order), order)


def readout_of(examples: Examples, encoded: Any, picked: np.ndarray) -> Readout:
    """Return what of some examples' outputs is scored."""
    if examples.kind == TOKENS:
        places = [
            (place, token)
            for place, source in enumerate(picked)
            for token in _first_tokens(encoded, source).values()
        ]
        return Readout(TOKENS, np.array(places, np.int64).reshape(-1, 2))
    if examples.kind == LABELS:
        return Readout(LABELS, labels=len(examples.labels[0]))
    return Readout(examples.kind)


def labels_of(examples: Examples, encoded: Any, order: np.ndarray) -> np.ndarray:
    """Return the labels of all rows that are scored, (rows,)."""
    if examples.kind == EXAMPLES:
        return np.asarray(np.asarray(examples.labels)[order])
    if examples.kind == LABELS:
        return np.asarray(np.asarray(examples.labels)[order].ravel())
    if examples.kind == SEQUENCES:  # a token is foretold from those before it
        return np.array([len(encoded["input_ids"][source]) - 1 for source in order])
    kept = [examples.labels[source][[*_first_tokens(encoded, source)]] for source in order]
    labels = np.concatenate(kept)
    if len(np.unique(labels)) == 1:
        raise DataError(
            f"the words' labels must not all be the same but all {len(labels)} that are left of "
            f"cut texts are {labels[0]}"
        )
    return labels


def _with_words(encoded: Any, examples: np.ndarray) -> np.ndarray:
    """Return those of some examples in which a word is scored, in the same order.

    There may be batches and rounds of nothing but others, and nothing comes of these.
    """
    kept = [source for source in examples if _first_tokens(encoded, source)]
    if not kept:
        raise DataError("the data must have words to score but none of its words has a token")
    return np.array(kept, np.int64)


def _first_tokens(encoded: Any, source: int) -> dict[int, int]:
    """Return where the words of an example begin, by their numbers, ascending.

    Without those that were cut off, and those of which a tokenizer leaves nothing: of some
    characters it makes no token.
    """
    places: dict[int, int] = {}
    for token, word in enumerate(encoded.word_ids(int(source))):
        if word is not None:
            places.setdefault(word, token)
    return places


def _check_long(lengths: np.ndarray) -> None:
    """Check that there is something to foretell in every text."""
    short = np.flatnonzero(lengths < 2)
    if len(short):
        raise DataError(
            f"texts must have two tokens or more for a language model but {len(short)} of "
            f"{len(lengths)} have less: row {short[0]} is the first"
        )


def gather(
    batches: Sequence[Batch], examples: np.ndarray, packed: tuple[int, int] | None = None
) -> Iterator[Batch]:
    """Yield batches of any examples, in the given order.

    Args:
        batches: where they are.
        examples: (examples,) places in the order of the batches.
        packed: most examples and tokens of one batch, where padding does not count; else they are
            as small as the batches, and padding counts.
    """
    ends = np.cumsum([batch.examples for batch in batches])
    numbers = np.searchsorted(ends, examples, side="right")
    rows = examples - np.concatenate([[0], ends])[numbers]
    arrays = [batches[n].arrays for n in numbers]
    lengths = np.array([a["attention_mask"][i].sum() for a, i in zip(arrays, rows, strict=True)])
    if packed is None:
        cuts = _cuts(lengths, BATCH_EXAMPLES, BATCH_TOKENS)
    else:
        cuts = _packed_cuts(lengths, *packed)
    for start, stop in cuts:
        places = range(start, stop)
        yield Batch(
            {
                name: _padded([arrays[i][name][rows[i], : lengths[i]] for i in places], 0)
                for name in arrays[0]
            }
        )


def round_of(number: int) -> int:
    """Return the round of the batch that comes at a place in the order of lengths.

    It is the number of trailing ones in binary, up to the last round: of any run of batches, every
    second is in round 0, every fourth in round 1, and so on.
    """
    ones = 0
    while number & 1 and ones < ROUNDS - 1:
        number, ones = number >> 1, ones + 1
    return ones


def _padded(rows: Sequence[Sequence[int] | np.ndarray], pad: int) -> np.ndarray:
    """Return rows padded at their ends to the longest of them, (rows, tokens) int64."""
    array = np.full((len(rows), max(len(row) for row in rows)), pad, dtype=np.int64)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def _cuts(lengths: np.ndarray, most_examples: int, most_tokens: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into batches, each [start, stop)."""
    cuts, start = [], 0
    for i, length in enumerate(lengths):
        count = i - start + 1
        if count > 1 and (count > most_examples or count * length > most_tokens):
            cuts.append((start, i))
            start = i
    return [*cuts, (start, len(lengths))]


def _packed_cuts(
    lengths: np.ndarray, most_examples: int, most_tokens: int
) -> list[tuple[int, int]]:
    """The same for lengths in any order, with tokens counted without padding."""
    cuts, start, tokens = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and (i - start == most_examples or tokens + length > most_tokens):
            cuts.append((start, i))
            start, tokens = i, 0
        tokens += int(length)
    return [*cuts, (start, len(lengths))]


def _check_known(rows: list[list[int]], tokenizer: Any) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    special = set(tokenizer.all_special_ids) - {unknown}
    flat = np.array([token for row in rows for token in row])
    words = flat[~np.isin(flat, list(special))]
    share = float((words == unknown).mean()) if len(words) else 0.0
    if share > MOST_UNKNOWN:
        raise DataError(
            f"{share:.0%} of the tokens are unknown to the tokenizer; at most "
            f"{MOST_UNKNOWN:.0%} may be: it is not the model's own, or not for this language"
        )
