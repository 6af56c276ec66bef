"""The plain path: the stock transformers forward under gates, which all else is held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.model.gate import removed_heads
from headsearch.model.readout import read
from headsearch.task.batches import Batch
from headsearch.task.readout import SEQUENCES, TOKENS

# How far outputs may be apart by rounding alone, relative to the largest.
ALIKE = 1e-3


def plain_outputs(model: nn.Module, batches: Iterable[Batch], removed: HeadSet) -> np.ndarray:
    """Return the rows of the stock forward with the given heads off, (rows, classes) float32.

    Args:
        model: a model of a known family with something on top; put into eval mode.
        batches: padded batches.
        removed: the heads that are turned off.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode(), removed_heads(model, removed):
        for batch in batches:
            parts.append(rows_of(model, batch, inputs_of(batch, device)).float().cpu().numpy())
    return np.concatenate(parts)


def check_alike(model: nn.Module, stock: nn.Module, batch: Batch) -> None:
    """Raise ModelError if a model's outputs are not those of its class with the same weights.

    Args:
        model: put into eval mode.
        stock: the same, made anew from class, config and weights.
        batch: on which they are compared.
    """
    own, theirs = (plain_outputs(each, [batch], HeadSet()) for each in (model, stock))
    apart = float(np.abs(own - theirs).max()) if np.isfinite(theirs).all() else 0.0
    if not apart <= ALIKE * max(1.0, float(np.abs(theirs).max())):
        raise ModelError(
            f"the outputs of the model must be those of its class, {type(model).__name__}, with "
            f"its weights but are {apart:.2g} apart: hooks and replaced modules are not searched; "
            "write a class of your own"
        )


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return a batch's arrays as tensors, by the names that the forward gives them."""
    return {name: torch.from_numpy(array).to(device) for name, array in batch.arrays.items()}


def rows_of(model: nn.Module, batch: Batch, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what is scored of the stock forward's outputs, (rows, classes).

    Args:
        model: see `plain_outputs`.
        batch: says what is scored.
        inputs: its arrays as tensors.

    Raises:
        ModelError: the model gives no logits of that kind.
    """
    readout = batch.readout
    per_token = readout.kind in (TOKENS, SEQUENCES)
    logits = getattr(model(**inputs), "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != (3 if per_token else 2):
        wanted = "(examples, tokens, classes)" if per_token else "(examples, classes)"
        found = "no logits" if logits is None else f"logits of shape {tuple(logits.shape)}"
        raise ModelError(f"{type(model).__name__} must give logits {wanted} but gives {found}")
    return read(readout, logits, inputs)
