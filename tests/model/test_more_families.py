"""What is particular to the families that the stock forward scores."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from headsearch.errors import ModelError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import (
    family_of,
    fast_family_of,
    head_map,
    kind_of,
    max_tokens,
)
from headsearch.model.families.llama import SpreadLinear
from headsearch.model.gate import removed_heads
from headsearch.model.narrow import narrowed, why_not_empty
from headsearch.model.samples import logits_of, sample_inputs
from headsearch.testing.subject import logits
from tests.tiny_families import BART, CASES, GPT2, GROUPED, IMAGE, batches_for, case, lively


def narrow_llama(*removed: int) -> nn.Module:
    """Two layers of 8 query heads, 4 for each of 2 key-value heads, of 4 features each."""
    return narrowed(case("Llama")[0], HeadSet.of(removed))


def key_heads(model: nn.Module, layer: int) -> int:
    return model.model.layers[layer].self_attn.k_proj.weight.shape[0] // 4


def test_keys_and_values_go_with_the_last_query_head_of_their_group() -> None:
    whole = case("Llama")[0].model.layers[0].self_attn.v_proj.weight
    assert key_heads(narrow_llama(0, 1, 2), 0) == 2
    small = narrow_llama(0, 1, 2, 3)
    assert key_heads(small, 0) == 1
    assert torch.equal(small.model.layers[0].self_attn.v_proj.weight, whole[4:])
    assert key_heads(small, 1) == 2, "the other layer stays as it is"


@pytest.mark.parametrize(
    ("removed", "repeats", "copies"),
    [
        ((0, 4), 3, (1, 1)),  # 3 and 3 query heads are left
        ((0, 1), 2, (1, 2)),  # 2 and 4
        ((0, 1, 2), 1, (1, 4)),  # 1 and 4
        ((0, 1, 2, 3, 5), 3, (1,)),  # none and 3
    ],
)
def test_uneven_groups_share_without_a_copy_of_the_weights(
    removed: tuple[int, ...], repeats: int, copies: tuple[int, ...]
) -> None:
    attention = narrow_llama(*removed).model.layers[0].self_attn
    assert attention.num_key_value_groups == repeats
    assert attention.k_proj.copies == copies
    assert isinstance(attention.k_proj, SpreadLinear) == (max(copies) > 1)
    assert attention.k_proj.weight.shape[0] == 4 * len(copies)


def test_albert_has_one_layer_for_each_physical_one() -> None:
    assert case("ALBERT")[0].config.num_hidden_layers == 3
    assert head_map(case("ALBERT")[0]) == HeadMap((4,))
    assert head_map(case("ALBERT, two groups of two layers")[0]) == HeadMap((4,) * 4)
    assert "shared" in family_of(case("ALBERT")[0]).note


@pytest.mark.parametrize("name", ["BART", "T5", "BART, generating", "T5, generating"])
def test_the_decoder_is_left_alone(name: str) -> None:
    model = case(name)[0]
    small = narrowed(model, head_map(model).full)
    left = {key: value for key, value in small.state_dict().items() if "decoder" in key}
    assert left
    for key, value in left.items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_narrow_t5_heeds_the_mask_where_transformers_has_it_in_the_first_layers_bias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So it is up to 5.14, which may load what is saved here."""
    model: Any = copy.deepcopy(case("T5")[0]).double()
    model.set_attn_implementation("eager")
    inputs = sample_inputs(model, 4, 9, padded=True)
    removed = HeadSet.of([1, 6])
    with removed_heads(model, removed):
        expected = logits_of(model, inputs)
    stock = T5Attention.forward

    def forward(
        own: Any, states: Tensor, mask: Tensor | None = None, *args: Any, **named: Any
    ) -> Any:
        if hasattr(own, "is_causal"):  # a decoder's
            return stock(own, states, mask, *args, **named)
        keys, named["position_bias"] = args or (None, named.get("position_bias"))
        if named["position_bias"] is not None:
            return stock(own, states, None, keys, **named)
        made = stock(own, states, mask, keys, **named)
        return (made[0], made[1] + mask, *made[2:])

    small: Any = narrowed(model, removed)
    monkeypatch.setattr(T5Attention, "forward", forward)
    for block in small.transformer.encoder.block:
        del block.layer[0].SelfAttention.is_causal
    np.testing.assert_allclose(logits_of(small, inputs), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["GPT-2, causal", "OPT, causal", "Llama, causal"])
@pytest.mark.parametrize("removed", ["some", "first layer", "all"])
def test_generation_with_a_cache_equals_that_without(name: str, removed: str) -> None:
    """transformers counts tokens by the cache of one layer: an empty one must not lose count."""
    model, _ = case(name)
    shape = head_map(model)
    first = range(shape.heads_per_layer[0])
    heads = {"some": HeadSet.of([1, 6]), "first layer": HeadSet.of(first), "all": shape.full}
    small = narrowed(model, heads[removed]).double()
    ids = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(ids)
    cached = small.generate(ids, attention_mask=mask, use_cache=True, **options)
    plain = small.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached, plain)
    with torch.inference_mode():
        prefix = small(input_ids=ids[:, :3], use_cache=True)
        last = small(input_ids=ids[:, 3:], past_key_values=prefix.past_key_values).logits
        whole = small(input_ids=ids, use_cache=False).logits
    np.testing.assert_allclose(last[:, -1], whole[:, -1], rtol=0, atol=1e-6)


def test_an_unknown_cached_attention_is_not_emptied_in_silence() -> None:
    """It would generate by wrong positions; Gemma's layers look like Llama's."""
    config = transformers.GemmaConfig(**GROUPED)
    model = transformers.GemmaForSequenceClassification(config).eval()
    assert family_of(model).name == "Llama"
    assert head_map(narrowed(model, HeadSet.of([0]))) == HeadMap((7, 8))
    with pytest.raises(ModelError, match="GemmaAttention can't lose all of its heads"):
        narrowed(model, head_map(model).full)
    why_not_empty(model)
    assert head_map(model) == HeadMap((8, 8))  # only a copy was tried
    assert why_not_empty(case("Llama")[0]) is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("GemmaForSequenceClassification", GROUPED),
        ("EuroBertForSequenceClassification", GROUPED),  # without a cache
        ("ViTMSNForImageClassification", IMAGE),
    ],
)
def test_why_a_layer_can_not_be_emptied_is_known_before(
    name: str, settings: dict[str, Any]
) -> None:
    stem = name.split("For")[0]
    assert why_not_empty(lively(name, settings)) == (
        f"a {stem}Attention can't lose all of its heads: headsearch knows no headless form of it"
    )


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPT-2", "T5", "BART"])
def test_narrowing_equals_the_gate_under_eager_attention_too(name: str) -> None:
    """It repeats keys and values, and adds masks, by code of its own."""
    model, batches = copy.deepcopy(case(name)[0]).double(), case(name)[1]
    before = logits(model, batches)
    model.set_attn_implementation("eager")
    np.testing.assert_allclose(logits(model, batches), before, rtol=0, atol=1e-6)
    for removed in (HeadSet.of([0, 1, 5, 7]), HeadSet.of(range(9)), head_map(model).full):
        found = logits(narrowed(model, removed), batches)
        np.testing.assert_allclose(found, logits(model, batches, removed), rtol=0, atol=1e-6)


def test_look_alikes_are_of_no_family() -> None:
    """BART's decoder is like OPT's but for cross-attention; OLMo 2 norms all heads at once."""
    causal = transformers.BartForCausalLM(transformers.BartConfig(**BART))
    olmo = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**GROUPED))
    for model in (causal, olmo):
        with pytest.raises(ModelError, match="is of no known family"):
            family_of(model)


def test_only_stock_sequence_classifiers_take_the_fast_path() -> None:
    class Custom(transformers.BertForSequenceClassification):
        pass

    stock = case("BERT")[0]
    assert fast_family_of(stock) is not None
    assert fast_family_of(Custom(stock.config)) is None
    for name in ("BERT, tokens", "RoBERTa, masked", "Llama"):
        assert fast_family_of(case(name)[0]) is None


def test_a_causal_classifier_without_a_padding_token_is_refused() -> None:
    model = copy.deepcopy(case("GPT-2")[0])
    kind_of(model)
    kind_of(model, padding=0)
    with pytest.raises(ModelError, match=r"pad_token_id` must be the tokenizer's, 7, but is 0"):
        kind_of(model, padding=7)
    kind_of(case("BERT")[0], padding=7)  # which reads the first token
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match=r"`config.pad_token_id` must be set but is None"):
        kind_of(model)


def test_a_model_without_a_classifier_is_refused_for_search_alone() -> None:
    model, batches = case("RoBERTa, masked")
    with pytest.raises(ModelError, match="no classification head"):
        kind_of(model)
    assert np.isfinite(logits(model, batches, HeadSet.of([0]))).all()


def test_longest_inputs() -> None:
    for name in ("GPT-2", "OPT", "Llama", "BART", "ALBERT", "XLM-R"):
        model = case(name)[0]
        tokens = max_tokens(model)
        assert tokens == (40 - 2 if name == "XLM-R" else 40), name
        ids = torch.full((1, tokens), 7)
        ids[0, -1] = 3
        with torch.inference_mode():
            assert model(input_ids=ids).logits.shape == (1, 3)
    assert max_tokens(case("T5")[0]) is None


def test_a_model_of_relative_positions_alone_reads_any_length() -> None:
    _, kind, settings = CASES["DeBERTa-v3"]
    assert settings["position_biased_input"] is False
    model = lively(kind, settings)
    assert max_tokens(model) is None
    longer = 3 * model.config.max_position_embeddings
    assert np.isfinite(logits_of(model, sample_inputs(model, 2, longer))).all()
    assert max_tokens(lively(kind, {**settings, "position_biased_input": True})) is not None


def test_classifiers_read_the_last_token_before_the_padding() -> None:
    """So batches with padding score as examples by themselves do."""
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**GPT2)).eval()
    batch = batches_for(model)[-1]
    together = logits(model, [batch]).reshape(-1, 3)
    for row, length in enumerate(batch.lengths):
        ids = torch.from_numpy(batch.arrays["input_ids"][row : row + 1, :length])
        with torch.inference_mode():
            alone = model(input_ids=ids).logits.numpy()
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=1e-5)
