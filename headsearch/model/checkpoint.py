"""Loads models from folders or hub names, and saves and loads narrow ones. Never unpickles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from headsearch.errors import InputError, ModelError
from headsearch.heads import HeadMap
from headsearch.model.blank import blank
from headsearch.model.families import kind_of, reads_images
from headsearch.model.narrow import RECORD, narrow_in_place
from headsearch.model.portable import SIZES
from headsearch.model.sizes import Sizes, check_shape, sizes_of
from headsearch.model.staging import first_line, staged
from headsearch.model.standalone import loader_source
from headsearch.model.stock import auto_class, stock_class

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
CODE = "modeling_headsearch.py"  # what transformers runs of a folder, if told to trust it
WITH_TEACHER = "ForImageClassificationWithTeacher"
# What loads a model, by the end of the name of its class; all others are sequence classifiers.
AUTO = {
    ("ForTokenClassification",): AutoModelForTokenClassification,
    ("ForCausalLM", "LMHeadModel"): AutoModelForCausalLM,
    ("ForImageClassification",): AutoModelForImageClassification,
}


def load_model(name: str) -> tuple[nn.Module, Any]:
    """Load a model with something on top, in float32 and eval mode, and its tokenizer.

    Of a model that reads images, its image processor takes the tokenizer's place.

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
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if hasattr(config, RECORD):
                narrow = folder if folder.is_dir() else Path(snapshot_download(name))
                model = load_pruned(narrow).float()
                model.config.dtype = torch.float32
            else:
                model = _load_stock(name, _auto(config), torch.float32)
            reader = AutoImageProcessor if reads_images(model) else AutoTokenizer
            tokenizer = reader.from_pretrained(name, trust_remote_code=False)
        except (
            OSError,
            ValueError,
            KeyError,
            SafetensorError,
            ImportError,
            RuntimeError,
            TypeError,
            StrictDataclassError,
        ) as error:
            raise ModelError(f"could not load the model {name!r}: {first_line(error)}") from None
    kind_of(model)
    return model.eval(), tokenizer


def load_config(name: str) -> Any:
    """Load the configuration of a model.

    Raises:
        ModelError: there is none, or it can't be read.
    """
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"could not load the model {name!r}: {first_line(error)}") from None


def _auto(config: Any) -> Any:
    """Return the class that loads a model of a hub or folder, by what its config says is on top."""
    name = (getattr(config, "architectures", None) or [""])[0]
    if name.endswith(WITH_TEACHER):  # with a second classifier, which the auto class leaves out
        return _class_of(config)
    for endings, kind in AUTO.items():
        if name.endswith(endings):
            return kind
    return AutoModelForSequenceClassification


def _load_stock(name: str, kind: Any, dtype: torch.dtype | str) -> nn.Module:
    model: nn.Module
    model, report = kind.from_pretrained(
        name,
        trust_remote_code=False,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are an error here, and one that names them
    )
    if report["mismatched_keys"]:
        key, found, wanted = min(report["mismatched_keys"])
        raise ModelError(
            f"{name!r} has weights that are not of its config's sizes: {key} is {list(found)} "
            f"but must be {list(wanted)}"
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

    transformers alone loads it too, with `trust_remote_code=True`: see `model.portable`.

    Args:
        model: what `headsearch.prune` returned, or any model of a known family.
        folder: must not exist yet.
        tokenizer: saved along if given.

    Raises:
        ModelError: the folder exists, or the model is not of the sizes that its config records.
        StorageError: it could not be written.
    """
    with staged(folder) as place:
        write_pruned(model, place, tokenizer)


def write_pruned(model: nn.Module, place: Path, tokenizer: Any = None) -> None:
    """Write what `save_pruned` does into a folder that is there already."""
    whole: Any = model
    record = getattr(whole.config, RECORD, None)
    with quiet_transformers():
        # A narrow model by the names that its own modules have, which `load_pruned` needs; any
        # other by those of its kind's checkpoints, which whatever loads the original knows.
        whole.save_pretrained(place, save_original_format=record is None)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
    if record is None:
        return
    sizes = sizes_of(type(model), whole.config)
    _check_sizes(sizes, model)
    kind = stock_class(type(model))
    config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    config["architectures"] = [kind.__name__]
    config["auto_map"] = {auto_class(kind): f"{Path(CODE).stem}.{kind.__name__}"}
    config[RECORD] = {**record, SIZES: sizes.record}
    (place / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (place / CODE).write_text(loader_source(kind, sizes.classes), encoding="utf-8")


def _check_sizes(sizes: Sizes, model: nn.Module) -> None:
    """Raise ModelError unless a narrow model is as its config's record says."""
    modules = dict(model.named_modules())
    for path, changes in sizes.record["modules"].items():
        for name, (_, shape) in changes.get("tensors", {}).items():
            found = list(getattr(modules[path], name).shape)
            if found != shape:
                raise ModelError(
                    f"{path}.{name} must be {shape} by the config's record but is {found}"
                )


def load_pruned(folder: str | Path) -> nn.Module:
    """Load a narrow model that `save_pruned` wrote, in eval mode; no code in the folder is run.

    It is of the dtype that it was saved in, as transformers loads it.

    Raises:
        ModelError: the folder holds no such model, or its config and weights disagree.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ModelError(f"model folder not found: {place}")
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            record = getattr(config, RECORD, None)
            if record is None:
                return _load_stock(str(place), _class_of(config), "auto").eval()
            tensors = _tensors(place)
            model: Any = build(config, record, tensors).eval()
            if (place / GENERATION).is_file() and model.can_generate():
                model.generation_config = GenerationConfig.from_pretrained(place)
            made: nn.Module = model
            return made
        except (
            InputError,
            OSError,
            ValueError,
            KeyError,
            SafetensorError,
            RuntimeError,
            TypeError,
            StrictDataclassError,
        ) as error:
            raise ModelError(
                f"could not load the narrow model {str(place)!r}: {first_line(error)}"
            ) from None


def _tensors(place: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a folder, of one file or of several that an index lists."""
    if not (place / INDEX).is_file():
        return dict(safetensors.torch.load_file(place / WEIGHTS))
    index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ModelError(f"{place / INDEX} must list the file of each weight")
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted({Path(name).name for name in files.values()}):
        tensors |= safetensors.torch.load_file(place / name)
    return tensors


def build(config: Any, record: Any, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Make the narrow model that a config, its record of removed heads and weights describe."""
    if not isinstance(record, dict):
        raise ModelError(f"the config's record of removed heads must be an object: {record!r}")
    shape, removed = HeadMap.from_mask(record)
    for name in (RECORD, "auto_map"):  # built whole and narrowed, which writes the record again
        if hasattr(config, name):
            delattr(config, name)
    kind = _class_of(config)
    with blank():
        model: nn.Module = kind._from_config(config)
    check_shape(model, shape)
    narrow_in_place(model, removed)
    # Older records have no sizes.
    if SIZES in record and record[SIZES] != sizes_of(kind, model.config).record:
        raise ModelError("the config's record of sizes is not that of the heads that are gone")
    load_weights(model, tensors)
    return model


def _class_of(config: Any) -> Any:
    """Return the class of transformers that a model was saved from, by its config."""
    name = (config.architectures or [None])[0]
    kind: Any = getattr(transformers, name or "", None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise ModelError(f"a model's class must be one of transformers' own but got {name}")
    wanted: Any = kind
    if not isinstance(config, wanted.config_class):
        raise ModelError(f"a {name} has another configuration than a {type(config).__name__}")
    return kind


def load_weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put weights into a model, sharing their memory; all must be there, and fit."""
    whole: Any = model
    for name, own in model.state_dict().items():
        if name in tensors and tensors[name].shape != own.shape:
            raise ModelError(
                f"weights and model disagree on {name}: it is {list(tensors[name].shape)} but must "
                f"be {list(own.shape)}"
            )
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
