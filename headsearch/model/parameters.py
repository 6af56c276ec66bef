"""How many parameters go with heads."""

from __future__ import annotations

import copy

from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.families import head_map
from headsearch.model.narrow import narrow_in_place


def parameters(model: nn.Module) -> int:
    """Return how many numbers a model has to keep; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_saved(model: nn.Module) -> list[list[int]]:
    """Return for each layer how many parameters go with 0, 1, 2, … of its heads.

    Counted on a copy without values that is narrowed head by head.
    """
    shrinking = copy.deepcopy(model).to("meta")
    table = []
    for layer, heads in enumerate(head_map(model).heads_per_layer):
        whole = parameters(shrinking)
        row = [0]
        for _ in range(heads):
            first = head_map(shrinking).start(layer)
            narrow_in_place(shrinking, HeadSet.of([first]))
            row.append(whole - parameters(shrinking))
        table.append(row)
    return table
