"""The known model families."""

from __future__ import annotations

from typing import Any

from torch import nn

from headsearch.errors import ModelError, UnknownFamilyError
from headsearch.heads import HeadMap
from headsearch.model.families.base import AttentionLayer, Family, FeedForward
from headsearch.model.families.bert import BERT, ELECTRA, ROBERTA
from headsearch.model.families.distilbert import DISTILBERT
from headsearch.model.families.mpnet import MPNET

FAMILIES: tuple[Family, ...] = (BERT, ROBERTA, ELECTRA, DISTILBERT, MPNET)

__all__ = [
    "FAMILIES",
    "AttentionLayer",
    "Family",
    "FeedForward",
    "family_of",
    "head_map",
    "max_tokens",
]


def family_of(model: nn.Module) -> Family:
    """Return the family of a sequence classification model.

    Raises:
        UnknownFamilyError: no known family matches the model's modules.
        ModelError: the family is known but the model has no classification head.
    """
    for family in FAMILIES:
        if family.matches(model):
            if not hasattr(model, "classifier"):
                raise ModelError(
                    f"{type(model).__name__} has no classification head: headsearch needs a "
                    "sequence classification model (AutoModelForSequenceClassification)"
                )
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UnknownFamilyError(
        f"{type(model).__name__} is of no known family; the known ones are {known}, "
        "each as a sequence classification model"
    )


def head_map(model: nn.Module) -> HeadMap:
    """Return how many heads each layer of the model has now."""
    return HeadMap(tuple(layer.heads for layer in family_of(model).layers(model)))


def max_tokens(model: nn.Module) -> int:
    """Return the longest input that the model has positions for, in tokens."""
    whole: Any = model
    embeddings = getattr(whole, whole.base_model_prefix).embeddings
    # RoBERTa and MPNet number positions from behind the padding id on, and so have fewer.
    reserved = getattr(embeddings, "padding_idx", -1) + 1
    return int(whole.config.max_position_embeddings) - reserved
