"""Measured times of attention, and counted parameters."""

from __future__ import annotations

import pytest
from torch import nn

from headsearch.heads import HeadSet
from headsearch.model import timing
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.model.parameters import parameters, parameters_saved
from headsearch.model.timing import attention_times
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


def test_times_of_layers_alike_are_alike_and_never_fall(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 3)
    table = attention_times(model, batch=4, tokens=16)
    assert [len(row) for row in table] == [5, 5, 5]
    assert table[0] == table[1] == table[2]
    assert table[0][0] == 0
    assert table[0] == sorted(table[0])
    assert table[0][4] > 0, "attention takes more time than none"


def test_noise_is_evened_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five medians, of 0 to 4 heads, of which the third is too large."""
    monkeypatch.setattr(timing, "_times", lambda *_: [1e-6, 10e-6, 40e-6, 30e-6, 50e-6])
    # 40 and 30 are the same time, 35, for all that is known: 50 - 50, 50 - 35, 50 - 35, …
    assert attention_times(tiny_model("BERT"), 1, 1)[0] == [0, 15, 15, 40, 49]
