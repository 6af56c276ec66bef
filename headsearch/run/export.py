"""Makes a model of what a run found, in a form that goes elsewhere."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headsearch import __version__
from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle
from headsearch.model.checkpoint import load_config, load_model, load_pruned, write_pruned
from headsearch.model.families import head_map, image_channels, reads_images
from headsearch.model.gate import removed_heads
from headsearch.model.narrow import RECORD, narrowed
from headsearch.model.onnx import NEEDED, export_onnx, require_onnx
from headsearch.model.samples import (
    input_names,
    largest_difference,
    logits_of,
    longest,
    sample_inputs,
)
from headsearch.model.size import size_of
from headsearch.model.staging import check_free, staged
from headsearch.model.stock import auto_class, stock_class
from headsearch.model.zeroed import zeroed
from headsearch.run.config import RunConfig
from headsearch.run.folder import MASK, RunFolder
from headsearch.run.points import operating_point
from headsearch.run.session import environment
from headsearch.task.images import mode_of

CARD = "README.md"
# How far the exported model may be from the gated original, see `samples.largest_difference`.
TOLERANCE = 1e-4
# Multiply-adds are counted of an example of so many tokens, or of as many as the model can read.
SIZED_TOKENS = 128


def export(
    folder: Path,
    out: Path,
    kind: str,
    heads: int | None,
    card: Callable[[dict[str, Any]], str],
    safer: bool = False,
    certified: bool = False,
) -> dict[str, Any]:
    """Write the model of an operating point with tokenizer, labels and model card.

    Args:
        folder: a finished run.
        out: where to; must not exist yet.
        kind: one of `EXPORT_FORMATS`.
        heads: which point, by how many heads it removes; None: the best within budget.
        card: returns the text of the model card, given what this returns.
        safer: take it from the safer points; `heads` says which.
        certified: the certified point instead.

    Returns:
        JSON values: `format`, `folder`, the `loader` of transformers for it, the operating `point`,
        how far it is `apart` from the gated original, its and the original's `parameters` and
        `multiply_adds` for an `example`, Pillow's mode of the `images` that it reads or None,
        `versions`, `commands`, the run's `result`, the exported heads as a `mask`, and what the run
        `asked`.

    Raises:
        HeadsearchError: the run is not done, has no such operating point or is not of this model,
            or the model can't be written so. Nothing is left behind.
    """
    check_free(out)
    if kind == "onnx":
        require_onnx()
    run = RunFolder.open(folder)
    config, _ = run.config()
    result, mask = run.answers()
    point = operating_point(result, heads, safer, certified)
    model, tokenizer = load_model(config.model)
    shape = head_map(model)
    shape.from_mask_for(mask)  # or it is of another model
    run.check_weights(bundle(model).weights_fingerprint())
    removed = shape.from_pairs(point["removed"])
    names = input_names(model, tokenizer)
    apart = 0.0  # of ONNX Runtime from the narrow model
    with staged(out) as place:
        made = zeroed(model, removed) if kind == "zeroed" else narrowed(model, removed)
        if kind == "onnx":
            apart = export_onnx(made, names, place)
            tokenizer.save_pretrained(place)
            _stock_config(made).save_pretrained(place)
        else:
            write_pruned(_as_saved(made, config.model), place, tokenizer)
            made = load_pruned(place).float()  # what is on disk is what is compared
        tokens = longest(model, SIZED_TOKENS)
        sizes = [size_of(each, tokens) for each in (made, model)]
        exported = {
            "format": kind,
            "folder": str(out),
            "loader": auto_class(stock_class(type(model))),
            "point": point,
            "apart": max(apart, _apart(model, removed, made)),
            "parameters": [size.parameters for size in sizes],
            "multiply_adds": [size.multiply_adds for size in sizes],
            "example": "an image" if reads_images(model) else f"{tokens} tokens",
            "images": mode_of(image_channels(model)) if reads_images(model) else None,
            "versions": _versions(kind),
            "commands": _commands(config, folder, out, kind, heads, safer, certified),
            "result": result,
            "mask": shape.to_mask(removed),
            "asked": config.to_json(),
        }
        text = json.dumps(exported["mask"], indent=1) + "\n"
        (place / MASK).write_text(text, encoding="utf-8")
        (place / CARD).write_text(card(exported), encoding="utf-8")
    return exported


def _as_saved(made: nn.Module, name: str) -> nn.Module:
    """Return a model in the dtype that its original was saved in, if that loses nothing."""
    saved = load_config(name).dtype
    if not isinstance(saved, torch.dtype) or not saved.is_floating_point:
        return made
    weights = [each for each in made.state_dict().values() if each.is_floating_point()]
    if all(torch.equal(each.to(saved).to(each.dtype), each) for each in weights):
        whole: Any = made.to(saved)
        whole.config.dtype = saved
    return made


def _apart(model: nn.Module, removed: HeadSet, made: nn.Module) -> float:
    """Return how far a model is from the gated original; raise ModelError if that is too far."""
    pairs = []
    for batch, tokens in ((1, 2), (4, longest(model, 48))):
        inputs = sample_inputs(model, batch, tokens, padded=True)
        with removed_heads(model, removed):
            expected = logits_of(model, inputs)
        pairs.append((expected, logits_of(made, inputs)))
    apart = largest_difference(pairs)
    if not apart <= TOLERANCE:
        raise ModelError(
            f"the exported model's logits must be within {TOLERANCE:g} of the gated original's "
            f"but are {apart:.2g} apart"
        )
    return apart


def _stock_config(model: nn.Module) -> Any:
    """Return a config with labels and sizes for tools around an ONNX model."""
    config: Any = model.config
    values = {name: value for name, value in config.to_dict().items() if name != RECORD}
    return type(config).from_dict(values)


def _versions(kind: str) -> dict[str, str]:
    extra = NEEDED if kind == "onnx" else ()
    named = {name: importlib.metadata.version(name) for name in extra}
    return {"headsearch": __version__, **environment(), **named}


def _commands(
    config: RunConfig,
    folder: Path,
    out: Path,
    kind: str,
    heads: int | None,
    safer: bool,
    certified: bool,
) -> list[str]:
    """Return the commands that lead from the model to this export."""
    asked = ["headsearch", "run", config.model]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name != "model" and value != field.default:
            asked += [f"--{field.name.replace('_', '-')}", str(value)]
    chosen = [] if heads is None else ["--heads", str(heads)]
    chosen += ["--safer"] * safer + ["--certified"] * certified
    made = ["headsearch", "export", str(folder), *chosen, "--format", kind, "--out", str(out)]
    return [shlex.join([*asked, "--out", str(folder)]), shlex.join(made)]
