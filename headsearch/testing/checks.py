"""What holds of every family, each as a function that raises AssertionError if it does not."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headsearch.errors import ModelError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.checkpoint import load_pruned, save_pruned
from headsearch.model.families import family_of, head_map, known_families
from headsearch.model.gate import removal_gates, removed_heads
from headsearch.model.narrow import RECORD, narrowed
from headsearch.model.plain import plain_outputs
from headsearch.scoring.base import Scorer
from headsearch.scoring.evaluator import Evaluator
from headsearch.scoring.stock import StockEvaluator, evaluator_for
from headsearch.task.batches import Batch, Span
from headsearch.testing.subject import (
    example_logits,
    few_states,
    float64,
    logits,
    scale,
    states,
    without_heads,
)

# All of these are beside the largest value, or 1 if that is less.
# Least change of some logit that counts as an effect: a head of a tiny random model does more.
EFFECT = 1e-5
# In float64; some norms and rotations compute in float32 even so.
EXACT = 1e-7
# Rounding of float32, of outputs and of slopes.
CLOSE, CLOSE_SLOPE = 1e-5, 1e-3
# Of finite differences: the smallest show the float32 in those norms, the largest cross the kinks
# of ReLUs. So a slope must be near that of some step; and of a head so many slopes must be, for
# now and then a kink is nearer than any step.
STEPS, MOST = (1e-5, 1e-3, 1e-2), 0.9


def exactly_one_family_matches(model: nn.Module, batches: Sequence[Batch]) -> None:
    """No other known family takes the model for its own."""
    matching = [family.name for family in known_families() if family.matches(model)]
    assert matching == [family_of(model).name], f"families that match: {matching}"
    assert head_map(model).total > 0, "there are no heads"


def every_head_has_an_effect(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Turning off any single head changes the logits; a gate that misses does not."""
    model = float64(model)
    whole, shape = logits(model, batches), head_map(model)
    for head in range(shape.total):
        change = np.abs(logits(model, batches, HeadSet.of([head])) - whole).max()
        assert change > EFFECT * scale(whole), (
            f"head {shape.position(head)} has no effect: the logits change by {change:.1e}"
        )


def gate_equals_zeroed_projection(model: nn.Module, batches: Sequence[Batch]) -> None:
    """A gate does what zeros in the output projection's weight, put there by hand, do."""
    model = float64(model)
    for name, removed in states(model).items():
        expected = logits(without_heads(model, removed), batches)
        _equal(logits(model, batches, removed), expected, EXACT, name)


def gates_may_differ_between_examples(model: nn.Module, batches: Sequence[Batch]) -> None:
    """An example that loses a head changes as if all lost it; those beside it do not change."""
    model, shape = float64(model), head_map(model)
    batch = max(batches, key=lambda each: each.examples)
    assert batch.examples > 1, "a batch of two examples or more is needed"
    head = shape.total - 1
    ones = [gate.expand(batch.examples, -1).clone() for gate in removal_gates(model, HeadSet())]
    mixed = [gate.clone() for gate in ones]
    mixed[-1][1, -1] = 0.0
    whole = example_logits(model, batch, ones)
    without = example_logits(model, batch, removal_gates(model, HeadSet.of([head])))
    found = example_logits(model, batch, mixed)
    _equal(found[1], without[1], EXACT, "the example that lost a head")
    others = [row for row in range(batch.examples) if row != 1]
    _equal(found[others], whole[others], EXACT, "the other examples")


def gates_are_gone_afterwards(model: nn.Module, batches: Sequence[Batch]) -> None:
    """After the context, even one that an error ended, the model is as it was."""
    model = float64(model)
    before = logits(model, batches)
    try:
        with removed_heads(model, head_map(model).full):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    _equal(logits(model, batches), before, 0.0, "after an error")


def narrow_equals_gate(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Without the heads the stock forward gives what it gives under gates; layers may be empty."""
    model = float64(model)
    shape, parameters = head_map(model), _parameters(model)
    for name, removed in states(model).items():
        small = narrowed(model, removed)
        _equal(logits(small, batches), logits(model, batches, removed), EXACT, name)
        left = HeadMap(tuple(len(shape.kept(removed, n)) for n in range(shape.layers)))
        assert head_map(small) == left, f"{name}: {head_map(small)} are left instead of {left}"
        assert _parameters(small) < parameters, f"{name}: no parameters are saved"
    assert head_map(model) == shape, "the model itself must stay as it is"


def narrow_twice_equals_once(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Heads may go in several steps, in any order, with the same model and record at the end."""
    model = float64(model)
    shape = head_map(model)
    for start, (name, removed) in enumerate(few_states(model).items()):
        once = narrowed(model, removed)
        first = HeadSet.of(list(removed)[start % 2 :: 2])
        left = [head for head in range(shape.total) if head not in first]
        rest = HeadSet.of(left.index(head) for head in removed if head not in first)
        twice = narrowed(narrowed(model, first), rest)
        _same_model(twice, once, name)
        _equal(logits(twice, batches), logits(once, batches), 0.0, name)


def a_narrow_model_can_be_gated(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Gates of what is left are where the heads are now."""
    model = float64(model)
    removed = states(model)["every third head"]
    small = narrowed(model, removed)
    left = [head for head in range(head_map(model).total) if head not in removed]
    for place, head in enumerate(left):
        expected = logits(model, batches, removed.add(head))
        _equal(logits(small, batches, HeadSet.of([place])), expected, EXACT, f"head {head}")


def saved_and_loaded_is_the_same(model: nn.Module, batches: Sequence[Batch]) -> None:
    """`load_pruned` gives the weights that `save_pruned` was given; they can be cut again."""
    for name, removed in few_states(model).items():
        small = narrowed(model, removed).eval()
        with tempfile.TemporaryDirectory() as folder:
            save_pruned(small, Path(folder, "small"))
            again = load_pruned(Path(folder, "small"))
        _same_model(again, small, name)
        _equal(logits(again, batches), logits(small, batches), CLOSE, name)
        rest = HeadSet.of(range(0, head_map(small).total, 2))
        _same_model(narrowed(again, rest), narrowed(small, rest), name)


def cutting_is_refused(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Where heads can't be cut out, one clear error says so and the model is left as it is."""
    before, message = copy.deepcopy(model.state_dict()), ""
    try:
        narrowed(model, HeadSet.of([0]))
    except ModelError as error:
        message = str(error)
    assert family_of(model).name in message, "there must be a ModelError that names the family"
    _same_state(model.state_dict(), before, "the model")


def a_worker_gets_the_same_model(model: nn.Module, batches: Sequence[Batch]) -> None:
    """What travels to a worker computes the same, narrow or not, and has one fingerprint."""
    models = [copy.deepcopy(model).eval()]
    if not family_of(model).limits.get("narrow"):
        models += [narrowed(models[0], removed) for removed in few_states(model).values()]
    for each in models:
        again = rebuild(bundle(each))
        _equal(logits(again, batches), logits(each, batches), CLOSE, "logits")
        assert bundle(again).fingerprint() == bundle(each).fingerprint(), "fingerprints differ"


def evaluator_equals_plain(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Scores are those of the stock forward under gates, whatever parent they are asked with."""
    found = few_states(model)
    evaluator, span = _evaluator(model, batches), Span(0, len(batches))
    children = [HeadSet(), *found.values()]
    for parent in (HeadSet(), found["every third head"]):
        scores = evaluator.outputs(parent, children, span)
        for child, outputs in zip(children, scores, strict=True):
            expected = plain_outputs(copy.deepcopy(model), batches, child)
            _equal(outputs, expected, CLOSE, f"{child} from {parent}")


def a_score_depends_on_its_state_alone(model: nn.Module, batches: Sequence[Batch]) -> None:
    """To the last bit: parent, siblings and shard do not matter."""
    found = list(few_states(model).values())
    evaluator, half = _evaluator(model, batches), len(batches) // 2
    whole = evaluator.outputs(HeadSet(), found, Span(0, len(batches)))
    for state, expected in zip(found, whole, strict=True):
        parts = [
            evaluator.outputs(state, [state], Span(first, stop))[0]
            for first, stop in ((0, half), (half, len(batches)))
            if first < stop
        ]
        _equal(np.concatenate(parts), expected, 0.0, str(state))


def gradients_equal_finite_differences(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Slopes by the gates are those of the stock forward in float64; removed heads have none."""
    shape = head_map(model)
    evaluator, exact = _evaluator(model, batches), float64(model)
    state = states(model)["every third head"]
    found = evaluator.gradients(state, Span(0, len(batches)))
    expected = np.zeros((len(STEPS), *found.shape))
    for head in range(shape.total):
        if head not in state:
            expected[..., head] = _slopes(exact, batches, state, head, found.shape[1])
    if found.shape[1] > 1:  # what all classes have in common changes nothing
        expected -= expected.mean(axis=2, keepdims=True)
    errors = np.abs(expected - found).min(axis=0).reshape(-1, shape.total)
    worst = np.quantile(errors, MOST, axis=0) / scale(expected)
    wrong = [shape.position(int(head)) for head in np.flatnonzero(worst > CLOSE_SLOPE)]
    assert not wrong, f"slopes of heads {wrong} are not those of the stock forward: {worst.max()}"


def fast_path_equals_stock_forward(model: nn.Module, batches: Sequence[Batch]) -> None:
    """The fast path is taken, and gives what the evaluator by the stock forward does."""
    fast, span = _evaluator(model, batches), Span(0, len(batches))
    assert isinstance(fast, Evaluator), "the fast path is not taken"
    stock = StockEvaluator(rebuild(bundle(model)), batches)
    found = list(states(model).values())
    expected = stock.outputs(HeadSet(), found, span)
    _equal(fast.outputs(HeadSet(), found, span), expected, CLOSE, "outputs")
    for state in (HeadSet(), found[0]):
        _equal(fast.gradients(state, span), stock.gradients(state, span), CLOSE_SLOPE, "slopes")


def _evaluator(model: nn.Module, batches: Sequence[Batch]) -> Scorer:
    return evaluator_for(rebuild(bundle(model)), batches)


def _slopes(
    model: nn.Module, batches: Sequence[Batch], state: HeadSet, head: int, classes: int
) -> np.ndarray:
    """Return central differences of the logits by one gate, (steps, examples, classes)."""
    layer, place = head_map(model).position(head)
    found = []
    for step in STEPS:
        sides = []
        for way in (step, -step):
            values = removal_gates(model, state)
            values[layer][place] += way
            sides.append(logits(model, batches, values).reshape(-1, classes))
        found.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(found)


def _equal(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}"
    assert np.isfinite(expected).all(), f"{what}: logits are not finite"
    worst = float(np.abs(found - expected).max(initial=0.0))
    most = tolerance * scale(expected)
    assert worst <= most, f"{what}: differs by {worst:.1e}, at most {most:.1e} is allowed"


def _same_model(found: Any, expected: Any, what: str) -> None:
    left, right = getattr(found.config, RECORD), getattr(expected.config, RECORD)
    assert left == right, f"{what}: the record is {left} instead of {right}"
    _same_state(found.state_dict(), expected.state_dict(), what)


def _same_state(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())}"
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), f"{what}: {name} differs"


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
