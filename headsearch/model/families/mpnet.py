"""MPNet: like BERT, with one relative position bias that all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from headsearch.model.families.base import NO_LIMITS, AttentionLayer, FeedForward
from headsearch.model.families.slicing import narrow_separate


# To mypy the base class is Any: it is set not to look into transformers.
class NarrowMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]  # untyped base
    """Self-attention that has lost heads: takes its own heads' rows of the shared position bias."""

    kept: tuple[int, ...]  # the heads that are left, numbered as in the unpruned model

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As the stock forward, with the bias narrowed to the heads that are left."""
        if position_bias is not None:
            position_bias = position_bias[:, list(self.kept)]
        return super().forward(
            hidden_states, attention_mask, position_bias, output_attentions, **kwargs
        )


class MPNetFamily:
    """Post-norm encoder with `mpnet.encoder.layer[i].attention.attn.q` and so on."""

    name = "MPNet"
    covers = ()
    note = ""
    limits = NO_LIMITS

    def matches(self, model: nn.Module) -> bool:
        encoder = getattr(getattr(model, "mpnet", None), "encoder", None)
        layers = getattr(encoder, "layer", None)
        return (
            isinstance(layers, nn.ModuleList)
            and len(layers) > 0
            and hasattr(layers[0].attention, "attn")
        )

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        whole: Any = model
        return [self._layer(block) for block in whole.mpnet.encoder.layer]

    def embed(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        whole: Any = model
        hidden: Tensor = whole.mpnet.embeddings(input_ids=inputs["input_ids"])
        return hidden

    def position_bias(self, model: nn.Module, layer: int, tokens: int) -> Tensor | None:
        whole: Any = model
        encoder = whole.mpnet.encoder
        like = encoder.relative_attention_bias.weight
        # Only the shape of this argument is read.
        shape = torch.empty((1, tokens), device=like.device)
        bias: Tensor = encoder.compute_position_bias(shape)
        kept = getattr(encoder.layer[layer].attention.attn, "kept", None)
        return bias if kept is None else bias[:, list(kept)]

    def classify(self, model: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = model
        logits: Tensor = whole.classifier(hidden)
        return logits

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        narrow_separate(self.layers(model)[layer], kept)
        whole: Any = model
        attention = whole.mpnet.encoder.layer[layer].attention.attn
        before = getattr(attention, "kept", tuple(range(attention.num_attention_heads)))
        attention.__class__ = NarrowMPNetSelfAttention
        attention.kept = tuple(before[i] for i in kept)
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * attention.attention_head_size

    @staticmethod
    def _layer(block: Any) -> AttentionLayer:
        attention = block.attention

        def finish(projected: Tensor, hidden: Tensor) -> Tensor:
            attended = attention.LayerNorm(projected + hidden)
            made: Tensor = block.output(block.intermediate(attended), attended)
            return made

        return AttentionLayer(
            query=attention.attn.q,
            key=attention.attn.k,
            value=attention.attn.v,
            output=attention.attn.o,
            head_size=attention.attn.attention_head_size,
            finish=finish,
            feed_forward=FeedForward(block.intermediate, "dense", "intermediate_act_fn"),
        )


MPNET = MPNetFamily()
