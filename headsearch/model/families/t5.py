"""T5's encoder: its layers share the relative position bias that the first one computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.slicing import head_rows, modules_at, take_inputs, take_outputs

_BLOCKS = "encoder.block.*.layer.0.SelfAttention"


# To mypy the base class is Any: it is set not to look into transformers.
class NarrowT5Attention(T5Attention):  # type: ignore[misc]  # untyped base
    """Self-attention that has lost heads: takes its own heads' part of the shared position bias.

    The bias stays as wide as it was in the whole model, and is handed on so.
    """

    kept: tuple[int, ...]  # the heads that are left, numbered as in the unpruned model

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the stock forward, with the bias narrowed to the heads that are left."""
        if position_bias is None:  # the first layer; the others are given its bias
            tokens = hidden_states.shape[1]
            position_bias = self.compute_bias(tokens, tokens, device=hidden_states.device)
            # Up to transformers 5.14 the first layer's bias holds the mask, and no other is used.
            if mask is not None and not hasattr(self, "is_causal"):
                position_bias = position_bias + mask
        own = position_bias[:, list(self.kept)]
        made = super().forward(hidden_states, mask, key_value_states, own, **kwargs)
        return (made[0], position_bias, *made[2:])


class T5Family:
    """Encoder with `encoder.block[i].layer[0].SelfAttention.q` and so on."""

    name = "T5"
    covers = ()
    note = "heads of the encoder's self-attention alone"
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = self._attention(model)
        return bool(found) and all(isinstance(own, T5Attention) for own in found)

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        return [
            OutputProjection(own.o, own.n_heads, own.key_value_proj_dim)
            for own in self._attention(model)
        ]

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        own = self._attention(model)[layer]
        before = getattr(own, "kept", tuple(range(own.n_heads)))
        rows = head_rows(kept, own.key_value_proj_dim)
        for projection in (own.q, own.k, own.v):
            take_outputs(projection, rows)
        take_inputs(own.o, rows)
        own.__class__ = NarrowT5Attention
        own.kept = tuple(before[i] for i in kept)
        own.n_heads = len(kept)
        own.inner_dim = len(rows)

    @staticmethod
    def _attention(model: nn.Module) -> list[Any]:
        """Return the encoder's attention modules, of models with some head on top."""
        if hasattr(model, "lm_head"):
            return modules_at(model, _BLOCKS)
        return modules_at(model, f"transformer.{_BLOCKS}")


T5 = T5Family()
