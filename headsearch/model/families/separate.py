"""Families whose attention is four linear layers and a number of heads: ALBERT, ViT, BART, OPT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.models.deit.modeling_deit import DeiTAttention
from transformers.models.opt.modeling_opt import OPTAttention
from transformers.models.vit.modeling_vit import ViTAttention

from headsearch.model.families.base import STOCK_FORWARD, HeadLayer, OutputProjection
from headsearch.model.families.headless import Headless, make_headless
from headsearch.model.families.slicing import head_rows, modules_at, take_inputs, take_outputs


# To mypy the base class is Any: it is set not to look into transformers.
class HeadlessOptAttention(Headless, OPTAttention):  # type: ignore[misc]  # untyped base
    """OPT's attention without heads."""


class HeadlessViTAttention(Headless, ViTAttention):  # type: ignore[misc]  # untyped base
    """ViT's attention without heads, which ONNX Runtime does not load."""


class HeadlessDeiTAttention(Headless, DeiTAttention):  # type: ignore[misc]  # untyped base
    """DeiT's attention without heads, likewise."""


@dataclass(frozen=True)
class SeparateFamily:
    """Attention with a query, key, value and output projection of equal widths.

    Attributes:
        name, covers, note: see `Family`.
        path: where the attention modules are, see `slicing.modules_at`.
        inputs: names of the query, key and value projections.
        output: name of the output projection.
        head_size: name of the features of one head.
        heads: name of the number of heads.
        without: a path that a model of this family does not have.
        headless: what takes the place of a stock module that fails without heads, if it does, here
            or in ONNX Runtime.
    """

    name: str
    path: str
    inputs: tuple[str, str, str]
    output: str
    head_size: str
    heads: str
    without: str | None = None
    headless: type | None = None
    covers: tuple[str, ...] = ()
    note: str = ""
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        found = modules_at(model, self.path)
        without = self.without is not None and modules_at(model, self.without)
        return bool(found) and not without and all(map(self._is_one, found))

    def layers(self, model: nn.Module) -> Sequence[HeadLayer]:
        found = []
        for attention in modules_at(model, self.path):
            output, size = getattr(attention, self.output), getattr(attention, self.head_size)
            found.append(OutputProjection(output, output.in_features // size, size))
        return found

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = modules_at(model, self.path)[layer]
        rows = head_rows(kept, getattr(attention, self.head_size))
        for name in self.inputs:
            take_outputs(getattr(attention, name), rows)
        take_inputs(getattr(attention, self.output), rows)
        setattr(attention, self.heads, len(kept))
        if self.headless is not None and not kept:
            make_headless(attention, self.output, self.headless)

    def _is_one(self, attention: Any) -> bool:
        children = dict(attention.named_children())
        linear = all(
            isinstance(children.get(name), nn.Linear) for name in (*self.inputs, self.output)
        )
        return (
            linear
            and type(attention).__name__ not in OTHERWISE
            and not list(attention.parameters(recurse=False))
            and {children[name].out_features for name in self.inputs}
            == {children[self.output].in_features}
            and hasattr(attention, self.head_size)
            and hasattr(attention, self.heads)
        )


# Attention modules that look alike but can't be narrowed alike: this one's width is fixed.
OTHERWISE = ("MvpAttention",)
# OPT's and BART's names of the projections.
_INPUTS = ("q_proj", "k_proj", "v_proj")

ALBERT = SeparateFamily(
    name="ALBERT",
    # One attention module serves many passes, so a head is in all of them or in none.
    path="albert.encoder.albert_layer_groups.*.albert_layers.*.attention",
    inputs=("query", "key", "value"),
    output="dense",
    head_size="attention_head_size",
    heads="num_attention_heads",
    note="a layer is a physical one: its heads are shared by all passes through it",
)
VIT = SeparateFamily(
    name="ViT",
    path="vit.layers.*.attention",
    inputs=_INPUTS,
    output="o_proj",
    head_size="head_dim",
    heads="num_attention_heads",
    headless=HeadlessViTAttention,
    note="reads `pixel_values`",
)
DEIT = replace(VIT, name="DeiT", path="deit.layers.*.attention", headless=HeadlessDeiTAttention)
BART = SeparateFamily(
    name="BART",
    path="model.encoder.layers.*.self_attn",
    inputs=_INPUTS,
    output="out_proj",
    head_size="head_dim",
    heads="num_heads",
    note="heads of the encoder's self-attention alone",
)
OPT = SeparateFamily(
    name="OPT",
    path="model.decoder.layers.*.self_attn",
    without="model.decoder.layers.*.encoder_attn",  # the decoder of BART and its like
    inputs=_INPUTS,
    output="out_proj",
    head_size="head_dim",
    heads="num_heads",
    headless=HeadlessOptAttention,
)
