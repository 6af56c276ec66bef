"""Loads and checks everything that a run needs, before anything is written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from headsearch import __version__
from headsearch.heads import HeadMap
from headsearch.model.bundle import ModelBundle, bundle
from headsearch.model.checkpoint import load_model
from headsearch.model.families import head_map, max_tokens
from headsearch.run.config import RunConfig
from headsearch.task.batches import BatchedData, tokenise
from headsearch.task.data import Examples, load_examples
from headsearch.task.metric import Objective, make_objective

# A new number makes old memos unusable: raise it when the evaluator's arithmetic changes.
SCORING = 4


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
    """

    model: nn.Module
    bundle: ModelBundle
    data: BatchedData
    objective: Objective
    shape: HeadMap
    fingerprint: str


def load_task(config: RunConfig) -> Task:
    """Load what a configuration names.

    Raises:
        ModelError, DataError, InputError: something is missing or wrong.
    """
    model, tokenizer = load_model(config.model)
    return make_task(model, tokenizer, load_data(config, model), config)


def load_data(config: RunConfig, model: nn.Module) -> Examples:
    """Load the examples that a configuration names, with the model's own label names."""
    settings: Any = model.config
    return load_examples(
        config.data,
        text_column=config.text_column,
        pair_column=config.pair_column,
        label_column=config.label_column,
        id2label=settings.id2label,
        classes=settings.num_labels,
        subset=config.subset,
        split=config.split,
        max_examples=config.max_examples,
        seed=config.seed,
    )


def make_task(model: nn.Module, tokenizer: Any, examples: Examples, config: RunConfig) -> Task:
    """Tokenise, and put together what a search needs."""
    settings: Any = model.config
    data = tokenise(
        examples,
        tokenizer,
        max_length=config.max_length,
        max_positions=max_tokens(model),
    )
    objective = make_objective(config.metric, data.labels, settings.num_labels)
    parts = bundle(model)
    return Task(
        model=model.eval(),
        bundle=parts,
        data=data,
        objective=objective,
        shape=head_map(model),
        fingerprint=_fingerprint(parts, data, config),
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
