"""A whole-size model whose removed heads do nothing, as their output weights are 0."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.model.families import family_of, head_map
from headsearch.model.narrow import RECORD


def zeroed(model: nn.Module, removed: HeadSet) -> nn.Module:
    """Return a copy of the model, as large and with the same outputs as under gates.

    Args:
        model: a model of a known family that has all its heads.
        removed: the heads that are turned off.

    Raises:
        ModelError: the model was narrowed before: no stock class is of its size.
    """
    if hasattr(model.config, RECORD):
        raise ModelError("a model that was narrowed before can't be saved in the format zeroed")
    copied, shape = copy.deepcopy(model), head_map(model)
    for number, layer in enumerate(family_of(copied).layers(copied)):
        weight: Any = layer.output.weight
        # GPT-2's Conv1D has its inputs in rows, a linear layer in columns.
        inputs = weight if isinstance(layer.output, Conv1D) else weight.T
        with torch.no_grad():
            for head in shape.in_layer(removed, number):
                inputs[head * layer.head_size : (head + 1) * layer.head_size] = 0.0
    return copied
