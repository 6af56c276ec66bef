"""The evaluator that runs the stock forward; what all evaluators promise, the suite checks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from headsearch.engine.worker import run_job
from headsearch.errors import EngineError, ModelError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.plain import plain_outputs
from headsearch.scoring.evaluator import Evaluator
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.scoring.stock import StockEvaluator, evaluator_for
from headsearch.task.batches import Span
from tests.tiny_families import case

SOME = HeadSet.of([1, 2])


def stock(name: str, **options: str) -> StockEvaluator:
    model, batches = case(name)
    return StockEvaluator(copy.deepcopy(model), batches, **options)


def test_the_fast_path_is_taken_where_there_is_one() -> None:
    model, batches = case("BERT")
    assert isinstance(evaluator_for(rebuild(bundle(model)), batches, cache_bytes=0), Evaluator)
    model, batches = case("ViT")
    assert isinstance(evaluator_for(rebuild(bundle(model)), batches), StockEvaluator)
    with pytest.raises(ModelError, match="ViTForImageClassification models have no fast path"):
        Evaluator(model, batches)


@pytest.mark.parametrize("name", ["ALBERT", "ViT", "GPT-2, regression"])
def test_it_serves_jobs_as_the_fast_one_does(name: str) -> None:
    evaluator, span = stock(name), Span(1, 3)
    found = run_job(evaluator, WorkItem(OUTPUTS, HeadSet(), (SOME, HeadSet())), span, True)
    model, batches = case(name)
    for state, outputs in zip((SOME, HeadSet()), found, strict=True):
        np.testing.assert_array_equal(outputs, plain_outputs(model, batches[1:], state))
    slopes = run_job(evaluator, WorkItem(GRADIENTS, SOME), span, False)
    assert slopes.shape == (1, 8, found.shape[2], evaluator.shape.total)
    assert slopes.dtype == np.float32
    assert not slopes[..., list(SOME)].any()
    assert np.abs(slopes).max() > 1e-3
    assert evaluator.cache.used_bytes == 0


def test_single_examples_are_not_scored_apart() -> None:
    evaluator = stock("GPT-2")
    assert not evaluator.independent
    with pytest.raises(EngineError, match="whole batches only"):
        evaluator.outputs(HeadSet(), [SOME], np.arange(2))


def test_gradients_do_not_depend_on_how_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("T5", "DeiT"):
        whole = stock(name).gradients(SOME, Span(0, 3))
        with monkeypatch.context() as patch:
            patch.setattr("headsearch.scoring.base.BACKWARD_BYTES", 1)  # one example at a time
            single = stock(name).gradients(SOME, Span(0, 3))
        np.testing.assert_allclose(single, whole, rtol=0, atol=1e-4)


def test_the_model_on_top_must_be_a_classifier() -> None:
    model, batches = case("RoBERTa, masked")
    with pytest.raises(ModelError, match="no classification head"):
        StockEvaluator(copy.deepcopy(model), batches)
    with pytest.raises(
        ModelError, match=r"must give logits \(examples, classes\) but gives logits"
    ):
        stock("Llama, tokens").outputs(HeadSet(), [SOME], Span(0, 1))


def test_bfloat16_is_close() -> None:
    for name in ("ViT", "GPT-2"):
        low = stock(name, dtype="bfloat16").outputs(HeadSet(), [SOME], Span(0, 3))
        high = stock(name).outputs(HeadSet(), [SOME], Span(0, 3))
        assert low.dtype == np.float32
        assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.99


def test_nothing_of_the_model_requires_gradients_but_the_callers_does() -> None:
    model, batches = case("BART")
    evaluator = evaluator_for(rebuild(bundle(model)), batches)
    evaluator.gradients(HeadSet(), Span(0, 1))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()
