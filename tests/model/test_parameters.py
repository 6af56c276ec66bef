"""Counted parameters."""

from __future__ import annotations

import pytest
from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.model.parameters import parameters, parameters_saved
from tests.tiny import SPECS, tiny_model


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
