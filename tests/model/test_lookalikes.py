"""Models whose modules look like those of a known family, and are put together otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headsearch.errors import UnknownFamilyError
from headsearch.heads import HeadSet
from headsearch.model.families import family_of, fast_family_of, head_map
from headsearch.model.narrow import narrowed
from headsearch.model.plain import plain_outputs
from headsearch.scoring.stock import evaluator_for
from headsearch.task.batches import Span
from tests.tiny import BERT_LIKE
from tests.tiny_families import GROUPED, batches_for, lively

SEQUENCE = "ForSequenceClassification"
BIGBIRD: dict[str, Any] = {**BERT_LIKE, "attention_type": "original_full"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (f"BigBird{SEQUENCE}", BIGBIRD),
        (f"MegatronBert{SEQUENCE}", BERT_LIKE),
        (f"XLMRobertaXL{SEQUENCE}", {**BERT_LIKE, "pad_token_id": 1}),
    ],
)
def test_they_are_scored_by_their_own_forward(name: str, settings: dict[str, Any]) -> None:
    model = lively(name, settings)
    batches = batches_for(model)
    assert fast_family_of(model) is None
    evaluator = evaluator_for(lively(name, settings), batches)
    states = [HeadSet(), HeadSet.of([0, 3]), head_map(model).full]
    found = evaluator.outputs(HeadSet(), states, Span(0, len(batches)))
    expected = [plain_outputs(model, batches, state) for state in states]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("shared", [1, 2])
def test_counts_that_a_forward_reads_are_narrowed_too(shared: int) -> None:
    settings = {**GROUPED, "num_attention_heads": 4, "num_key_value_heads": shared}
    model = lively(f"StableLm{SEQUENCE}", settings)
    batches = batches_for(model)
    before = plain_outputs(model, batches, HeadSet())
    for heads in ([0], [0, 1], [0, 2, 5], [1, 2, 3, 4]):
        expected = plain_outputs(model, batches, HeadSet.of(heads))
        found = plain_outputs(narrowed(model, HeadSet.of(heads)), batches, HeadSet())
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(before - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            f"OpenAIGPT{SEQUENCE}",
            {"vocab_size": 60, "n_positions": 40, "n_embd": 16, "n_layer": 2, "n_head": 4},
        ),
        (f"GptOss{SEQUENCE}", {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}),
        (
            f"Mvp{SEQUENCE}",
            {
                "vocab_size": 60,
                "max_position_embeddings": 40,
                "d_model": 16,
                "encoder_layers": 2,
                "decoder_layers": 1,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 24,
                "decoder_ffn_dim": 24,
            },
        ),
    ],
)
def test_what_would_not_work_is_of_no_known_family(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UnknownFamilyError, match=f"{name} is of no known family"):
        family_of(lively(name, settings))
