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
    """Return for each layer how many parameters go with 0, 1, 2, … of its heads, at least.

    Counted on a copy without values that is narrowed head by head. Where keys and values go with
    the last head of a group, heads of all groups are taken in turn, so that groups last longest.
    """
    shrinking = copy.deepcopy(model).to("meta")
    table = []
    for layer, heads in enumerate(head_map(model).heads_per_layer):
        whole = parameters(shrinking)
        start, left, row = head_map(shrinking).start(layer), list(range(heads)), [0]
        for head in sorted(left, key=_far_apart):
            narrow_in_place(shrinking, HeadSet.of([start + left.index(head)]))
            left.remove(head)
            row.append(whole - parameters(shrinking))
        table.append(row)
    return table


def _far_apart(head: int) -> str:
    """Order heads so that neighbours, which share a group, come far from each other: 0, 8, 4, …"""
    return f"{head:064b}"[::-1]
