"""ModernBERT: query, key and value in one linear layer; local and global attention layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.slicing import (
    fused_rows,
    head_rows,
    modules_at,
    take_inputs,
    take_outputs,
)


class ModernBertFamily:
    """Pre-norm encoder with `model.layers[i].attn.Wqkv` and `Wo`; how far a layer sees is its own.

    The stock attention has no number of heads: it takes it from the width of `Wqkv`.
    """

    name = "ModernBERT"
    covers = ()
    note = ""
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = modules_at(model, "model.layers.*.attn")
        return bool(found) and all(
            isinstance(getattr(own, name, None), nn.Linear)
            for own in found
            for name in ("Wqkv", "Wo")
        )

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        return [
            OutputProjection(own.Wo, own.Wo.in_features // own.head_dim, own.head_dim)
            for own in modules_at(model, "model.layers.*.attn")
        ]

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = modules_at(model, "model.layers.*.attn")[layer]
        size = attention.head_dim
        take_outputs(attention.Wqkv, fused_rows(kept, size, attention.Wqkv.out_features))
        take_inputs(attention.Wo, head_rows(kept, size))


MODERNBERT = ModernBertFamily()
