"""Matrix products of rows, in float32 and bfloat16 on a CPU by oneDNN where torch has it.

Measured in float32, oneDNN's products are some 10 % faster than torch's own choice there, and take
the GELU that follows along for nothing. Above all, a row of a product is the same to the last bit
whatever other rows and columns are computed with it, which `independent` makes sure of.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headsearch.model.families import AttentionLayer

# Rows come in multiples of this. A single row would be another kind of product, and where numbers
# are taken several at a time none is left over to be treated otherwise.
ROWS = 8
TYPICAL_ROWS = 1024  # what packed weights are laid out for; others do as well


def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN is used."""
    return device.type == "cpu" and dtype in _dtypes()


@lru_cache
def _dtypes() -> frozenset[torch.dtype]:
    """Return the dtypes of which oneDNN has products on this machine."""
    backend: Any = torch.backends.mkldnn
    operations: Any = torch.ops.mkldnn
    if not backend.is_available() or not hasattr(operations, "_linear_pointwise"):
        return frozenset()
    found = {torch.float32}
    if operations._is_mkldnn_bf16_supported():
        found.add(torch.bfloat16)
    return frozenset(found)


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `torch.nn.functional.linear(rows, weight, bias)`; rows are (rows, features)."""
    if rows.requires_grad or not has_onednn(rows.device, rows.dtype):
        return functional.linear(rows, weight, bias)
    return _onednn(rows, weight, bias, "none")


class PackedLinear(nn.Module):
    """`nn.Linear` by oneDNN, with a GELU after it if wanted; the weight is laid out for it."""

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self._gelu = gelu
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """Return what linear layer and GELU would, (…, features)."""
        if rows.requires_grad:
            made = functional.linear(rows, self._weight.to_dense(), self._bias)
            return functional.gelu(made) if self._gelu else made
        return _onednn(rows, self._weight, self._bias, "gelu" if self._gelu else "none")


def pack(model: nn.Module, layers: list[AttentionLayer]) -> None:
    """Put packed layers in place of a model's linear ones, but for those of attention."""
    attention = {id(x) for own in layers for x in (own.query, own.key, own.value, own.output)}
    with_gelu = set()
    for layer in layers:
        block = layer.feed_forward
        if block is not None and block.is_gelu:
            setattr(block.owner, block.activation, nn.Identity())
            with_gelu.add(id(getattr(block.owner, block.linear)))
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if type(child) is nn.Linear and id(child) not in attention:
                setattr(owner, name, PackedLinear(child, gelu=id(child) in with_gelu))


def independent(weight: Tensor) -> bool:
    """Whether products with such a weight are the same whatever rows and columns are computed.

    Only oneDNN's are taken to be. Tried out on random numbers, once for each shape: some rows and
    columns alone, and all together.

    Args:
        weight: (features, features) as in `nn.Linear`; what it holds does not matter.
    """
    if not has_onednn(weight.device, weight.dtype):
        return False
    return _tried(*weight.shape, weight.dtype, torch.get_num_threads())


@lru_cache
def _tried(features: int, inputs: int, dtype: torch.dtype, threads: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40 * ROWS, inputs, generator=generator).to(dtype)
    weight = torch.randn(features, inputs, generator=generator).to(dtype)
    bias = torch.ones(features, dtype=dtype)
    every = product(rows, weight, bias)
    order = torch.randperm(len(rows), generator=generator)
    step = features // 4
    for count in (ROWS, 2 * ROWS, 5 * ROWS, 21 * ROWS, len(rows)):
        some = order[:count]
        if not torch.equal(product(rows[some], weight, bias), every[some]):
            return False
    parts = [product(rows, weight[i : i + step], bias[i : i + step]) for i in (0, step, 2 * step)]
    return torch.equal(torch.cat(parts, dim=1), every[:, : 3 * step])


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None, after: str) -> Tensor:
    operation: Any = torch.ops.mkldnn._linear_pointwise
    made: Tensor = operation(rows, weight, bias, after, [], "none")
    return made
