"""The evaluator equals the plain path, and a score depends on nothing but its state."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.gate import gates
from headsearch.model.plain import plain_outputs
from headsearch.scoring import products
from headsearch.scoring.evaluator import Evaluator
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.scoring.layers import FusedLayer
from headsearch.scoring.products import PackedLinear
from headsearch.scoring.stock import StockEvaluator
from headsearch.task.batches import BatchedData, Span
from tests.tiny import SPECS, tiny_data, tiny_model

PARENTS = (HeadSet(), HeadSet.of([1, 6]), HeadSet.of([0, 4, 5, 6, 7, 11]), HeadSet.of(range(8)))


@pytest.fixture(params=sorted(SPECS), name="model")
def _model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny_model(request.param)


def evaluator_of(model: nn.Module, data, **options) -> Evaluator:
    return Evaluator(rebuild(bundle(model)), data.batches, **options)


def children_of(parent: HeadSet) -> list[HeadSet]:
    """All single removals, some macro moves, a restored head, the parent itself, everything."""
    left = [j for j in range(12) if j not in parent]
    singles = [parent.add(j) for j in left]
    macros = [parent | HeadSet.of(left[:k]) for k in (2, 3)] + [parent | HeadSet.of(left[-2:])]
    swapped = HeadSet.of([*list(parent)[1:], left[0]])
    return [*singles, *macros, swapped, parent, HeadSet.of(range(12))]


@pytest.mark.parametrize("parent", PARENTS)
def test_equals_the_plain_path(model: nn.Module, parent: HeadSet) -> None:
    data = tiny_data(model)
    children = children_of(parent)
    evaluator = evaluator_of(model, data)
    found = evaluator.outputs(parent, children, Span(0, len(data.batches)))
    assert found.shape == (len(children), data.examples, 3)
    assert found.dtype == np.float32
    for child, outputs in zip(children, found, strict=True):
        expected = plain_outputs(model, data.batches, child)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(outputs.argmax(-1), expected.argmax(-1))


DTYPES = ["float32", "bfloat16"]  # which processors may have products for


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_is_a_function_of_its_state_alone(model: nn.Module, dtype: str) -> None:
    """To the last bit: whatever parent, siblings and cache it is computed with."""
    data = tiny_data(model)
    state, span = HeadSet.of([1, 4, 6, 9]), Span(0, 5)
    alone = evaluator_of(model, data, dtype=dtype, cache_bytes=0).outputs(state, [state], span)[0]
    assert np.abs(alone - plain_outputs(model, data.batches, HeadSet())).max() > 1e-4
    evaluator = evaluator_of(model, data, dtype=dtype)
    for parent in (*PARENTS, HeadSet.of([1]), HeadSet.of([1, 4, 6]), HeadSet.of([9, 10])):
        for siblings in ([], children_of(parent)):
            found = evaluator.outputs(parent, [*siblings, state], span)[-1]
            np.testing.assert_array_equal(found, alone)


# Threads, width and heads; those of two sizes take ten seconds for each number of threads.
REAL_SIZES = [
    (1, 384, 12),
    (2, 384, 12),
    (1, 768, 12),
    pytest.param(2, 768, 12, marks=pytest.mark.slow),
    pytest.param(1, 1024, 16, marks=pytest.mark.slow),
    (2, 1024, 16),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("threads", "width", "heads"), REAL_SIZES)
def test_the_same_holds_at_the_sizes_of_real_models(
    width: int, heads: int, threads: int, dtype: str
) -> None:
    """Small products take other kernels than large ones."""
    model = tiny_model(
        "BERT", hidden_size=width, num_attention_heads=heads, intermediate_size=2 * width
    )
    data = tiny_data(model, examples=66, per_batch=33)
    states = [HeadSet.of(range(1, 2 * heads, step)) for step in (1, 2, 3)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        evaluator, span = evaluator_of(model, data, dtype=dtype), Span(0, 2)
        alone = [evaluator.outputs(state, [state], span)[0] for state in states]
        for parent in (HeadSet(), HeadSet.of([1]), HeadSet.of(range(1, 2 * heads, 6))):
            np.testing.assert_array_equal(evaluator.outputs(parent, states, span), alone)
    finally:
        torch.set_num_threads(before)


def by_length(data: BatchedData, examples: np.ndarray) -> np.ndarray:
    lengths = np.concatenate([batch.lengths for batch in data.batches])
    return examples[np.lexsort((examples, lengths[examples]))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_examples_outputs_do_not_depend_on_those_beside_it(model: nn.Module, dtype: str) -> None:
    """To the last bit: so examples may be scored in any order."""
    data, random = tiny_data(model, examples=70, per_batch=9), np.random.default_rng(0)
    evaluator = evaluator_of(model, data, dtype=dtype)
    if not products.has_onednn(torch.device("cpu"), getattr(torch, dtype)):
        assert not evaluator.independent
        return
    states = children_of(PARENTS[1])[::3]
    whole = evaluator.outputs(PARENTS[1], states, Span(0, len(data.batches)))
    for count in (1, 2, 3, 7, 8, 20, 66):
        examples = by_length(data, random.permutation(70)[:count])
        for parent in (PARENTS[1], HeadSet()):
            found = evaluator.outputs(parent, states, examples)
            np.testing.assert_array_equal(found, whole[:, examples])
    reverse = np.arange(70)[::-1]  # no neighbours of one length need be
    np.testing.assert_array_equal(evaluator.outputs(HeadSet(), states, reverse), whole[:, reverse])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("threads", "width", "heads"), REAL_SIZES)
def test_nor_do_they_at_the_sizes_of_real_models(
    width: int, heads: int, threads: int, dtype: str
) -> None:
    model = tiny_model(
        "BERT", hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
    )
    data, random = tiny_data(model, examples=66, per_batch=33), np.random.default_rng(0)
    states = [HeadSet.of(range(1, 2 * heads, step)) for step in (1, 2, 3)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        evaluator = evaluator_of(model, data, dtype=dtype)
        whole = evaluator.outputs(HeadSet(), states, Span(0, 2))
        for count in (1, 2, 5, 17, 40):
            examples = by_length(data, random.permutation(66)[:count])
            if not evaluator.independent:  # which is so on a few machines; most are not asked
                with pytest.raises(EngineError, match="machines of one kind"):
                    evaluator.outputs(HeadSet(), states, examples)
                continue
            found = evaluator.outputs(HeadSet(), states, examples)
            np.testing.assert_array_equal(found, whole[:, examples])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("where", ["layers", "feed-forward"])
def test_it_is_seen_when_examples_depend_on_each_other(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines whose products choose another order of summation for more rows."""
    name = f"headsearch.scoring.{'layers.product' if where == 'layers' else 'products._onednn'}"
    module, function = name.rsplit(".", 1)
    plain = getattr(importlib.import_module(module), function)

    def by_rows(rows: torch.Tensor, weight: torch.Tensor, *args: Any) -> torch.Tensor:
        made = plain(rows, weight, *args)
        wide = where == "layers" or weight.shape[1] == 32
        return made * (1 + 1e-6) if wide and len(rows) > 100 else made

    model = tiny_model("BERT", intermediate_size=32)
    data = tiny_data(model, examples=70, per_batch=9)
    assert evaluator_of(model, data).independent
    evaluator = evaluator_of(model, data)
    monkeypatch.setattr(name, by_rows)
    assert not evaluator.independent
    with pytest.raises(EngineError, match="machines of one kind"):
        evaluator.outputs(HeadSet(), [HeadSet.of([1])], np.arange(4))


def test_examples_that_depend_on_each_other_are_not_scored_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headsearch.scoring.layers.independent", lambda weight: False)
    model = tiny_model("BERT")
    data = tiny_data(model)
    evaluator, span = evaluator_of(model, data), Span(0, 5)
    with pytest.raises(EngineError, match="machines of one kind"):
        evaluator.outputs(HeadSet(), [HeadSet.of([1])], np.arange(4))
    # Each head is then computed for itself, and batches stay as they are.
    state = HeadSet.of([1, 4, 6, 9])
    alone = evaluator.outputs(state, [state], span)
    for parent in PARENTS:
        found = evaluator.outputs(parent, [*children_of(parent), state], span)[-1:]
        np.testing.assert_array_equal(found, alone)
    np.testing.assert_allclose(
        alone[0], plain_outputs(model, data.batches, state), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_activation_is_the_models_own(activation: str) -> None:
    """A GELU may be taken along by the product before it; no other activation is."""
    model = tiny_model("BERT", hidden_act=activation)
    data = tiny_data(model)
    state = HeadSet.of([1, 6])
    found = evaluator_of(model, data).outputs(HeadSet(), [state], Span(0, 5))[0]
    np.testing.assert_allclose(found, plain_outputs(model, data.batches, state), rtol=0, atol=1e-5)


def test_without_onednn_the_same_comes_out(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data(model)
    states = children_of(PARENTS[1])
    fast = evaluator_of(model, data).outputs(PARENTS[1], states, Span(0, 5))
    for module in ("products", "evaluator"):
        monkeypatch.setattr(f"headsearch.scoring.{module}.has_onednn", lambda *_: False)
    evaluator = evaluator_of(model, data)
    assert not any(isinstance(m, PackedLinear) for m in evaluator._model.modules())
    slow = evaluator.outputs(PARENTS[1], states, Span(0, 5))
    np.testing.assert_allclose(slow, fast, rtol=0, atol=1e-5)


def test_heads_have_effects_here_too(model: nn.Module) -> None:
    data = tiny_data(model)
    states = [HeadSet(), *(HeadSet.of([j]) for j in range(12))]
    found = evaluator_of(model, data).outputs(HeadSet(), states, Span(0, 5))
    assert (np.abs(found[1:] - found[0]).max(axis=(1, 2)) > 1e-4).all()


def test_what_children_have_in_common_is_computed_once(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data(model)
    heads, layers, lasts = [0], [0], [0]
    attend, project = FusedLayer.attend, FusedLayer.project
    attend_first = FusedLayer.attend_first

    def counting_attend(
        self: FusedLayer, hidden: Tensor, asked: tuple[int, ...], *rest: Any, **named: Any
    ) -> Tensor:
        heads[0] += len(asked)
        return attend(self, hidden, asked, *rest, **named)

    def counting_attend_first(self: FusedLayer, *arguments: Any) -> Tensor:
        lasts[0] += 1
        return attend_first(self, *arguments)

    def counting_project(self: FusedLayer, *arguments: Any) -> Tensor:
        layers[0] += 1
        return project(self, *arguments)

    # Of three layers of four heads: all are alike in the first, two by two in the second.
    children = [HeadSet.of(some) for some in ([0], [0, 4], [0, 4, 8], [0, 8])]
    evaluator, span = evaluator_of(model, data), Span(0, 1)
    alone = [evaluator.outputs(child, [child], span)[0] for child in children]
    fresh = evaluator_of(model, data)
    monkeypatch.setattr(FusedLayer, "attend", counting_attend)
    monkeypatch.setattr(FusedLayer, "attend_first", counting_attend_first)
    monkeypatch.setattr(FusedLayer, "project", counting_project)
    found = fresh.outputs(HeadSet(), children, span)
    np.testing.assert_array_equal(found, alone)
    assert layers == [1 + 2 + 4]
    # The parent's in the first layer; then each head once for all that come to it alike.
    assert heads == [4 + 4]
    assert lasts == [2]


def test_shards_give_the_same_bits_as_the_whole(model: nn.Module) -> None:
    data = tiny_data(model)
    children = children_of(PARENTS[1])
    evaluator = evaluator_of(model, data)
    whole = evaluator.outputs(PARENTS[1], children, Span(0, 5))
    parts = [evaluator.outputs(PARENTS[1], children, s) for s in (Span(0, 2), Span(2, 5))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    slopes = [evaluator.gradients(PARENTS[1], s) for s in (Span(0, 2), Span(2, 5))]
    np.testing.assert_array_equal(
        np.concatenate(slopes), evaluator.gradients(PARENTS[1], Span(0, 5))
    )


@pytest.mark.parametrize("cache_bytes", [0, 20_000, 1 << 30])
def test_cache_changes_nothing_and_stays_within_its_limit(
    model: nn.Module, cache_bytes: int
) -> None:
    data = tiny_data(model)
    plain = evaluator_of(model, data, cache_bytes=0)
    cached = evaluator_of(model, data, cache_bytes=cache_bytes)
    span = Span(0, 5)
    # Shallow children first, then deeper ones that need more of the trace, then another parent.
    for parent, children in (
        (PARENTS[1], [PARENTS[1].add(0)]),
        (PARENTS[1], [PARENTS[1].add(9)]),
        (PARENTS[1], children_of(PARENTS[1])),
        (PARENTS[2], children_of(PARENTS[2])),
        (PARENTS[1], children_of(PARENTS[1])),
    ):
        for _ in range(2):
            np.testing.assert_array_equal(
                cached.outputs(parent, children, span), plain.outputs(parent, children, span)
            )
            assert cached.cache.used_bytes <= cache_bytes
    assert (cached.cache.used_bytes > 0) == (cache_bytes > 0)


@pytest.mark.parametrize("state", PARENTS)
def test_gradients_equal_those_of_the_stock_forward(model: nn.Module, state: HeadSet) -> None:
    data = tiny_data(model)
    found = evaluator_of(model, data).gradients(state, Span(0, 5))
    assert found.shape == (data.examples, 3, 12)
    model = model.double()
    expected = []
    for batch in data.batches:
        inputs = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
        ones = [
            torch.tensor(
                [[0.0 if layer * 4 + h in state else 1.0 for h in range(4)]] * batch.examples,
                dtype=torch.float64,
                requires_grad=True,
            )
            for layer in range(3)
        ]
        with gates(model, ones):
            logits = model(**inputs).logits
        rows = [
            torch.cat(torch.autograd.grad(logits[:, c].sum(), ones, retain_graph=True), dim=1)
            for c in range(3)
        ]
        expected.append(torch.stack(rows, dim=1).numpy())
    reference = np.concatenate(expected)
    reference -= reference.mean(axis=1, keepdims=True)  # the same for loss and predictions
    reference[:, :, list(state)] = 0.0  # the derivative by a removed head's gate is not asked for
    np.testing.assert_allclose(found, reference, rtol=0, atol=2e-5)
    assert np.abs(found).max() > 1e-3


def test_gradients_of_a_regression_are_those_of_its_one_output() -> None:
    model = tiny_model("BERT", num_labels=1)
    data = tiny_data(model)
    found = evaluator_of(model, data).gradients(HeadSet(), Span(0, 5))
    # Forward differences by hand, from two gated forwards.
    step, shape = 1e-2, (data.examples, 1)
    whole = plain_outputs(model, data.batches, HeadSet())
    for head in (0, 5, 11):
        values = [torch.ones(4) for _ in range(3)]
        values[head // 4][head % 4] -= step
        parts = []
        for batch in data.batches:
            inputs = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
            with torch.inference_mode(), gates(model, values):
                parts.append(model(**inputs).logits.numpy())
        slope = (whole - np.concatenate(parts)) / step
        assert slope.shape == shape
        np.testing.assert_allclose(found[:, :, head], slope, rtol=0.1, atol=2e-2)


CLASSES = 12


@pytest.mark.parametrize("scorer", [Evaluator, StockEvaluator])
def test_of_many_classes_only_the_likeliest_have_gradients_of_their_own(
    scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("BERT", num_labels=CLASSES)
    data, calls, grad = tiny_data(model), [], torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options)
    )

    def gradients(leading: int) -> tuple[np.ndarray, float]:
        """Gradients, and how many backward passes each batch took."""
        monkeypatch.setattr("headsearch.scoring.base.LEADING", leading)
        calls.clear()
        evaluator = scorer(rebuild(bundle(model)), data.batches)
        return evaluator.gradients(PARENTS[1], Span(0, 5)), len(calls) / len(data.batches)

    full, passes = gradients(CLASSES)
    assert passes == CLASSES - 1
    found, passes = gradients(4)
    assert passes == 4
    assert found.shape == full.shape
    logits = plain_outputs(model, data.batches, PARENTS[1]).astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row in range(data.examples):
        ranked = np.argsort(-logits[row])
        top, rest = ranked[:4], ranked[4:]
        shares = chances[row][rest] / chances[row][rest].sum()
        against = full[row] - full[row][top[0]]  # what all share is of no effect
        expected = against.copy()
        expected[rest] = shares @ against[rest]
        np.testing.assert_allclose(found[row] - found[row][top[0]], expected, rtol=0, atol=2e-5)
        for label in top:  # the slope of a loss is exact
            weights = chances[row] - (np.arange(CLASSES) == label)
            np.testing.assert_allclose(weights @ found[row], weights @ full[row], atol=2e-5)
    assert np.abs(found - full).max() > 1e-3, "the others do have slopes of another size"


def test_a_few_more_classes_all_have_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("BERT", num_labels=5)
    data = tiny_data(model)
    found = evaluator_of(model, data).gradients(HeadSet(), Span(0, 5))
    monkeypatch.setattr("headsearch.scoring.base.LEADING", 100)
    full = evaluator_of(model, data).gradients(HeadSet(), Span(0, 5))
    np.testing.assert_array_equal(found, full)


def test_gradients_do_not_depend_on_how_batches_are_cut(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data(model)
    whole = evaluator_of(model, data).gradients(HeadSet(), Span(0, 5))
    monkeypatch.setattr("headsearch.scoring.base.BACKWARD_BYTES", 1)  # one example at a time
    single = evaluator_of(model, data).gradients(HeadSet(), Span(0, 5))
    np.testing.assert_allclose(single, whole, rtol=0, atol=1e-5)


def test_run_serves_both_kinds_of_items(model: nn.Module) -> None:
    data = tiny_data(model)
    evaluator, span = evaluator_of(model, data), Span(1, 3)
    children = (HeadSet.of([2]), HeadSet.of([3]))
    np.testing.assert_array_equal(
        evaluator.run(WorkItem(OUTPUTS, HeadSet(), children), span),
        evaluator.outputs(HeadSet(), children, span),
    )
    np.testing.assert_array_equal(
        evaluator.run(WorkItem(GRADIENTS, children[0]), span)[0],
        evaluator.gradients(children[0], span),
    )


def test_bfloat16_is_close(model: nn.Module) -> None:
    data = tiny_data(model)
    low = evaluator_of(model, data, dtype="bfloat16").outputs(
        HeadSet(), [HeadSet.of([1])], Span(0, 5)
    )
    high = plain_outputs(model, data.batches, HeadSet.of([1]))
    assert low.dtype == np.float32
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("state", [HeadSet(), HeadSet.of([0, 4, 5])])
def test_gradients_in_bfloat16_are_close(model: nn.Module, state: HeadSet) -> None:
    data = tiny_data(model)
    low = evaluator_of(model, data, dtype="bfloat16").gradients(state, Span(0, 5))
    high = evaluator_of(model, data).gradients(state, Span(0, 5))
    assert low.dtype == np.float32
    assert np.abs(high).max() > 1e-3
    assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_goes_by_onednn_where_it_has_such_products(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    products._dtypes.cache_clear()
    try:
        model = tiny_model("BERT")
        made = evaluator_of(model, tiny_data(model), dtype="bfloat16")
        assert has == any(isinstance(m, PackedLinear) for m in made._model.modules())
        assert not products.has_onednn(torch.device("cpu"), torch.float16)
        assert products.has_onednn(torch.device("cpu"), torch.float32)
    finally:
        products._dtypes.cache_clear()


def test_the_callers_model_is_left_alone(model: nn.Module) -> None:
    data = tiny_data(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = evaluator_of(model, data, dtype="bfloat16")
    evaluator.outputs(HeadSet(), [HeadSet.of([1])], Span(0, 5))
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name
