"""Physical removal of heads: what is left of the matrices is smaller. How, each family knows."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from headsearch.errors import InputError, ModelError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import NARROW, family_of, head_map

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
        ModelError: models of its family can't be narrowed.
    """
    smaller = copy.deepcopy(model)
    narrow_in_place(smaller, removed)
    return smaller


def narrow_in_place(model: nn.Module, removed: HeadSet) -> None:
    """Remove the given heads from the model and record it in its config. See `narrowed`."""
    family, shape = family_of(model), head_map(model)
    if not removed <= shape.full:
        raise InputError(f"a head index must be in 0..{shape.total - 1} but got {max(removed)}")
    if NARROW in family.limits:
        raise ModelError(
            f"heads of {family.name} models can't be cut out: {family.limits[NARROW]}; they can be "
            "gated"
        )
    for layer in range(shape.layers):
        kept = shape.kept(removed, layer)
        if len(kept) < shape.heads_per_layer[layer]:
            family.narrow(model, layer, kept)
    _record(model.config, shape, removed)


def why_not_empty(model: nn.Module) -> str | None:
    """Return why some layer of the model can not lose all of its heads; None if each can.

    Tried on a copy without values.
    """
    trial = copy.deepcopy(model).to("meta")
    try:
        narrow_in_place(trial, head_map(trial).full)
    except ModelError as error:
        return str(error)
    return None


def _record(config: Any, shape: HeadMap, removed: HeadSet) -> None:
    """Add the newly removed heads to the config's record, numbered as in the whole model."""
    before = getattr(config, RECORD, None)
    whole, gone = (shape, HeadSet()) if before is None else HeadMap.from_mask(before)
    for layer in range(shape.layers):
        left = whole.kept(gone, layer)
        lost = [whole.index(layer, left[head]) for head in shape.in_layer(removed, layer)]
        gone = gone | HeadSet.of(lost)
    setattr(config, RECORD, whole.to_mask(gone))
