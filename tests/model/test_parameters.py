"""Counted parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForSequenceClassification

from headsearch.heads import HeadSet
from headsearch.model.families import head_map, least_first
from headsearch.model.narrow import narrowed
from headsearch.model.parameters import parameters, parameters_saved
from tests.tiny import SPECS, tiny_model
from tests.tiny_families import GROUPED


@pytest.fixture(params=sorted(SPECS), name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_model(request.param)


def test_parameters_saved_are_those_that_a_narrow_model_lacks(model: nn.Module) -> None:
    shape, whole = head_map(model), sum(p.numel() for p in model.parameters())
    table = parameters_saved(model)
    assert parameters(model) == whole
    for layer in range(shape.layers):
        for count in range(shape.heads_per_layer[layer] + 1):
            last = [shape.index(layer, 3 - i) for i in range(count)]  # whichever they are
            smaller = narrowed(model, HeadSet.of(last))
            assert table[layer][count] == whole - sum(p.numel() for p in smaller.parameters())


def test_counting_parameters_leaves_the_model_alone(model: nn.Module) -> None:
    parameters_saved(model)
    assert head_map(model).total == 12
    assert not hasattr(model.config, "headsearch")
    assert all(p.device.type == "cpu" for p in model.parameters())


@pytest.mark.parametrize(
    ("heads", "shared"),
    [(12, 4), (12, 2), (14, 2), (6, 1), pytest.param(24, 8, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("before", [(), (0, 1, 4)])
def test_of_heads_that_share_keys_as_many_are_saved_at_least_as_any_choice_saves(
    heads: int, shared: int, before: tuple[int, ...]
) -> None:
    settings = {**GROUPED, "num_attention_heads": heads, "num_key_value_heads": shared}
    settings |= {"hidden_size": heads * 2, "head_dim": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    model = narrowed(LlamaForSequenceClassification(LlamaConfig(**settings)), HeadSet.of(before))
    (table,), whole = parameters_saved(model), parameters(model)
    left = heads - len(before)
    assert len(table) == left + 1
    random = np.random.default_rng(0)
    for count in range(left + 1):
        choices = [random.choice(left, count, replace=False) for _ in range(20)]
        choices += [np.arange(count), np.arange(left)[::-1][:count], least_first(model)[0][:count]]
        saved = [
            whole - parameters(narrowed(model, HeadSet.of(int(j) for j in choice)))
            for choice in choices
        ]
        assert table[count] == min(saved) == saved[-1]
