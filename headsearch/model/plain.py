"""The plain path: the stock transformers forward under gates, which all else is held to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

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
            inputs = {
                name: torch.from_numpy(array).to(device) for name, array in batch.arrays.items()
            }
            parts.append(model(**inputs).logits.float().cpu().numpy())
    return np.concatenate(parts)
