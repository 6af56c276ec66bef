"""How many parameters go with heads."""

from __future__ import annotations

import copy

from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.families import head_map, least_first
from headsearch.model.narrow import narrow_in_place


def parameters(model: nn.Module) -> int:
    """Return how many numbers a model has to keep; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_saved(model: nn.Module) -> list[list[int]]:
    """Return for each layer how many parameters go with 0, 1, 2, … of its heads, at least.

    Counted on a copy without values that is narrowed head by head, in the order in which least goes
    with them; see `families.least_first`.
    """
    shrinking = copy.deepcopy(model).to("meta")
    table = []
    for layer, order in enumerate(least_first(model)):
        whole = parameters(shrinking)
        start, left, row = head_map(shrinking).start(layer), list(range(len(order))), [0]
        for head in order:
            narrow_in_place(shrinking, HeadSet.of([start + left.index(head)]))
            left.remove(head)
            row.append(whole - parameters(shrinking))
        table.append(row)
    return table
