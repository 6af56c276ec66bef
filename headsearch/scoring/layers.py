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
        if not heads:
            queries = 1 if first_token_only else hidden.shape[1]
            return hidden.new_zeros(hidden.shape[0], queries, 0, self.head_size)
        # Head by head: a product's rounding may depend on its width, and a head's context must not
        # depend on which other heads are computed beside it. Gradients are only ever computed for
        # all heads of a state, so there one product does.
        groups = [heads] if hidden.requires_grad else [(head,) for head in heads]
        contexts = []
        for group in groups:
            query, key, value = self._qkv(hidden, group, first_token_only)
            context = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=_scores_mask(mask, bias, group, query.shape[2])
            )
            contexts.append(context.transpose(1, 2))
        return torch.cat(contexts, dim=2)

    def _qkv(self, hidden: Tensor, heads: tuple[int, ...], first_token_only: bool) -> list[Tensor]:
        """Return query, key and value, each (examples, heads, tokens, head size)."""
        weight, row = self.qkv_weight[list(heads)], self.qkv_bias[list(heads)]

        def projected(rows: Tensor, first: int, stop: int) -> tuple[Tensor, ...]:
            every = functional.linear(
                rows, weight[:, first:stop].flatten(0, 2), row[:, first:stop].flatten()
            )
            shape = (*rows.shape[:2], len(heads), stop - first, self.head_size)
            return every.view(shape).transpose(1, 2).unbind(3)

        if first_token_only:
            return [*projected(hidden[:, :1], 0, 1), *projected(hidden, 1, 3)]
        return list(projected(hidden, 0, 3))

    def project(self, context: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return the output projection of the given heads' context, (examples, tokens, hidden)."""
        weight = self.output_weight
        if not heads:
            shape = (*context.shape[:2], weight.shape[0])
            zeros = context.new_zeros(shape)
            return zeros if self.output_bias is None else zeros + self.output_bias
        if len(heads) < weight.shape[1]:
            weight = weight[:, list(heads)]
        rows = context.contiguous().flatten(2)  # one layout, wherever the context comes from
        return functional.linear(rows, weight.flatten(1), self.output_bias)


def _scores_mask(
    mask: Tensor | None, bias: Tensor | None, heads: tuple[int, ...], queries: int
) -> Tensor | None:
    """Return what is added to the scores of some heads, or where they count."""
    if bias is None:
        return mask
    bias = bias[:, list(heads), :queries]
    if mask is None:
        return bias
    # Finite, so that no score is NaN; large enough for a weight of exactly 0.
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


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
