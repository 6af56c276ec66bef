"""Llama, Mistral, Qwen2 and Qwen3: decoders whose query heads share keys and values in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.headless import Headless, make_headless
from headsearch.model.families.slicing import head_rows, modules_at, take_inputs, take_outputs


class SpreadLinear(nn.Linear):
    """A key or value projection whose heads go to uneven groups of query heads.

    The stock attention repeats every key-value head equally often. Where groups have 4 and 2 query
    heads left, it repeats each twice, and the first group's head is put out two times here. The
    weights are kept once, so a narrow model is never larger than the whole one.

    Attributes:
        copies: how often each head is put out.
    """

    copies: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., sum of copies * head size)."""
        made = super().forward(input)
        by_head = made.view(*made.shape[:-1], len(self.copies), -1)
        places = [head for head, count in enumerate(self.copies) for _ in range(count)]
        return by_head[..., places, :].flatten(-2)


# To mypy the base classes are Any: it is set not to look into transformers.
class HeadlessLlamaAttention(Headless, LlamaAttention):  # type: ignore[misc]  # untyped base
    """Llama's attention without heads."""


class HeadlessMistralAttention(Headless, MistralAttention):  # type: ignore[misc]  # untyped base
    """Mistral's attention without heads."""


class HeadlessQwen2Attention(Headless, Qwen2Attention):  # type: ignore[misc]  # untyped base
    """Qwen2's attention without heads."""


class HeadlessQwen3Attention(Headless, Qwen3Attention):  # type: ignore[misc]  # untyped base
    """Qwen3's attention without heads."""


_HEADLESS = (
    HeadlessLlamaAttention,
    HeadlessMistralAttention,
    HeadlessQwen2Attention,
    HeadlessQwen3Attention,
)


class LlamaFamily:
    """Decoders with `model.layers[i].self_attn` and key-value heads that are shared by groups.

    The unit is a query head. Keys and values of a group go when all of its query heads are gone.
    """

    name = "Llama"
    covers = ("Mistral", "Qwen2", "Qwen3")
    note = "a head is a query head; keys and values go with the last query head of their group"
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = modules_at(model, "model.layers.*.self_attn")
        return bool(found) and all(map(_is_one, found))

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        return [
            OutputProjection(own.o_proj, own.o_proj.in_features // own.head_dim, own.head_dim)
            for own in modules_at(model, "model.layers.*.self_attn")
        ]

    def groups(self, model: nn.Module, layer: int) -> Sequence[int]:
        """Return of every head which others it shares keys and values with."""
        return _groups(modules_at(model, "model.layers.*.self_attn")[layer])

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = modules_at(model, "model.layers.*.self_attn")[layer]
        before = _groups(attention)
        groups = [before[head] for head in kept]  # of every head left, its key-value head
        used = sorted(set(groups))
        rows, shared = (head_rows(tuple(x), attention.head_dim) for x in (kept, used))
        take_outputs(attention.q_proj, rows)
        take_inputs(attention.o_proj, rows)
        sizes = [groups.count(group) for group in used]
        # The most that one key-value head can be repeated by the stock attention.
        repeats = math.gcd(*sizes) or 1
        copies = tuple(size // repeats for size in sizes)
        for projection in (attention.k_proj, attention.v_proj):
            take_outputs(projection, shared)
            projection.__class__ = SpreadLinear if max(copies, default=1) > 1 else nn.Linear
            projection.copies = copies
        attention.num_key_value_groups = repeats
        counts = {"num_heads": len(kept), "num_key_value_heads": sum(copies)}
        for name in counts.keys() & vars(attention).keys():  # StableLM's forward reads them
            setattr(attention, name, counts[name])
        if not kept:
            make_headless(attention, "o_proj", *_HEADLESS)


def _is_one(attention: Any) -> bool:
    """Whether query heads are as wide as the output reads and norms, if any, are for each head."""
    children = dict(attention.named_children())
    norms = [child for name, child in children.items() if name in ("q_norm", "k_norm")]
    linear = {"q_proj", "k_proj", "v_proj", "o_proj"}
    return (
        linear <= set(children) <= linear | {"q_norm", "k_norm"}
        # What it has of its own may be of each head, as GPT-OSS's sinks are.
        and not list(attention.parameters(recurse=False))
        and all(isinstance(children[name], nn.Linear) for name in linear)
        and hasattr(attention, "num_key_value_groups")
        and attention.q_proj.out_features == attention.o_proj.in_features
        and all(_size_of(norm) == (attention.head_dim,) for norm in norms)
    )


def _size_of(norm: nn.Module) -> tuple[int, ...] | None:
    weight = getattr(norm, "weight", None)  # some norms have none
    return None if weight is None else tuple(weight.shape)


def _groups(attention: Any) -> list[int]:
    """Return of every query head its key-value head, both numbered as they are now."""
    own = attention.k_proj.out_features // attention.head_dim
    copies = getattr(attention.k_proj, "copies", (1,) * own)
    return [
        group
        for group, count in enumerate(copies)
        for _ in range(count * attention.num_key_value_groups)
    ]


LLAMA = LlamaFamily()
