"""GPT-2: a decoder with query, key and value in one `Conv1D`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.pytorch_utils import Conv1D

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.headless import Headless, make_headless
from headsearch.model.families.slicing import (
    fused_rows,
    head_rows,
    modules_at,
    take_inputs,
    take_outputs,
)


# To mypy the base class is Any: it is set not to look into transformers.
class HeadlessGpt2Attention(Headless, GPT2Attention):  # type: ignore[misc]  # untyped base
    """GPT-2's attention without heads."""


class Gpt2Family:
    """Decoder with `transformer.h[i].attn.c_attn` and `c_proj`."""

    name = "GPT-2"
    covers = ()
    note = ""
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = modules_at(model, "transformer.h.*.attn")
        return bool(found) and all(
            hasattr(own, "head_dim")  # which that of the first GPT has not
            and all(isinstance(getattr(own, name, None), Conv1D) for name in ("c_attn", "c_proj"))
            for own in found
        )

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        return [
            OutputProjection(own.c_proj, own.c_proj.nx // own.head_dim, own.head_dim)
            for own in modules_at(model, "transformer.h.*.attn")
        ]

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention: Any = modules_at(model, "transformer.h.*.attn")[layer]
        size = attention.head_dim
        take_outputs(attention.c_attn, fused_rows(kept, size, attention.c_attn.nf))
        take_inputs(attention.c_proj, head_rows(kept, size))
        attention.num_heads = len(kept)
        attention.split_size = len(kept) * size
        if not kept:
            make_headless(attention, "c_proj", HeadlessGpt2Attention)


GPT2 = Gpt2Family()
