"""Loads and checks everything that a run needs, before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from headsearch import __version__
from headsearch.errors import DataError, InputError, ModelError
from headsearch.heads import HeadMap
from headsearch.model.bundle import ModelBundle, bundle
from headsearch.model.checkpoint import load_model
from headsearch.model.families import (
    end_token,
    head_map,
    image_channels,
    kind_of,
    max_tokens,
    reads_images,
    vocabulary,
)
from headsearch.run.config import PARTS, RunConfig
from headsearch.task.batches import BatchedData, tokenise
from headsearch.task.data import Examples, load_examples
from headsearch.task.holdout import hold_out, repeats, shared
from headsearch.task.images import batch_images
from headsearch.task.metric import Objective, make_objective
from headsearch.task.readout import EXAMPLES, LABELS, SEQUENCES, TOKENS
from headsearch.task.sources import lacks

# A new number makes old memos unusable: raise it when the evaluator's arithmetic changes.
SCORING = 6
# So many characters of a text that is refused are shown.
SHOWN = 60


@dataclass(frozen=True)
class Task:
    """A model and labelled data, checked and ready to be searched.

    Attributes:
        model: the unpruned model, on the CPU, in eval mode.
        bundle: the same, as it travels to workers.
        data: tokenised batches.
        objective: metric and loss over them.
        shape: the model's heads.
        fingerprint: of weights, data, tokenisation, metric inputs, dtype and library versions.
        certify: the certify split, which the search never sees; None if none was asked for.
        certify_repeats: how many of its examples have the texts of another one before them.
    """

    model: nn.Module
    bundle: ModelBundle
    data: BatchedData
    objective: Objective
    shape: HeadMap
    fingerprint: str
    certify: BatchedData | None = None
    certify_repeats: int = 0

    @property
    def gradients(self) -> bool:
        """Whether a search measures any: of tokens it takes as many backward passes as words."""
        return self.data.kind != TOKENS


def check_parts(config: RunConfig, given: Container[str] = PARTS) -> None:
    """Refuse a subset or split of data that have none, where it would be passed over.

    Args:
        config: what is asked.
        given: which options were given now, and not by an earlier run.

    Raises:
        InputError: one of them is of no data.
    """
    read_by = {
        "subset": (config.data, config.certify_data),
        "split": (config.data, config.certify_data if config.certify_split is None else None),
        "certify_split": (config.certify_data,),
    }
    for name, sources in read_by.items():
        if name not in given or getattr(config, name) is None:
            continue
        part, data = name.removeprefix("certify_"), [each for each in sources if each is not None]
        reasons = [lacks(each, part) for each in data]
        if all(reasons):
            raise InputError(f"`{name}` must not be given as {data[0]} {reasons[0]}")


def load_task(config: RunConfig) -> Task:
    """Load what a configuration names.

    Raises:
        ModelError, DataError, InputError: something is missing or wrong.
    """
    model, tokenizer = load_model(config.model)
    examples, certify = load_data(config, model), None
    if config.certify_data is not None:
        split = config.certify_split or config.split
        held = dataclasses.replace(config, data=config.certify_data, split=split, max_examples=None)
        with about_certify_data():
            certify = load_data(held, model)
    return make_task(model, tokenizer, examples, config, certify)


def load_data(config: RunConfig, model: nn.Module) -> Examples:
    """Load the examples that a configuration names, with the model's own label names."""
    settings: Any = model.config
    return load_examples(
        config.data,
        text_column=config.text_column,
        pair_column=config.pair_column,
        label_column=config.label_column,
        image_column=config.image_column if reads_images(model) else None,
        id2label=settings.id2label,
        classes=settings.num_labels,
        subset=config.subset,
        split=config.split,
        max_examples=config.max_examples,
        seed=config.seed,
        kind=kind_of(model),
        map_by=config.map,
    )


@contextmanager
def about_certify_data() -> Iterator[None]:
    """Have an error say which of the two data it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"certify data: {error}") from None


def make_task(
    model: nn.Module,
    tokenizer: Any,
    examples: Examples,
    config: RunConfig,
    certify: Examples | None = None,
) -> Task:
    """Cut off the certify split if that is asked, tokenise, and put together what a search needs.

    Args:
        model, tokenizer: what is searched; of a model that reads images, its image processor.
        examples: the labelled data.
        config: what is asked.
        certify: a certify split of its own.

    Raises:
        DataError: an example of the certify split is in the search split too.
        InputError: a certificate is asked for where what is scored is no draw by itself.
        ModelError: nothing that the model has on top can be scored.
    """
    kind = kind_of(model, getattr(tokenizer, "pad_token_id", None))
    if config.certifies and kind != EXAMPLES:
        raise InputError(
            f"a certificate needs independent draws but {kind} of one text are not: no "
            "`certify_data` and no `certify_fraction` may be given"
        )
    if config.certify_fraction is not None:
        examples, certify = hold_out(examples, config.certify_fraction, config.seed)
    elif certify is not None and (both := shared(examples, certify)):
        raise DataError(
            f"certify data must be new to the search but {both} of their {len(certify.texts)} "
            "examples are in the search data too"
        )

    def tokenised(part: Examples) -> BatchedData:
        if reads_images(model):
            return batch_images(part, tokenizer, image_channels(model))
        batched = tokenise(
            part, tokenizer, max_length=config.max_length, max_positions=max_tokens(model)
        )
        _check_vocabulary(batched, tokenizer, vocabulary(model))
        _check_ends(batched, part, tokenizer, model)
        return batched

    data = tokenised(examples)
    with about_certify_data():
        held = None if certify is None else tokenised(certify)
    objective = make_objective(config.metric, data.labels, classes_of(model, kind), kind)
    parts = bundle(model)
    return Task(
        model=model.eval(),
        bundle=parts,
        data=data,
        objective=objective,
        shape=head_map(model),
        fingerprint=_fingerprint(parts, data, config),
        certify=held,
        certify_repeats=0 if certify is None else repeats(certify),
    )


def classes_of(model: nn.Module, kind: str) -> int:
    """Return how many classes a scored row has; see `make_objective`."""
    settings: Any = model.config
    return {LABELS: 2, SEQUENCES: 1}.get(kind, int(settings.num_labels))


def _check_vocabulary(data: BatchedData, tokenizer: Any, known: int | None) -> None:
    """Check that the model has an embedding of every token."""
    largest = max(int(batch.arrays["input_ids"].max()) for batch in data.batches)
    if known is not None and largest >= known:
        raise ModelError(
            f"the tokenizer's ids must be below {known}, the model's vocabulary, but "
            f"{tokenizer.convert_ids_to_tokens(largest)!r} is {largest}: it is not the model's "
            "own, or tokens were added to it (see `resize_token_embeddings`)"
        )


def _check_ends(data: BatchedData, examples: Examples, tokenizer: Any, model: nn.Module) -> None:
    """Check that texts hold no end token of their own where a model classifies by it."""
    end = end_token(model)
    if end is None:
        return
    batches = [batch.arrays for batch in data.batches]
    found = [((b["input_ids"] == end) & (b["attention_mask"] == 1)).sum(axis=1) for b in batches]
    counts = np.empty(data.examples, np.int64)
    counts[data.order] = np.concatenate(found)
    usual = int(np.bincount(counts).argmax())
    wrong = np.flatnonzero(counts != usual)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"texts must all have as many end tokens, {tokenizer.convert_ids_to_tokens(end)!r}, as "
            f"{type(model).__name__} classifies by the last one, but row {row} has {counts[row]} "
            f"and most have {usual}: {examples.texts[row][:SHOWN]!r}"
        )


def _fingerprint(parts: ModelBundle, data: BatchedData, config: RunConfig) -> str:
    content = {
        "model": parts.fingerprint(),
        "data": data.fingerprint(),
        "dtype": config.dtype,
        "headsearch": [__version__, SCORING],
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
