"""DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from headsearch.model.families.base import NO_LIMITS, AttentionLayer, FeedForward
from headsearch.model.families.slicing import narrow_separate


class DistilBertFamily:
    """Post-norm encoder with `distilbert.transformer.layer[i].attention.q_lin` and so on."""

    name = "DistilBERT"
    covers = ()
    note = ""
    limits = NO_LIMITS

    def matches(self, model: nn.Module) -> bool:
        layers = getattr(
            getattr(getattr(model, "distilbert", None), "transformer", None), "layer", None
        )
        return (
            isinstance(layers, nn.ModuleList)
            and len(layers) > 0
            and hasattr(layers[0].attention, "q_lin")
        )

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        whole: Any = model
        return [self._layer(block) for block in whole.distilbert.transformer.layer]

    def embed(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        whole: Any = model
        hidden: Tensor = whole.distilbert.embeddings(inputs["input_ids"])
        return hidden

    def position_bias(self, model: nn.Module, layer: int, tokens: int) -> Tensor | None:
        return None

    def classify(self, model: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = model
        logits: Tensor = whole.classifier(whole.pre_classifier(hidden[:, 0]).relu())
        return logits

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        narrow_separate(self.layers(model)[layer], kept)
        whole: Any = model
        whole.distilbert.transformer.layer[layer].attention.n_heads = len(kept)

    @staticmethod
    def _layer(block: Any) -> AttentionLayer:
        attention = block.attention

        def finish(projected: Tensor, hidden: Tensor) -> Tensor:
            attended = block.sa_layer_norm(projected + hidden)
            made: Tensor = block.output_layer_norm(block.ffn.ff_chunk(attended) + attended)
            return made

        return AttentionLayer(
            query=attention.q_lin,
            key=attention.k_lin,
            value=attention.v_lin,
            output=attention.out_lin,
            head_size=attention.attention_head_size,
            finish=finish,
            feed_forward=FeedForward(block.ffn, "lin1", "activation"),
        )


DISTILBERT = DistilBertFamily()
