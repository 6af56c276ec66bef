"""Cuts features out of projections, and finds modules by path: what families narrow with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headsearch.errors import ModelError
from headsearch.model.families.base import AttentionLayer


def head_rows(heads: tuple[int, ...], head_size: int) -> Tensor:
    """Return the feature indices of the given heads, (len(heads) * head_size,)."""
    first = torch.tensor(heads, dtype=torch.long)[:, None] * head_size
    return (first + torch.arange(head_size)).flatten()


def fused_rows(heads: tuple[int, ...], head_size: int, features: int) -> Tensor:
    """Return the feature indices of heads in query, key and value, one after the other.

    Args:
        heads, head_size: which heads, and how large they are.
        features: of all three together.
    """
    rows = head_rows(heads, head_size)
    return torch.cat([rows + part * (features // 3) for part in range(3)])


def take_outputs(projection: Any, rows: Tensor) -> None:
    """Keep only some output features of a linear layer or `Conv1D`, in place."""
    if isinstance(projection, Conv1D):  # its weight is (inputs, outputs)
        _take(projection, "weight", rows, dim=1)
        projection.nf = len(rows)
    else:
        _take(projection, "weight", rows, dim=0)
        projection.out_features = len(rows)
    if projection.bias is not None:
        _take(projection, "bias", rows, dim=0)


def take_inputs(projection: Any, rows: Tensor) -> None:
    """Keep only some input features of a linear layer or `Conv1D`, in place."""
    if isinstance(projection, Conv1D):
        _take(projection, "weight", rows, dim=0)
        projection.nx = len(rows)
    else:
        _take(projection, "weight", rows, dim=1)
        projection.in_features = len(rows)


def narrow_separate(layer: AttentionLayer, kept: tuple[int, ...]) -> None:
    """Narrow query, key, value and output of a layer where each is a projection of its own."""
    rows = head_rows(kept, layer.head_size)
    for projection in (layer.query, layer.key, layer.value):
        take_outputs(projection, rows)
    take_inputs(layer.output, rows)


def modules_at(root: nn.Module, path: str) -> list[Any]:
    """Return the modules at a path of names, lowest layer first; `*` stands for all of a list.

    Empty where a name on the way is missing.
    """
    found: list[Any] = [root]
    for name in path.split("."):
        if name == "*":
            found = [child for module in found for child in module.children()]
        else:
            found = [getattr(module, name) for module in found if hasattr(module, name)]
    return found


def _take(module: nn.Module, name: str, rows: Tensor, dim: int) -> None:
    if name not in module._parameters:  # adapters show another module's as their own
        raise ModelError(
            f"a {type(module).__name__} holds no {name} of its own: merge adapters into the model"
        )
    before: nn.Parameter = getattr(module, name)
    picked = before.detach().index_select(dim, rows.to(before.device)).clone()
    setattr(module, name, nn.Parameter(picked, requires_grad=before.requires_grad))
