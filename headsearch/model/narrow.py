"""Physical removal of heads: rows of query, key and value, columns of the output projection."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from headsearch.errors import InputError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import family_of, head_map

# The config attribute that says, as in `mask.json`, which heads of the whole model are gone.
RECORD = "headsearch"


def narrowed(model: nn.Module, removed: HeadSet) -> nn.Module:
    """Return a copy of the model without the given heads; the model itself is left as it is.

    Args:
        model: a model of a known family, narrowed before or not.
        removed: heads by their index in the model as it is now.

    Raises:
        InputError: a head is named that the model does not have.
        UnknownFamilyError: the model's family is not known.
    """
    smaller = copy.deepcopy(model)
    narrow_in_place(smaller, removed)
    return smaller


def narrow_in_place(model: nn.Module, removed: HeadSet) -> None:
    """Remove the given heads from the model and record it in its config. See `narrowed`."""
    family, shape = family_of(model), head_map(model)
    if not removed <= shape.full:
        raise InputError(f"a head index must be in 0..{shape.total - 1} but got {max(removed)}")
    for number, layer in enumerate(family.layers(model)):
        kept = shape.kept(removed, number)
        if len(kept) == shape.heads_per_layer[number]:
            continue
        rows = _head_rows(kept, layer.head_size)
        for projection in (layer.query, layer.key, layer.value):
            _replace(projection, rows, dim=0)
        _replace(layer.output, rows, dim=1)
        family.after_narrowing(model, number, kept)
    _record(model.config, shape, removed)


def _record(config: Any, shape: HeadMap, removed: HeadSet) -> None:
    """Add the newly removed heads to the config's record, numbered as in the whole model."""
    before = getattr(config, RECORD, None)
    whole, gone = (shape, HeadSet()) if before is None else HeadMap.from_mask(before)
    for layer in range(shape.layers):
        left = whole.kept(gone, layer)
        lost = [whole.index(layer, left[head]) for head in shape.in_layer(removed, layer)]
        gone = gone | HeadSet.of(lost)
    setattr(config, RECORD, whole.to_mask(gone))


def _head_rows(heads: tuple[int, ...], head_size: int) -> Tensor:
    """Return the feature indices of the given heads, (len(heads) * head_size,)."""
    first = torch.tensor(heads, dtype=torch.long)[:, None] * head_size
    return (first + torch.arange(head_size)).flatten()


def _replace(linear: nn.Linear, rows: Tensor, dim: int) -> None:
    rows = rows.to(linear.weight.device)
    weight = linear.weight.detach().index_select(dim, rows).clone()
    linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if dim == 1:
        linear.in_features = len(rows)
        return
    linear.out_features = len(rows)
    if linear.bias is not None:
        bias = linear.bias.detach().index_select(0, rows).clone()
        linear.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
