"""Examples of any batches packed together, as on a GPU: the same scores, to the last bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headsearch.heads import HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.scoring import attention, wide
from headsearch.scoring.contexts import Contexts
from headsearch.scoring.evaluator import Evaluator
from headsearch.scoring.layers import FusedLayer, pick
from headsearch.scoring.packing import Filling, Packing
from headsearch.scoring.padded import groups
from headsearch.task.batches import Batch, Span, gather
from tests.scoring.test_evaluator import PARENTS, children_of, evaluator_of
from tests.tiny import SPECS, tiny_data, tiny_model

SIZES = (64, 128, 256)
EVERY = Span(0, 8)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that the tiny data make several parts of several sizes."""
    monkeypatch.setattr(wide, "SIZES", SIZES)
    for module in ("wide", "parts"):
        monkeypatch.setattr(f"headsearch.scoring.{module}.MOST_EXAMPLES", 16)
    monkeypatch.setattr("headsearch.scoring.padded.MOST_TOKENS", 250)


@pytest.fixture(params=sorted(SPECS), name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_model(request.param)


def data_of(model: nn.Module) -> Any:
    return tiny_data(model, examples=70, per_batch=9)


def wide_of(model: nn.Module, **options: Any) -> Evaluator:
    made = evaluator_of(model, data_of(model), wide=True, **options)
    assert made._parts.filling.sizes == SIZES
    return made


@pytest.mark.parametrize("parent", PARENTS)
def test_equals_the_plain_path(model: nn.Module, parent: HeadSet) -> None:
    data, children = data_of(model), children_of(parent)
    found = wide_of(model).outputs(parent, children, EVERY)
    assert np.abs(found[0] - found[-1]).max() > 1e-3, "heads have an effect"
    for child, outputs in zip(children, found, strict=True):
        expected = plain_outputs(model, data.batches, child)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(outputs.argmax(-1), expected.argmax(-1))


def test_a_score_is_a_function_of_its_state_alone(model: nn.Module) -> None:
    """To the last bit: whatever parent, siblings, cache, shard and examples it is computed with."""
    state, data, dice = HeadSet.of([1, 4, 6, 9]), data_of(model), np.random.default_rng(0)
    alone = wide_of(model, cache_bytes=0).outputs(state, [state], EVERY)[0]
    evaluator = wide_of(model)
    assert evaluator.independent
    for parent in (*PARENTS, HeadSet.of([1]), HeadSet.of([1, 4, 6]), HeadSet.of([9, 10])):
        for siblings in ([], children_of(parent)):
            found = evaluator.outputs(parent, [*siblings, state], EVERY)[-1]
            np.testing.assert_array_equal(found, alone)
    for span in (Span(0, 1), Span(2, 5), Span(7, 8)):
        found = evaluator.outputs(PARENTS[1], [state], span)[0]
        np.testing.assert_array_equal(found, alone[data.offsets[span.first] :][: len(found)])
    for count in (1, 2, 7, 33, 70):
        some = dice.permutation(70)[:count]
        found = evaluator.outputs(PARENTS[2], [state], some)[0]
        np.testing.assert_array_equal(found, alone[some])


def test_gradients_are_those_of_single_batches(model: nn.Module) -> None:
    """Also where a layer has no head left; and a span's are those of the whole, to the last bit."""
    data = data_of(model)
    assert len(groups(data.batches)) < len(data.batches), "some have a backward pass together"
    evaluator, narrow = wide_of(model), evaluator_of(model, data)
    for state in (*PARENTS, HeadSet.of(range(8, 12)), HeadSet.of(range(12))):
        found = evaluator.gradients(state, EVERY)
        np.testing.assert_allclose(found, narrow.gradients(state, EVERY), rtol=0, atol=1e-5)
        assert np.abs(found).max() > (1e-3 if len(state) < 12 else -1)
        for span in (Span(0, 3), Span(1, 2), Span(3, 8)):
            rows = slice(data.offsets[span.first], data.offsets[span.stop])
            np.testing.assert_array_equal(evaluator.gradients(state, span), found[rows])


@pytest.mark.parametrize("family", ["BERT", "MPNet"])
def test_all_that_is_computed_is_on_the_models_device(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without memory computes shapes alone, and refuses what is elsewhere."""
    monkeypatch.setattr(
        "headsearch.scoring.evaluator.tried", lambda layers: wide.Tried(SIZES, True)
    )
    monkeypatch.setattr(Evaluator, "independent", True)
    cpu = Tensor.cpu
    monkeypatch.setattr(
        Tensor,
        "cpu",
        lambda self: torch.zeros_like(self, device="cpu") if self.is_meta else cpu(self),
    )
    made = wide_of(tiny_model(family), dtype="bfloat16", device="meta")
    state, children = HeadSet.of(range(8, 12)), [PARENTS[0], PARENTS[1]]
    assert made.gradients(state, EVERY).shape == (70, 3, 12)
    assert made.outputs(state, children, EVERY).shape == (2, 70, 3)
    assert made.outputs(state, children, np.arange(5)).shape == (2, 5, 3)
    elsewhere = torch.zeros(8, 24, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="device"):
        made._layers[0].finish(elsewhere, elsewhere)


def test_halves_are_near(model: nn.Module) -> None:
    whole, halves = wide_of(model), wide_of(model, dtype="bfloat16")
    states = [HeadSet(), PARENTS[2]]
    exact, found = (each.outputs(HeadSet(), states, EVERY) for each in (whole, halves))
    assert 0 < np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
    exact, found = (each.gradients(PARENTS[2], EVERY) for each in (whole, halves))
    assert 0 < np.linalg.norm(found - exact) < 0.15 * np.linalg.norm(exact)


def test_groups_stay_within_rounds_and_limits() -> None:
    data = data_of(tiny_model("BERT"))
    found = groups(data.batches)
    assert [n for group in found for n in range(group.first, group.stop)] == list(range(8))
    assert not any(group.first < 4 < group.stop for group in found), "the first round has four"
    for group in found:
        some = data.batches[group.first : group.stop]
        tokens = sum(b.examples for b in some) * max(b.tokens for b in some)
        assert len(some) == 1 or tokens <= 250


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Have products give something that is off in the last bits, as chosen by a device."""
    module = "headsearch.scoring.layers"
    plain: Any = __import__(module, fromlist=["product"]).product

    def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return change(rows, plain(rows, weight, bias))

    monkeypatch.setattr(f"{module}.product", product)


def off_if(condition: bool, made: Tensor) -> Tensor:
    return made * (1 + 1e-6) if condition else made


def test_sizes_that_sum_otherwise_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, lambda rows, made: off_if(len(rows) in (16, 64), made))
    model = tiny_model("BERT")
    data = data_of(model)
    evaluator = evaluator_of(model, data, wide=True)
    assert evaluator._parts.filling.sizes == (128, 256)
    assert evaluator.independent
    state = HeadSet.of([1, 4, 6, 9])
    whole = evaluator.outputs(HeadSet(), [state], EVERY)[0]
    for some in (np.arange(3), np.arange(60)):
        np.testing.assert_array_equal(evaluator.outputs(PARENTS[1], [state], some)[0], whole[some])


def test_rows_that_depend_on_their_place_stay_in_their_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_place(rows: Tensor, made: Tensor) -> Tensor:
        made[: len(made) // 2] *= 1 + 1e-6
        return made

    changed(monkeypatch, by_place)
    model = tiny_model("BERT")
    evaluator = evaluator_of(model, data_of(model), wide=True)
    assert evaluator._parts.filling == Filling()
    assert not evaluator.independent


def test_so_they_do_where_attention_depends_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FusedLayer.attend

    def attend(self: FusedLayer, hidden: Tensor, heads: Any, packing: Packing, bias: Any) -> Tensor:
        return off_if(packing.count > 8, plain(self, hidden, heads, packing, bias))

    monkeypatch.setattr(FusedLayer, "attend", attend)
    model = tiny_model("BERT")
    evaluator = evaluator_of(model, data_of(model), wide=True)
    assert evaluator._parts.filling == Filling()
    assert not evaluator.independent


@pytest.mark.parametrize("known", [True, False])
def test_heads_are_computed_one_by_one_where_they_depend_on_others(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a device that nothing is known of before, as a GPU: it is tried out together."""
    monkeypatch.setattr("headsearch.scoring.layers.independent", lambda weight: known)
    asked: list[int] = []

    def by_width(rows: Tensor, made: Tensor) -> Tensor:
        asked.append(made.shape[1])
        return off_if(made.shape[1] > 2 * 48, made)  # of three heads and more

    changed(monkeypatch, by_width)
    model = tiny_model("BERT")
    evaluator = wide_of(model)
    state = HeadSet.of([1, 4, 6, 9])
    asked.clear()
    alone = evaluator.outputs(state, [state], EVERY)[0]
    assert 3 * 48 not in asked
    for parent in PARENTS:
        found = evaluator.outputs(parent, [*children_of(parent), state], EVERY)[-1]
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("first", [False, True])
def test_attention_at_once_is_that_of_one_run_after_the_other(first: bool) -> None:
    """What a kernel for sequences of different lengths is given, and what is made of it."""
    data, dice = data_of(tiny_model("BERT")), torch.Generator().manual_seed(0)
    (batch,) = gather(data.batches, np.arange(12), (16, 1000))
    packing = Packing(batch, torch.device("cpu"), Filling(examples=16, sizes=SIZES))
    rows, heads, wide_ = len(packing.examples), 3, 16
    key, value = (torch.randn(rows, heads, wide_, generator=dice) for _ in range(2))
    query = torch.randn(len(packing.first) if first else rows, heads, wide_, generator=dice)

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *most: int, scale: float
    ) -> Tensor:
        assert most == (int(cu_q.diff().max()), int(cu_k.diff().max()))
        assert cu_q.dtype == cu_k.dtype == torch.int32
        found = torch.full_like(q, torch.nan)
        for i in range(len(cu_q) - 1):
            a, b = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
            scores = torch.einsum("qhd,khd->hqk", q[a], k[b]) * scale
            found[a] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[b])
        return found

    at_once = attention._at_once(kernel, query, key, value, packing, 0.25, first)
    one_by_one = attention.attention(query, key, value, packing, scale=0.25, first=first)
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=1e-6)


def test_packed_batches_hold_so_many_examples_and_tokens() -> None:
    data = data_of(tiny_model("BERT"))
    batches = list(gather(data.batches, np.arange(70), (16, 100)))
    sizes = [(batch.examples, int(batch.lengths.sum())) for batch in batches]
    assert sum(examples for examples, _ in sizes) == 70
    assert all(examples <= 16 and tokens <= 100 for examples, tokens in sizes)
    for (examples, tokens), following in zip(sizes, batches[1:], strict=False):
        assert examples == 16 or tokens + following.lengths[0] > 100, "there was no room for more"
    long = dataclasses.replace(batches[-1])
    assert [b.examples for b in gather([long], np.arange(2), (16, 1))] == [1, 1]


def test_rows_of_examples_are_summed_over_in_gradients() -> None:
    batch = Batch({"input_ids": np.ones((3, 5), int), "attention_mask": np.ones((3, 5), int)})
    packing = Packing(batch, torch.device("cpu"))
    gate = torch.arange(6.0).view(3, 2).requires_grad_()
    rows = packing.of_rows(gate)
    assert rows.shape == (16, 2)
    assert torch.equal(rows[:15], gate[packing.examples[:15]])
    (slope,) = torch.autograd.grad((rows * torch.arange(16.0)[:, None]).sum(), gate)
    assert slope[:, 0].tolist() == [0 + 1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9, 10 + 11 + 12 + 13 + 14]


def test_slices_and_contexts_are_picked_as_by_an_index() -> None:
    tensor = torch.arange(24.0).view(2, 6, 2)
    for places in ([0], [1, 2, 3], [0, 2, 3, 5], [5, 1], []):
        assert torch.equal(pick(tensor, places, 1), tensor[:, places])
    contexts = Contexts((0, 2, 3), tensor[:, :3])
    contexts.add((5, 1), -tensor[:, :2])
    assert 4 not in contexts
    by_hand = {0: tensor[:, 0], 2: tensor[:, 1], 3: tensor[:, 2], 5: -tensor[:, 0]}
    by_hand[1] = -tensor[:, 1]
    for heads in ((2, 3), (0, 1, 2, 3, 5), (1,), (0, 3)):
        expected = torch.stack([by_hand[head] for head in heads], dim=1)
        assert torch.equal(contexts.pick(heads), expected)
