"""Which class of transformers a model is of, and which of its loaders finds it."""

from __future__ import annotations

import pytest
import transformers
from torch import nn

from headsearch.errors import ModelError
from headsearch.model.stock import auto_class, stock_class


class Own(transformers.BertForSequenceClassification):
    """A class of a user's own."""


def test_the_nearest_class_of_transformers() -> None:
    stock = transformers.BertForSequenceClassification
    assert stock_class(stock) is stock_class(Own) is stock
    with pytest.raises(ModelError, match="Linear is not a class of transformers"):
        stock_class(nn.Linear)


@pytest.mark.parametrize(
    ("kind", "loader"),
    [
        ("BertForSequenceClassification", "AutoModelForSequenceClassification"),
        ("BertForTokenClassification", "AutoModelForTokenClassification"),
        ("RobertaForMaskedLM", "AutoModelForMaskedLM"),
        ("GPT2LMHeadModel", "AutoModelForCausalLM"),
        ("BartForConditionalGeneration", "AutoModelForSeq2SeqLM"),
        ("ViTForImageClassification", "AutoModelForImageClassification"),
    ],
)
def test_the_loader_of_a_class(kind: str, loader: str) -> None:
    assert auto_class(getattr(transformers, kind)) == loader


def test_a_class_without_a_loader() -> None:
    with pytest.raises(ModelError, match="no AutoModelFor"):
        auto_class(transformers.BertPreTrainedModel)
