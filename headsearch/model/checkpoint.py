"""Loads models from folders or hub names, and saves and loads narrow ones. Never unpickles."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from headsearch.errors import ModelError, StorageError
from headsearch.heads import HeadMap
from headsearch.model.families import head_map, kind_of
from headsearch.model.narrow import RECORD, narrow_in_place

WEIGHTS = "model.safetensors"
# What loads a model, by the end of the name of its class; all others are sequence classifiers.
AUTO = {
    ("ForTokenClassification",): AutoModelForTokenClassification,
    ("ForCausalLM", "LMHeadModel"): AutoModelForCausalLM,
    ("ForImageClassification",): AutoModelForImageClassification,
}


def load_model(name: str) -> tuple[nn.Module, Any]:
    """Load a model with something on top, in float32 and eval mode, and its tokenizer.

    Args:
        name: a local `save_pretrained` folder (narrow ones too) or a hub name. Only safetensors
            weights are read and no code that comes with the model is run.

    Raises:
        ModelError: it can't be loaded, has no trained head on top, or no known family.
    """
    folder = Path(name)
    if not folder.is_dir() and (folder.exists() or name.startswith((".", "/", "~"))):
        raise ModelError(f"model folder not found: {name}")
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(name)
            if folder.is_dir() and hasattr(config, RECORD):
                model = load_pruned(folder)
            else:
                model = _load_stock(name, _auto(config))
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, SafetensorError, ImportError) as error:
            raise ModelError(f"could not load the model {name!r}: {first_line(error)}") from None
    kind_of(model)
    return model.eval(), tokenizer


def _auto(config: Any) -> Any:
    """Return the class that loads a model of a hub or folder, by what its config says is on top."""
    name = (getattr(config, "architectures", None) or [""])[0]
    for endings, kind in AUTO.items():
        if name.endswith(endings):
            return kind
    return AutoModelForSequenceClassification


def _load_stock(name: str, kind: Any) -> nn.Module:
    model: nn.Module
    model, report = kind.from_pretrained(
        name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name!r} has no trained classification head: its weights lack {', '.join(missing)}; "
            "fine-tune it first"
        )
    return model


def save_pruned(model: nn.Module, folder: str | Path, tokenizer: Any = None) -> None:
    """Write a narrow model, whole or not at all; `load_pruned` reads it back.

    Args:
        model: what `headsearch.prune` returned, or any model of a known family.
        folder: must not exist yet.
        tokenizer: saved along if given.

    Raises:
        ModelError: the folder exists.
        StorageError: it could not be written.
    """
    target = Path(folder)
    if target.exists():
        raise ModelError(f"the folder to save to must not exist yet: {target}")
    whole: Any = model
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise StorageError(f"could not write {target}: {first_line(error)}") from None
    try:
        with quiet_transformers():
            # By the names that the model's own modules have, which `load_pruned` needs.
            whole.save_pretrained(staged, save_original_format=False)
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
        staged.chmod(0o755)  # mkdtemp keeps everybody else out
        staged.rename(target)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"could not write {target}: {first_line(error)}") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load_pruned(folder: str | Path) -> nn.Module:
    """Load a narrow model that `save_pruned` wrote, in eval mode.

    Raises:
        ModelError: the folder holds no such model, or its config and weights disagree.
    """
    place = Path(folder)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(place)
            record = getattr(config, RECORD, None)
            if record is None:
                return _load_stock(str(place), _class_of(config)).eval()
            tensors = safetensors.torch.load_file(place / WEIGHTS)
            return build(config, record, tensors).eval()
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"could not load the narrow model {str(place)!r}: {first_line(error)}"
            ) from None


def build(config: Any, record: Any, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Make the narrow model that a config, its record of removed heads and weights describe."""
    if hasattr(config, RECORD):
        delattr(config, RECORD)  # the model is built whole and narrowed, which writes it again
    model: nn.Module = _class_of(config)(config)
    shape, removed = HeadMap.from_mask(record)
    if shape != head_map(model):
        raise ModelError(
            f"the config's record is of heads {list(shape.heads_per_layer)} but the model has "
            f"{list(head_map(model).heads_per_layer)}"
        )
    narrow_in_place(model, removed)
    load_weights(model, tensors)
    return model


def _class_of(config: Any) -> Any:
    """Return the class of transformers that a model was saved from, by its config."""
    name = (config.architectures or [None])[0]
    kind = getattr(transformers, name or "", None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise ModelError(f"a model's class must be one of transformers' own but got {name}")
    return kind


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put weights into a model, sharing their memory; all must be there, and fit."""
    whole: Any = model
    result = model.load_state_dict(tensors, strict=False, assign=True)
    tied = set(whole.all_tied_weights_keys)  # a file holds shared weights once
    missing = set(result.missing_keys)
    if missing - tied or result.unexpected_keys:
        wrong = ", ".join(sorted((missing - tied) | set(result.unexpected_keys)))
        raise ModelError(f"weights and model disagree on {wrong}")
    if missing:
        whole.tie_weights()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and notes off the console while it loads or saves."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return an error's first line of text."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
