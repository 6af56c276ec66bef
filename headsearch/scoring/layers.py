"""A model's attention layers with fused projections, run on any subset of their heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch.model.families import AttentionLayer
from headsearch.scoring.attention import attention
from headsearch.scoring.packing import Packing
from headsearch.scoring.products import independent, product

# A head's features come in multiples of this, so that each example's begin where vector units
# like it: rounding may depend on that as well.
WIDE = 16


@dataclass(frozen=True)
class FusedLayer:
    """One attention layer, its weights laid out head by head so that heads can be picked.

    Attributes:
        head_size: features of one head.
        qkv_weight: (heads, 3, wide, hidden), where wide is the head size, with zeros filled up to
            a multiple of `WIDE`.
        qkv_bias: (heads, 3, wide).
        output_weight: (hidden, heads, head size).
        output_bias: (hidden,) or None.
        finish: what comes after the output projection, see `AttentionLayer`.
        by_head: whether a head's query, key and value have to be computed for themselves, for the
            rounding of a product may depend on its width, and a head's context must not depend on
            which other heads are computed beside it.
    """

    head_size: int
    qkv_weight: Tensor
    qkv_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor | None
    finish: Callable[[Tensor, Tensor], Tensor]
    by_head: bool

    def attend(
        self, hidden: Tensor, heads: tuple[int, ...], packing: Packing, bias: Tensor | None
    ) -> Tensor:
        """Return the context of the given heads, (rows, heads, head size).

        Args:
            hidden: the layer's input, (rows, hidden).
            heads: which heads to compute; no arithmetic is spent on the others.
            packing: which rows belong together.
            bias: added to the scores, (1 or examples, 1 or all heads, 1 or tokens, tokens), or
                None.
        """
        if not heads:
            return hidden.new_zeros(len(hidden), 0, self.head_size)
        query, key, value = self.query_key_value(hidden, heads).unbind(2)
        added = bias if bias is None or bias.shape[1] == 1 else pick(bias, heads, 1)
        found = attention(query, key, value, packing, scale=self._scale, bias=added)
        return found[..., : self.head_size]

    def attend_padded(
        self, hidden: Tensor, heads: tuple[int, ...], packing: Packing, bias: Tensor
    ) -> Tensor:
        """Return the same for examples of one length, by plain products, in few steps.

        Args:
            hidden, heads, packing: see `attend`.
            bias: added to the scores, (1 or examples, 1 or all heads, 1 or tokens, tokens).
        """
        if not heads:
            return hidden.new_zeros(len(hidden), 0, self.head_size)
        ((run, made),) = packing.split(self.query_key_value(hidden, heads))
        # (examples, tokens, heads, 3, wide) -> 3 x (examples, heads, tokens, wide)
        query, key, value = made.permute(3, 0, 2, 1, 4).contiguous().flatten(1, 2)
        scores = (query @ key.transpose(1, 2)).view(run.examples, -1, run.tokens, run.tokens)
        added = bias if bias.shape[1] == 1 else pick(bias, heads, 1)
        weights = torch.add(added, scores, alpha=self._scale).softmax(-1).flatten(0, 1)
        context = (weights @ value).view(run.examples, len(heads), run.tokens, -1)
        return packing.fill([context.transpose(1, 2).flatten(0, 1)])[..., : self.head_size]

    def attend_first(self, hidden: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Return the context of all heads for first tokens, (examples and more, heads, head size).

        With one query for each example, keys and values need not be computed: q . (W x) is
        (q W) . x, and a weighted mean of values W x + b is W times the mean of x, plus b. A key's
        bias adds the same to all scores of a query, and so changes nothing.

        Args:
            hidden: the layer's input, (rows, hidden).
            packing: which rows belong together.
            bias: added to the scores, (1 or examples, 1 or all heads, 1 or tokens, tokens), or
                None.
        """
        weights, biases = self.qkv_weight, self.qkv_bias
        if not len(weights):
            return hidden.new_zeros(len(packing.first), 0, self.head_size)
        query = self._first_queries(hidden, packing)
        # (heads, examples, hidden) -> (examples, heads, hidden)
        asked = ((query * self._scale).transpose(0, 1) @ weights[:, 1]).transpose(0, 1)
        means, start = [], 0
        for run, rows in packing.split(hidden):
            scores = asked[start : start + run.examples] @ rows.transpose(1, 2)
            if bias is not None:
                scores = scores + bias[:, :, 0, : run.tokens]
            means.append(scores.softmax(-1) @ rows)
            start += run.examples
        # (examples, heads, hidden) -> (heads, examples, hidden) and back
        values = packing.fill_examples(means).transpose(0, 1) @ weights[:, 2].transpose(1, 2)
        return (values.transpose(0, 1) + biases[:, 2])[..., : self.head_size]

    def attend_first_by_keys(self, hidden: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Return the same, with keys and values computed.

        That is more arithmetic, but all of it in products that have as many rows as there are
        tokens or examples, in any order; batched ones are of one example each.

        Args:
            hidden, packing, bias: see `attend_first`.
        """
        weights, biases = self.qkv_weight, self.qkv_bias
        if not len(weights):
            return hidden.new_zeros(len(packing.first), 0, self.head_size)
        query = self._first_queries(hidden, packing)
        made = product(hidden, weights[:, 1:].flatten(0, 2), biases[:, 1:].flatten())
        key, value = made.view(-1, *biases[:, 1:].shape).unbind(2)
        found = attention(query, key, value, packing, scale=self._scale, bias=bias, first=True)
        return found[..., : self.head_size]

    def _first_queries(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Return all heads' queries of first tokens, (examples and more, heads, wide)."""
        weight, row = self.qkv_weight[:, 0], self.qkv_bias[:, 0]
        return product(hidden[packing.first], weight.flatten(0, 1), row.flatten()).view(
            -1, *row.shape
        )

    @property
    def _scale(self) -> float:
        return 1.0 / math.sqrt(self.head_size)

    def query_key_value(self, hidden: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return query, key and value, (rows, heads, 3, wide)."""
        one_by_one = self.by_head and not hidden.requires_grad
        groups = [(head,) for head in heads] if one_by_one else [heads]
        parts = []
        for group in groups:
            weight, row = self.qkv_weight, self.qkv_bias
            if len(group) < len(weight):
                weight, row = pick(weight, group, 0), pick(row, group, 0)
            made = product(hidden, weight.flatten(0, 2), row.flatten())
            parts.append(made.view(-1, *row.shape))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def project(self, context: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Return the output projection of the given heads' context, (rows, hidden)."""
        weight = self.output_weight
        if not heads:
            zeros = context.new_zeros(len(context), weight.shape[0])
            return zeros if self.output_bias is None else zeros + self.output_bias
        if len(heads) < weight.shape[1]:
            weight = pick(weight, heads, 1)
        rows = context.contiguous().flatten(1)  # one layout, wherever the context comes from
        return product(rows, weight.flatten(1), self.output_bias)


def pick(tensor: Tensor, places: Sequence[int], dim: int) -> Tensor:
    """Return a copy of some slices of a tensor, as an index would; a GPU need not be waited for."""
    if not places:
        return tensor.narrow(dim, 0, 0)
    runs: list[list[int]] = []  # [first, how many] of neighbours
    for place in places:
        if runs and place == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return torch.cat([tensor.narrow(dim, first, count) for first, count in runs], dim)


def fuse(layer: AttentionLayer) -> FusedLayer:
    """Lay a layer's weights out head by head; the projections' weights are copied."""
    heads, size = layer.heads, layer.head_size

    def by_head(tensor: Tensor | None, like: Tensor) -> Tensor:
        found = like.new_zeros(heads, -(-size // WIDE) * WIDE, *like.shape[1:])
        if tensor is not None:
            found[:, :size] = tensor.detach().view(heads, size, *tensor.shape[1:])
        return found

    projections = (layer.query, layer.key, layer.value)
    output = layer.output
    weight = torch.stack([by_head(p.weight, p.weight) for p in projections], dim=1)
    return FusedLayer(
        head_size=size,
        qkv_weight=weight,
        qkv_bias=torch.stack([by_head(p.bias, p.weight[:, 0]) for p in projections], dim=1),
        output_weight=output.weight.detach().view(output.out_features, heads, size),
        output_bias=None if output.bias is None else output.bias.detach(),
        finish=layer.finish,
        by_head=not independent(weight.flatten(0, 2)),
    )
