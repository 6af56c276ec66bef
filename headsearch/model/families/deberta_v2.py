"""DeBERTa-v2 and -v3: attention to relative positions has projections by head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.slicing import head_rows, modules_at, take_inputs, take_outputs

# The last two are there unless content's own projections serve positions too.
PROJECTIONS = ("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj")


# To mypy the base class is Any: it is set not to look into transformers.
class HeadlessDisentangledAttention(
    DisentangledSelfAttention  # type: ignore[misc]  # untyped base
):
    """Self-attention that has lost all heads, which the stock one can't: its context is empty."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Return no features for every token, and no attention weights."""
        return hidden_states.new_zeros(*hidden_states.shape[:-1], 0), None


class DebertaV2Family:
    """Post-norm encoder with `deberta.encoder.layer[i].attention.self.query_proj` and so on."""

    name = "DeBERTa-v2"
    covers = ("DeBERTa-v3",)
    note = ""
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = modules_at(model, "deberta.encoder.layer.*.attention")
        return bool(found) and all(hasattr(own.self, "query_proj") for own in found)

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        found = []
        for attention in modules_at(model, "deberta.encoder.layer.*.attention"):
            output, size = attention.output.dense, attention.self.attention_head_size
            found.append(OutputProjection(output, output.in_features // size, size))
        return found

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = modules_at(model, "deberta.encoder.layer.*.attention")[layer]
        own = attention.self
        rows = head_rows(kept, own.attention_head_size)
        for name in PROJECTIONS:
            if hasattr(own, name):
                take_outputs(getattr(own, name), rows)
        take_inputs(attention.output.dense, rows)
        own.num_attention_heads = len(kept)
        own.all_head_size = len(rows)
        if not kept:
            own.__class__ = HeadlessDisentangledAttention


DEBERTA_V2 = DebertaV2Family()
