"""Wide packings, for devices that like large products: which sizes give the same sums.

A GPU takes hardly longer for a product of a thousand rows than for one of a few, and libraries
choose how it sums by the size of the product. So examples are packed together, whatever batches
they are of, and filled up to one of a few numbers of rows; which of these sum alike to the last
bit, wherever among the rows an example is and however many heads are computed beside a head, is
tried out on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from headsearch.scoring.layers import FusedLayer
from headsearch.scoring.packing import Filling

# Numbers of rows that products may have, and of examples that are packed together at most.
SIZES = (1024, 2048, 4096, 8192, 16384)
MOST_EXAMPLES = 1024

Product = Callable[[Tensor], Tensor]


class Tried(NamedTuple):
    """What was found.

    Attributes:
        sizes: numbers of rows that sum alike; none: rows depend on each other.
        any_heads: whether a head's queries, keys and values may be computed with any others.
    """

    sizes: tuple[int, ...]
    any_heads: bool

    @property
    def filling(self) -> Filling:
        """How packings are filled up."""
        return Filling(examples=MOST_EXAMPLES, sizes=self.sizes)


@torch.inference_mode()
def tried(layers: Sequence[FusedLayer]) -> Tried:
    """Try out a model's products, once for each number of heads that a layer may keep."""
    # With heads together, also where they are computed one by one until it is known.
    distinct = {layer.qkv_weight.shape: replace(layer, by_head=False) for layer in reversed(layers)}
    alike, any_heads = set(SIZES), True
    for layer in distinct.values():
        like = layer.qkv_weight
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(max(SIZES), like.shape[-1], generator=generator).to(like)
        order = torch.randperm(len(rows), generator=generator).to(like.device)
        widest = _columns(layer, rows)
        for count in range(1, len(like) + 1):
            heads = tuple(range(len(like) - count, len(like)))
            found = layer.query_key_value(rows, heads)
            any_heads = any_heads and torch.equal(found, widest[:, list(heads)])
        for product, inputs in _products(layer, rows):
            whole = product(inputs)
            alike -= {s for s in alike if not _same(product, inputs, whole, order[:s])}
        for product, inputs in _products(layer, rows[:MOST_EXAMPLES]):
            whole, some = product(inputs), order[order < MOST_EXAMPLES]
            if not _same(product, inputs, whole, some):
                alike.clear()
    if max(SIZES) not in alike:
        return Tried((), False)
    return Tried(tuple(sorted(alike)), any_heads)


def _same(product: Product, rows: Tensor, whole: Tensor, some: Tensor) -> bool:
    return torch.equal(product(rows[some]), whole[some])


def _columns(layer: FusedLayer, rows: Tensor) -> Tensor:
    return layer.query_key_value(rows, tuple(range(len(layer.qkv_weight))))


def _products(layer: FusedLayer, rows: Tensor) -> list[tuple[Product, Tensor]]:
    """Return all that is done to a layer's rows but attention itself, and rows for it."""

    def finish(some: Tensor) -> Tensor:
        return layer.finish(some, some)

    found: list[tuple[Product, Tensor]] = [(finish, rows)]
    context = _columns(layer, rows)[:, :, 2, : layer.head_size]
    for count in range(1, len(layer.qkv_weight) + 1):
        heads = tuple(range(count))
        found.append((partial(layer.query_key_value, heads=heads), rows))
        found.append((partial(layer.project, heads=heads), context[:, :count]))
    return found
