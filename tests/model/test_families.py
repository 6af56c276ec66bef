"""The families with the fast path, by values that were worked out without the conformance suite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, XLNetConfig, XLNetForSequenceClassification

from headsearch.errors import ModelError, UnknownFamilyError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import (
    FAMILIES,
    FAST_PATH,
    family_of,
    fast_family_of,
    head_map,
    max_tokens,
)
from headsearch.model.gate import gates, removed_heads
from headsearch.model.narrow import narrowed
from headsearch.model.plain import plain_outputs
from tests.tiny import SPECS, tiny_data, tiny_model

# Some heads; one whole layer; all but one head; every head.
REMOVED = (
    HeadSet.of([1, 6, 11]),
    HeadSet.of([0, 4, 5, 6, 7]),
    HeadSet.of(range(11)),
    HeadSet.of(range(12)),
)


@pytest.fixture(params=sorted(SPECS), name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_model(request.param).double()


def reference_without_heads(model: nn.Module, removed: HeadSet) -> nn.Module:
    """An independent removal: zero the columns of each output projection's weight by hand."""
    shape = head_map(model)
    for layer, parts in enumerate(family_of(model).layers(model)):
        for head in shape.in_layer(removed, layer):
            columns = slice(head * parts.head_size, (head + 1) * parts.head_size)
            with torch.no_grad():
                parts.output.weight[:, columns] = 0.0
    return model


def test_every_family_with_the_fast_path_has_a_tiny_model(model: nn.Module) -> None:
    assert {family.name for family in FAMILIES if FAST_PATH not in family.limits} == set(SPECS)
    assert fast_family_of(model) is family_of(model)


def test_each_model_is_of_exactly_its_own_family(model: nn.Module) -> None:
    matching = [family.name for family in FAMILIES if family.matches(model)]
    assert matching == [family_of(model).name]
    assert head_map(model) == HeadMap((4, 4, 4))


@pytest.mark.parametrize("removed", REMOVED)
def test_gate_equals_zeroed_projection_in_float64(model: nn.Module, removed: HeadSet) -> None:
    data = tiny_data(model)
    gated = _float64_outputs(model, data, removed)
    model_without = reference_without_heads(model, removed)
    expected = _float64_outputs(model_without, data, HeadSet())
    np.testing.assert_allclose(gated, expected, rtol=0, atol=1e-12)


def test_float32_gate_is_within_1e6_of_the_float64_reference(model: nn.Module) -> None:
    data, removed = tiny_data(model), REMOVED[0]
    expected = _float64_outputs(model, data, removed)
    found = plain_outputs(model.float(), data.batches, removed)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)


def test_every_single_head_has_an_effect(model: nn.Module) -> None:
    data = tiny_data(model)
    whole = _float64_outputs(model, data, HeadSet())
    for head in range(12):
        without = _float64_outputs(model, data, HeadSet.of([head]))
        assert np.abs(without - whole).max() > 1e-4, f"head {head} has no effect"


@pytest.mark.parametrize("removed", REMOVED)
def test_narrowing_equals_the_gate_in_float64(model: nn.Module, removed: HeadSet) -> None:
    data = tiny_data(model)
    small = narrowed(model, removed)
    found = _float64_outputs(small, data, HeadSet())
    np.testing.assert_allclose(found, _float64_outputs(model, data, removed), rtol=0, atol=1e-9)
    shape = head_map(model)
    left = tuple(len(shape.kept(removed, layer)) for layer in range(3))
    assert head_map(small).heads_per_layer == left
    assert head_map(model) == shape, "the model itself must stay as it is"


def test_narrowing_twice_equals_narrowing_once(model: nn.Module) -> None:
    # Removing 1 and 6 of the whole model leaves 0 2 3 | 4 5 7 | 8 …, so that its old heads 5 and
    # 11 are then number 4 and 9.
    twice = narrowed(narrowed(model, HeadSet.of([1, 6])), HeadSet.of([4, 9]))
    once = narrowed(model, HeadSet.of([1, 5, 6, 11]))
    assert twice.config.headsearch == once.config.headsearch
    for (name, left), (_, right) in zip(
        twice.state_dict().items(), once.state_dict().items(), strict=True
    ):
        assert torch.equal(left, right), name
    data = tiny_data(model)
    np.testing.assert_array_equal(
        _float64_outputs(twice, data, HeadSet()), _float64_outputs(once, data, HeadSet())
    )


def test_gates_may_differ_between_examples(model: nn.Module) -> None:
    batch = tiny_data(model).batches[0]
    values = [torch.ones(batch.examples, 4, dtype=torch.float64) for _ in range(3)]
    values[1][2, 3] = 0.0  # the third example loses head (1, 3)
    inputs = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
    with torch.inference_mode(), gates(model, values):
        found = model(**inputs).logits
    with torch.inference_mode():
        whole = model(**inputs).logits
        with removed_heads(model, HeadSet.of([7])):
            without = model(**inputs).logits
    assert torch.allclose(found[2], without[2], atol=1e-12)
    others = [0, 1, 3, 4]
    assert torch.allclose(found[others], whole[others], atol=1e-12)


def test_gates_are_gone_after_the_context_even_after_an_error(model: nn.Module) -> None:
    data = tiny_data(model)
    before = _float64_outputs(model, data, HeadSet())
    with pytest.raises(ZeroDivisionError), removed_heads(model, REMOVED[1]):
        _ = 1 / 0
    np.testing.assert_array_equal(_float64_outputs(model, data, HeadSet()), before)


def test_longest_input_fits_and_one_more_token_does_not(model: nn.Module) -> None:
    tokens = max_tokens(model)
    ids = torch.full((1, tokens), 7)
    with torch.inference_mode():
        assert model(input_ids=ids).logits.shape == (1, 3)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, tokens + 1), 7))


def test_unknown_family_lists_the_known_ones() -> None:
    config = XLNetConfig(vocab_size=10, d_model=8, n_layer=1, n_head=2, d_inner=8)
    with pytest.raises(UnknownFamilyError) as caught:
        family_of(XLNetForSequenceClassification(config))
    for family in FAMILIES:
        for name in (family.name, *family.covers):
            assert name in str(caught.value)


def test_bare_encoder_is_refused() -> None:
    config = BertConfig(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    with pytest.raises(ModelError, match="sequence classification"):
        family_of(BertModel(config))


def _float64_outputs(model: nn.Module, data, removed: HeadSet) -> np.ndarray:
    """The stock forward under gates, kept in float64."""
    parts = []
    with torch.inference_mode(), removed_heads(model, removed):
        for batch in data.batches:
            inputs = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
            parts.append(model(**inputs).logits.numpy())
    return np.concatenate(parts)
