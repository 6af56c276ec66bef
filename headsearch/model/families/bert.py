"""BERT, and RoBERTa and ELECTRA, which share its layers; XLM-R and CamemBERT are RoBERTa's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from headsearch.model.families.base import NO_LIMITS, AttentionLayer, FeedForward
from headsearch.model.families.slicing import narrow_separate


@dataclass(frozen=True)
class BertFamily:
    """Post-norm encoders with `encoder.layer[i].attention.self.query` and so on.

    Attributes:
        name: the family's name.
        base: the attribute of the model that holds the encoder.
        covers: other names of models with the same attribute and layers.
    """

    name: str
    base: str
    covers: tuple[str, ...] = ()
    note = ""
    limits = NO_LIMITS

    def matches(self, model: nn.Module) -> bool:
        encoder = getattr(getattr(model, self.base, None), "encoder", None)
        layers = getattr(encoder, "layer", None)
        return (
            isinstance(layers, nn.ModuleList)
            and len(layers) > 0
            and hasattr(layers[0], "feed_forward_chunk")
            and hasattr(getattr(layers[0].attention, "self", None), "query")
            and not layers[0].is_decoder
        )

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        return [self._layer(block) for block in self._base(model).encoder.layer]

    def embed(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        base = self._base(model)
        hidden: Tensor = base.embeddings(
            input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids")
        )
        if hasattr(base, "embeddings_project"):  # ELECTRA with embeddings smaller than hidden
            hidden = base.embeddings_project(hidden)
        return hidden

    def position_bias(self, model: nn.Module, layer: int, tokens: int) -> Tensor | None:
        return None

    def classify(self, model: nn.Module, hidden: Tensor) -> Tensor:
        whole: Any = model
        pooler = getattr(self._base(model), "pooler", None)
        logits: Tensor = whole.classifier(hidden if pooler is None else pooler(hidden))
        return logits

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        narrow_separate(self.layers(model)[layer], kept)
        attention = self._base(model).encoder.layer[layer].attention.self
        attention.num_attention_heads = len(kept)
        attention.all_head_size = len(kept) * attention.attention_head_size

    def _base(self, model: nn.Module) -> Any:
        return getattr(model, self.base)

    @staticmethod
    def _layer(block: Any) -> AttentionLayer:
        attention = block.attention

        def finish(projected: Tensor, hidden: Tensor) -> Tensor:
            attended = attention.output.LayerNorm(projected + hidden)
            made: Tensor = block.feed_forward_chunk(attended)
            return made

        return AttentionLayer(
            query=attention.self.query,
            key=attention.self.key,
            value=attention.self.value,
            output=attention.output.dense,
            head_size=attention.self.attention_head_size,
            finish=finish,
            feed_forward=FeedForward(block.intermediate, "dense", "intermediate_act_fn"),
        )


BERT = BertFamily("BERT", "bert")
# Their classes are named otherwise; attributes, layers and classifier are RoBERTa's own.
ROBERTA = BertFamily("RoBERTa", "roberta", covers=("XLM-R", "CamemBERT"))
ELECTRA = BertFamily("ELECTRA", "electra")
