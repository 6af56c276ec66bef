"""Guides against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headsearch.heads import HeadMap, HeadSet
from headsearch.search.guides import Budget, Fisher, Lookahead, Michel, View, predicted_reach
from headsearch.search.problem import Node, Problem
from headsearch.task.metric import Threshold, make_objective

RANDOM = np.random.default_rng(0)
SHAPE = HeadMap((3, 4))
HEADS = np.array([0, 2, 3, 4, 6])  # heads 1 and 5 are gone
LABELS = RANDOM.integers(0, 3, 50)
OBJECTIVE = make_objective("accuracy", LABELS, 3)
OUTPUTS = RANDOM.normal(size=(50, 3)).astype(np.float32)
OUTPUTS[np.arange(50), LABELS] += 1.5
EFFECTS = (RANDOM.normal(size=(5, 50, 3)) * 0.7).astype(np.float32)


def view(drop: int = 3) -> View:
    score = OBJECTIVE.score(OUTPUTS)
    assert score.correct is not None
    threshold = Threshold((score.correct - drop) / 50, score.correct - drop)
    node = Node(HeadSet.of([1, 5]), 2, OUTPUTS, score, True)
    return View(Problem(SHAPE, OBJECTIVE, 0.1), threshold, node, HEADS, EFFECTS)


def correct(outputs: np.ndarray) -> int:
    return sum(int(row.argmax()) == label for row, label in zip(outputs, LABELS, strict=True))


@pytest.mark.parametrize("caution", [0.0, 0.3, 5.0])
def test_lookahead_is_the_greedy_path_of_a_plain_loop(caution: float) -> None:
    outputs, left, path = OUTPUTS.astype(np.float64), list(range(5)), []
    while left:
        costs = [
            np.mean(
                [
                    -np.log(np.exp(row)[label] / np.exp(row).sum())
                    for row, label in zip(outputs + EFFECTS[j], LABELS, strict=True)
                ]
            )
            + caution * np.abs(EFFECTS[j]).mean()
            for j in left
        ]
        j = left.pop(int(np.argmin(costs)))
        outputs = outputs + EFFECTS[j]
        path.append(int(HEADS[j]))
    found = Lookahead(caution).path(view())
    assert found.heads == tuple(path)
    assert Lookahead(caution, limit=2).path(view()).heads == tuple(path[:2])


@pytest.mark.parametrize("caution", [0.0, 0.3])
@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_the_shortlist_finds_what_looking_at_all_heads_finds(caution: float, classes: int) -> None:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 300) if classes > 1 else random.normal(size=300)
    objective = make_objective("accuracy" if classes > 1 else "pearson", labels, classes)
    outputs = random.normal(size=(300, classes)).astype(np.float32)
    effects = (
        random.normal(size=(60, 300, classes)) * random.uniform(0.05, 0.5, (60, 1, 1))
    ).astype(np.float32)
    node = Node(HeadSet(), 0, outputs, objective.score(outputs), True)
    asked = View(
        Problem(HeadMap((30, 30)), objective, 0.1), Threshold(0.1), node, np.arange(60), effects
    )
    full = Lookahead(caution, limit=24, shortlist=60).path(asked).heads
    short = Lookahead(caution, limit=24).path(asked).heads
    losses = [
        objective.losses(outputs + effects[list(path)].sum(axis=0)).mean() for path in (full, short)
    ]
    assert losses[1] < 1.02 * losses[0]
    assert len(set(full[:8]) & set(short[:8])) >= 7


def test_heads_out_of_the_running_after_the_first_step_would_not_have_been_taken() -> None:
    random = np.random.default_rng(7)
    labels = random.integers(0, 3, 300)
    objective = make_objective("accuracy", labels, 3)
    outputs = random.normal(size=(300, 3)).astype(np.float32)
    sizes = random.lognormal(-3, 1, (200, 1, 1))
    effects = (random.normal(size=(200, 300, 3)) * sizes).astype(np.float32)
    node = Node(HeadSet(), 0, outputs, objective.score(outputs), True)
    problem = Problem(HeadMap((100, 100)), objective, 0.1)
    asked = View(problem, Threshold(0.1), node, np.arange(200), effects)
    for caution in (0.0, 0.3):
        paths = [Lookahead(caution, pool=pool).path(asked) for pool in (128, 200)]
        assert paths[0] == paths[1]


@pytest.mark.parametrize("classes", [1, 2])
def test_derivatives_are_those_of_the_loss(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40) if classes > 1 else random.normal(size=40)
    objective = make_objective("accuracy" if classes > 1 else "pearson", labels, classes)
    outputs = random.normal(size=(40, classes))
    step = random.normal(size=(40, classes)) * 1e-2
    if classes > 1:
        step -= step.mean(axis=1, keepdims=True)
    slopes, curves = objective.derivatives(outputs)
    expected = objective.losses(outputs + step) - objective.losses(outputs)
    found = (slopes * step + curves * step**2).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.abs(expected).max() > 1e-3
    outputs[3] = np.nan
    slopes, curves = objective.derivatives(outputs)
    assert (slopes[3] == 0).all()


def test_reach_is_the_longest_prefix_predicted_feasible() -> None:
    for drop in (-30, -3, 0, 3, 10, 40):
        asked = view(drop)
        path = (4, 0, 6, 2, 3)
        outputs, feasible = OUTPUTS.astype(np.float64), []
        for k in range(6):
            if k:
                outputs = outputs + EFFECTS[list(HEADS).index(path[k - 1])]
            if correct(outputs) >= asked.threshold.correct:
                feasible.append(k)
        assert predicted_reach(asked, path) == (feasible[-1] if feasible else None)


@pytest.mark.parametrize("seed", range(8))
def test_reach_is_that_of_looking_at_every_example(seed: int) -> None:
    """Ties, broken outputs and all: the examples looked at first only say no earlier."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 200)
    objective = make_objective("accuracy", labels, 3)
    outputs = random.integers(-1, 2, (200, 3)).astype(np.float32)
    outputs[np.arange(200), labels] += 2
    effects = random.integers(-1, 2, (12, 200, 3)).astype(np.float32)
    effects *= random.random((12, 200, 1)) < 0.5
    effects[random.integers(12), random.integers(200)] = np.nan
    node = Node(HeadSet(), 0, outputs, objective.score(outputs), True)
    asked = View(
        Problem(HeadMap((12,)), objective, 0.1), Threshold(0), node, np.arange(12), effects
    )
    path = tuple(int(j) for j in random.permutation(12))
    metrics = [
        objective.metrics((outputs + effects[list(path[:k])].sum(axis=0))[None])[0]
        for k in range(13)
    ]
    found = set()
    for value in (*metrics, 0.0, 1.0):
        feasible = [k for k in range(13) if metrics[k] >= value]
        reach = predicted_reach(replace(asked, threshold=Threshold(value)), path)
        assert reach == (feasible[-1] if feasible else None)
        found.add(reach)
    assert len(found) > 3


def loss_gradients() -> np.ndarray:
    """d loss / d gate by autograd: outputs = OUTPUTS - (gate - 1) * effect, at gate 1."""
    gates = torch.ones(5, 50, dtype=torch.float64, requires_grad=True)
    effects = torch.tensor(EFFECTS, dtype=torch.float64)
    logits = torch.tensor(OUTPUTS, dtype=torch.float64) + ((1 - gates)[:, :, None] * effects).sum(0)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS), reduction="sum")
    losses.backward()
    assert gates.grad is not None
    return gates.grad.numpy()


def test_michel_is_mean_absolute_gradient_normalised_by_layer() -> None:
    importance = np.abs(loss_gradients()).mean(axis=1)
    lower, upper = importance[:2].copy(), importance[2:].copy()  # heads 0, 2 | 3, 4, 6
    normal = np.concatenate([lower / np.linalg.norm(lower), upper / np.linalg.norm(upper)])
    assert Michel().path(view()).heads == tuple(int(j) for j in HEADS[np.argsort(normal)])


def test_fisher_is_the_mean_squared_gradient() -> None:
    importance = (loss_gradients() ** 2).mean(axis=1)
    assert Fisher().path(view()).heads == tuple(int(j) for j in HEADS[np.argsort(importance)])


@pytest.mark.parametrize("guide", [Michel(), Fisher()])
def test_a_broken_example_says_nothing_of_the_heads(guide: Michel | Fisher) -> None:
    """As `Ledger.view` has it: no head has an effect there."""
    whole, place = view(), 7
    outputs, effects = OUTPUTS.copy(), EFFECTS.copy()
    outputs[place], effects[:, place] = np.nan, 0.0
    broken = replace(whole, node=replace(whole.node, outputs=outputs), effects=effects)
    others = np.delete(np.arange(50), place)
    without = View(
        Problem(SHAPE, make_objective("accuracy", LABELS[others], 3), 0.1),
        whole.threshold,
        replace(whole.node, outputs=OUTPUTS[others]),
        HEADS,
        EFFECTS[:, others],
    )
    expected = guide.path(without).heads
    assert guide.path(broken).heads == expected
    assert list(expected) != sorted(expected)


def test_budget_takes_the_cheapest_heads_that_fit() -> None:
    base = correct(OUTPUTS)
    costs = [max(0, base - correct(OUTPUTS + effect)) for effect in EFFECTS]
    order = sorted(range(5), key=lambda j: (costs[j], j))
    for drop in (0, 1, 2, 5, 20):
        found = Budget().path(view(drop))
        assert found.heads == tuple(int(HEADS[j]) for j in order)
        spent = np.cumsum([costs[j] for j in order])
        assert found.reach == int((spent <= drop).sum())
