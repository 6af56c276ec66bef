"""A model's attention layers with fused projections, run on any subset of their heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headsearch.model.families import AttentionLayer


@dataclass(frozen=True)
class FusedLayer:
    """One attention layer, its weights laid out head by head so that heads can be picked.

    Attributes:
        qkv_weight: (heads, 3, head size, hidden).
        qkv_bias: (heads, 3, head size).
        output_weight: (hidden, heads, head size).
        output_bias: (hidden,) or None.
        finish: what comes after the output projection, see `AttentionLayer`.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor | None
    finish: Callable[[Tensor, Tensor], Tensor]

    @property
    def head_size(self) -> int:
        """Features of one head."""
        return self.qkv_weight.shape[2]

    def attend(
        self,
        hidden: Tensor,
        heads: tuple[int, ...],
        mask: Tensor | None,
        bias: Tensor | None,
        first_token_only: bool,
    ) -> Tensor:
        """Return the context of the given heads, (examples, query tokens, heads, head size).

        Args:
            hidden: the layer's input, (examples, tokens, hidden).
            heads: which heads to compute; no arithmetic is spent on the others.
            mask: True where a token may be attended to, (examples, 1, 1, tokens); None: everywhere.
            bias: added to the scores, (1, all heads, tokens, tokens), or None.
            first_token_only: compute one query, for the first token.
        """
        examples, tokens, _ = hidden.shape
        size = self.head_size
        if not heads:
            return hidden.new_zeros(examples, 1 if first_token_only else tokens, 0, size)
        picked = list(heads)
        weight, row = self.qkv_weight, self.qkv_bias
        if len(heads) < weight.shape[0]:
            weight, row = weight[picked], row[picked]
        if bias is not None:
            bias = bias[:, picked]
            if mask is not None:
                # Finite, so that no score is NaN; large enough for a weight of exactly 0.
                bias = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
            mask = bias
        if first_token_only:
            query = functional.linear(
                hidden[:, :1], weight[:, 0].flatten(0, 1), row[:, 0].flatten()
            ).view(examples, 1, len(heads), size)
            both = functional.linear(
                hidden, weight[:, 1:].flatten(0, 2), row[:, 1:].flatten()
            ).view(examples, tokens, len(heads), 2, size)
            key, value = both.unbind(3)
            if bias is not None and mask is not None:
                mask = mask[:, :, :1]
        else:
            every = functional.linear(hidden, weight.flatten(0, 2), row.flatten())
            query, key, value = every.view(examples, tokens, len(heads), 3, size).unbind(3)
        context = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        return context.transpose(1, 2)

    def project(self, context: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return the output projection of the given heads' context, (examples, tokens, hidden)."""
        weight = self.output_weight
        if not heads:
            shape = (*context.shape[:2], weight.shape[0])
            zeros = context.new_zeros(shape)
            return zeros if self.output_bias is None else zeros + self.output_bias
        if len(heads) < weight.shape[1]:
            weight = weight[:, list(heads)]
        return functional.linear(context.flatten(2), weight.flatten(1), self.output_bias)


def fuse(layer: AttentionLayer) -> FusedLayer:
    """Lay a layer's weights out head by head; the projections' weights are copied."""
    heads, size = layer.heads, layer.head_size

    def by_head(tensor: Tensor | None, like: Tensor) -> Tensor:
        if tensor is None:
            return like.new_zeros(heads, size)
        return tensor.detach().view(heads, size, *tensor.shape[1:])

    projections = (layer.query, layer.key, layer.value)
    output = layer.output
    return FusedLayer(
        qkv_weight=torch.stack([by_head(p.weight, p.weight) for p in projections], dim=1),
        qkv_bias=torch.stack([by_head(p.bias, p.weight) for p in projections], dim=1),
        output_weight=output.weight.detach().view(output.out_features, heads, size),
        output_bias=None if output.bias is None else output.bias.detach(),
        finish=layer.finish,
    )
