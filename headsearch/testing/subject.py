"""What the checks compute of a model, in float64 and by the stock forward."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headsearch.heads import HeadSet
from headsearch.model.families import family_of, head_map
from headsearch.model.gate import gates, removal_gates
from headsearch.model.plain import inputs_of
from headsearch.task.batches import Batch

CPU = torch.device("cpu")
NOTHING = HeadSet()


def float64(model: nn.Module) -> nn.Module:
    """Return a copy in float64 and eval mode."""
    return copy.deepcopy(model).double().eval()


def logits(
    model: nn.Module, batches: Sequence[Batch], gated: HeadSet | Sequence[Tensor] = NOTHING
) -> np.ndarray:
    """Return all logits of the stock forward, of whatever shape, one after the other.

    Args:
        model: as it is; nothing is cast.
        batches: what it reads.
        gated: heads that are turned off, or gates of every layer for all examples.
    """
    values = removal_gates(model, gated) if isinstance(gated, HeadSet) else gated
    with torch.inference_mode(), gates(model, values):
        parts = [_logits(model, batch).flatten() for batch in batches]
    return torch.cat(parts).cpu().numpy()


def example_logits(model: nn.Module, batch: Batch, values: Sequence[Tensor]) -> np.ndarray:
    """Return the logits of each example, (examples, ...), under gates (examples, heads)."""
    with torch.inference_mode(), gates(model, values):
        return _logits(model, batch).cpu().numpy()


def without_heads(model: nn.Module, removed: HeadSet) -> nn.Module:
    """Return a copy that ignores some heads: weights of the output projections set to zero."""
    changed, shape = copy.deepcopy(model), head_map(model)
    for number, layer in enumerate(family_of(changed).layers(changed)):
        weight: Any = layer.output.weight
        inputs = weight if isinstance(layer.output, Conv1D) else weight.T  # (inputs, outputs)
        with torch.no_grad():
            for head in shape.in_layer(removed, number):
                inputs[head * layer.head_size : (head + 1) * layer.head_size] = 0.0
    return changed


def states(model: nn.Module) -> dict[str, HeadSet]:
    """Return sets of removed heads that matter: some, whole layers, all but one, all."""
    shape = head_map(model)
    layers = [
        HeadSet.of(range(shape.start(n), shape.start(n) + heads))
        for n, heads in enumerate(shape.heads_per_layer)
    ]
    return {
        "every third head": HeadSet.of(range(1, shape.total, 3)),
        "all but every fourth head": HeadSet.of(j for j in range(shape.total) if j % 4 != 2),
        "the first layer and a head": layers[0] | HeadSet.of([shape.total - 1]),
        "the last layer and a head": layers[-1].add(0),
        "all heads but one": HeadSet.of(range(shape.total - 1)),
        "all heads": shape.full,
    }


def few_states(model: nn.Module) -> dict[str, HeadSet]:
    """Return three of `states`, for what takes long."""
    found = states(model)
    names = ("every third head", "the first layer and a head", "all heads")
    return {name: found[name] for name in names}


def scale(values: np.ndarray) -> float:
    """Return what rounding is measured by: the largest of the values, at least 1."""
    return max(1.0, float(np.abs(values).max()))


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    made: Tensor = model(**inputs_of(batch, CPU)).logits
    return made
