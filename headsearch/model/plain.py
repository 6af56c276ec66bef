"""The plain path: the stock transformers forward under gates, which all else is held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.model.gate import removed_heads
from headsearch.task.batches import Batch


def plain_outputs(model: nn.Module, batches: Iterable[Batch], removed: HeadSet) -> np.ndarray:
    """Return the logits of the stock forward with the given heads off, (examples, classes) float32.

    Args:
        model: a sequence classification model of a known family; put into eval mode.
        batches: padded batches.
        removed: the heads that are turned off.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode(), removed_heads(model, removed):
        for batch in batches:
            parts.append(logits_of(model, inputs_of(batch, device)).float().cpu().numpy())
    return np.concatenate(parts)


def inputs_of(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return a batch's arrays as tensors, by the names that the forward gives them."""
    return {name: torch.from_numpy(array).to(device) for name, array in batch.arrays.items()}


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of the stock forward, (examples, classes).

    Raises:
        ModelError: the model gives no such logits.
    """
    logits = getattr(model(**inputs), "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = "no logits" if logits is None else f"logits of shape {tuple(logits.shape)}"
        raise ModelError(
            f"{type(model).__name__} must give logits (examples, classes) but gives {found}"
        )
    return logits
