"""A model's attention layers with fused projections, run on any subset of their heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headsearch.model.families import AttentionLayer
from headsearch.scoring.packing import Packing

ALIGNED = 64  # numbers; at most 8 bytes each, so more than enough for any vector unit


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
        self, hidden: Tensor, heads: tuple[int, ...], packing: Packing, bias: Tensor | None
    ) -> Tensor:
        """Return the context of the given heads, (rows, heads, head size).

        Args:
            hidden: the layer's input, (rows, hidden).
            heads: which heads to compute; no arithmetic is spent on the others.
            packing: which rows belong together.
            bias: added to the scores, (1, all heads, tokens, tokens), or None.
        """
        if not heads:
            return hidden.new_zeros(len(hidden), 0, self.head_size)
        projected = self._qkv(hidden, heads)
        contexts = []
        for run, part in packing.split(projected, dim=1):
            # (heads, examples, tokens, 3, head size) -> 3 x (examples, heads, tokens, head size)
            query, key, value = part.permute(3, 1, 0, 2, 4)
            added = None if bias is None else bias[:, list(heads), : run.tokens, : run.tokens]
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=added)
            contexts.append(context.transpose(1, 2).flatten(0, 1))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def attend_first(self, hidden: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Return the context of all heads for the first token, (examples, heads, head size).

        With one query for each example, keys and values need not be computed: q . (W x) is
        (q W) . x, and a weighted mean of values W x + b is W times the mean of x, plus b. A key's
        bias adds the same to all scores of a query, and so changes nothing.

        Args:
            hidden: the layer's input, (rows, hidden).
            packing: which rows belong together.
            bias: added to the scores, (1, all heads, tokens, tokens), or None.
        """
        weights, biases = self.qkv_weight, self.qkv_bias
        query = functional.linear(
            hidden[packing.first], weights[:, 0].flatten(0, 1), biases[:, 0].flatten()
        ).unflatten(1, (-1, self.head_size))
        scale = 1.0 / math.sqrt(self.head_size)
        # (heads, examples, hidden) -> (examples, heads, hidden)
        asked = ((query * scale).transpose(0, 1) @ weights[:, 1]).transpose(0, 1)
        means, start = [], 0
        for run, rows in packing.split(hidden):
            scores = asked[start : start + run.examples] @ rows.transpose(1, 2)
            if bias is not None:
                scores = scores + bias[:, :, 0, : run.tokens]
            means.append(scores.softmax(-1) @ rows)
            start += run.examples
        # (examples, heads, hidden) -> (heads, examples, hidden) and back
        values = torch.cat(means).transpose(0, 1) @ weights[:, 2].transpose(1, 2)
        return values.transpose(0, 1) + biases[:, 2]

    def _qkv(self, hidden: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return query, key and value, (heads, rows, 3, head size)."""
        if hidden.requires_grad:
            # Gradients are only ever computed for all heads of a state, so there one product does.
            weight, row = self.qkv_weight[list(heads)], self.qkv_bias[list(heads)]
            every = functional.linear(hidden, weight.flatten(0, 2), row.flatten())
            return every.unflatten(1, (len(heads), 3, self.head_size)).transpose(0, 1)
        # Head by head: a product's rounding may depend on its width, and a head's context must not
        # depend on which other heads are computed beside it. For the same reason each head's block
        # begins at a multiple of 64 bytes: rounding may depend on that as well.
        wide = 3 * self.head_size
        size = len(hidden) * wide
        blocks = hidden.new_empty(len(heads), -(-size // ALIGNED) * ALIGNED)
        found = blocks[:, :size].unflatten(1, (len(hidden), wide))
        for place, head in enumerate(heads):
            weight, row = self.qkv_weight[head].flatten(0, 1), self.qkv_bias[head].flatten()
            torch.addmm(row, hidden, weight.T, out=found[place])
        return found.unflatten(2, (3, self.head_size))

    def project(self, context: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return the output projection of the given heads' context, (rows, hidden)."""
        weight = self.output_weight
        if not heads:
            zeros = context.new_zeros(len(context), weight.shape[0])
            return zeros if self.output_bias is None else zeros + self.output_bias
        if len(heads) < weight.shape[1]:
            weight = weight[:, list(heads)]
        rows = context.contiguous().flatten(1)  # one layout, wherever the context comes from
        return functional.linear(rows, weight.flatten(1), self.output_bias)


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
