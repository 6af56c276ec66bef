"""Turns heads off in the stock forward: a gate on the input of the output projection.

transformers 5 accepts `head_mask` and ignores it; a forward pre-hook can't be ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headsearch.heads import HeadSet
from headsearch.model.families import family_of, head_map


@contextmanager
def gates(model: nn.Module, values: Sequence[Tensor]) -> Iterator[None]:
    """Multiply each head's context by its gate while the context manager is open.

    Args:
        model: a model of a known family.
        values: one tensor for each layer, (heads,) or (examples, heads).
    """
    handles = []
    try:
        for layer, gate in zip(family_of(model).layers(model), values, strict=True):
            handles.append(layer.output.register_forward_pre_hook(_hook(gate, layer.head_size)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def removal_gates(model: nn.Module, removed: HeadSet) -> list[Tensor]:
    """Return gates (heads,) for each layer: 0 for a removed head, else 1."""
    shape = head_map(model)
    like = next(model.parameters())
    values = []
    for layer, heads in enumerate(shape.heads_per_layer):
        gate = torch.ones(heads, dtype=like.dtype, device=like.device)
        gate[list(shape.in_layer(removed, layer))] = 0.0
        values.append(gate)
    return values


@contextmanager
def removed_heads(model: nn.Module, removed: HeadSet) -> Iterator[None]:
    """Turn the given heads off while the context manager is open."""
    with gates(model, removal_gates(model, removed)):
        yield


def _hook(gate: Tensor, head_size: int) -> Any:
    def apply(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context = args[0]  # (examples, tokens, heads * head_size)
        wide = gate.repeat_interleave(head_size, dim=-1)
        if wide.dim() == 2:  # one row of gates for each example
            wide = wide[:, None, :]
        return (context * wide, *args[1:])

    return apply
