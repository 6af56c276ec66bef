"""Weights other than head counts: parameters and measured time."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from headsearch.errors import InputError
from headsearch.heads import HeadMap, HeadSet
from headsearch.search.astar import Result, Settings, search
from headsearch.search.learning import Learner
from headsearch.search.ledger import Ledger
from headsearch.search.weight import LATENCY, PARAMETERS, Weight, by_worth
from tests.search.lattice import Lattice, every_state

# The last head of the first layer takes much with it; the second's save evenly, the third's little.
UNEVEN = Weight(LATENCY, ((0, 1, 2, 30), (0, 10, 20, 30), (0, 3, 3)))
SHAPE = HeadMap((3, 3, 2))


def slow_weight(weight: Weight, state: HeadSet) -> int:
    pairs = SHAPE.pairs(state)
    return sum(
        row[sum(pair[0] == layer for pair in pairs)] for layer, row in enumerate(weight.saved)
    )


def weighed(seed: int, weight: Weight = UNEVEN, **settings: object) -> Lattice:
    lattice = Lattice(SHAPE.heads_per_layer, seed=seed, **settings)  # type: ignore[arg-type]  # by name
    lattice.problem = dataclasses.replace(lattice.problem, saves=weight)
    return lattice


def most(lattice: Lattice, weight: Weight) -> int:
    """By brute force."""
    objective = lattice.problem.objective
    base = objective.score(lattice.of(HeadSet()))
    threshold = objective.threshold(base, lattice.problem.max_drop)
    return max(
        slow_weight(weight, state)
        for state in every_state(SHAPE)
        if threshold.feasible(objective.score(lattice.of(state)))
    )


def run(lattice: Lattice, **settings: object) -> Result:
    return search(lattice.problem, lattice, Settings(**settings))  # type: ignore[arg-type]  # by name


def test_a_states_weight_is_the_sum_over_layers_of_what_so_many_heads_save() -> None:
    states = every_state(SHAPE)
    expected = [slow_weight(UNEVEN, state) for state in states]
    assert [UNEVEN.of(SHAPE, state) for state in states] == expected
    rows = np.array([[float(j in state) for j in range(SHAPE.total)] for state in states])
    assert UNEVEN.of_rows(SHAPE, rows).tolist() == expected
    assert UNEVEN.total == max(expected)


def test_gains_are_differences_along_a_path() -> None:
    start, path = HeadSet.of([0, 4]), (1, 7, 2, 6)
    states = [start | HeadSet.of(path[:k]) for k in range(5)]
    expected = [slow_weight(UNEVEN, s) - slow_weight(UNEVEN, start) for s in states]
    assert UNEVEN.gains(SHAPE, start, path) == expected


def test_the_most_that_so_many_heads_save_is_that_of_brute_force() -> None:
    for count in range(SHAPE.total + 1):
        sets = itertools.chain.from_iterable(
            itertools.combinations(range(SHAPE.total), k) for k in range(count + 1)
        )
        assert UNEVEN.most(count) == max(slow_weight(UNEVEN, HeadSet.of(heads)) for heads in sets)


def test_heads_are_counted_by_default() -> None:
    weight = Lattice((2, 3)).problem.weight
    assert weight == Weight.each(HeadMap((2, 3)))
    assert weight.counts_heads
    assert weight.step == 1
    assert weight.worths(HeadMap((2, 3))).tolist() == [1.0] * 5
    assert [weight.most(k) for k in range(6)] == list(range(6))


def test_heads_of_a_layer_share_what_all_of_them_save() -> None:
    saves = [10.0] * 6 + [1.5] * 2
    worths = UNEVEN.worths(SHAPE)
    np.testing.assert_allclose(worths, np.array(saves) / np.mean(saves))
    assert worths.mean() == pytest.approx(1.0)
    assert UNEVEN.step == 7, "63 by 8 heads"
    assert Weight(LATENCY, ((0, 0, 0, 1),)).step == 1


def test_layers_without_heads_are_no_obstacle() -> None:
    weight = Weight.each(HeadMap((0, 2)), PARAMETERS, [7, 5])
    assert weight.saved == ((0,), (0, 5, 10))
    assert weight.counts_heads


def test_a_head_that_saves_less_must_cost_less() -> None:
    costs, worths = np.array([1.0, 1.0, -1.0, -1.0]), np.array([2.0, 0.5, 2.0, 0.5])
    assert np.argsort(by_worth(costs, worths)).tolist() == [2, 3, 0, 1]
    assert by_worth(costs, np.ones(4)).tolist() == costs.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_an_exhaustive_search_finds_what_saves_most(seed: int) -> None:
    lattice = weighed(seed)
    result = run(lattice, patience=None)
    assert result.stopped in ("frontier exhausted", "all that can be saved is saved")
    assert result.best.weight == most(lattice, UNEVEN) == result.bound
    assert result.best.weight == slow_weight(UNEVEN, result.best.heads)


def test_what_saves_most_need_not_have_most_heads_removed() -> None:
    fewer = 0
    for seed in (3, 4):
        by_time, by_count = (
            run(weighed(seed, w), patience=None) for w in (UNEVEN, Weight.each(SHAPE))
        )
        assert by_time.best.weight >= slow_weight(UNEVEN, by_count.best.heads)
        fewer += len(by_time.best.heads) < len(by_count.best.heads)
    assert fewer


@pytest.mark.parametrize("seed", range(4))
def test_best_and_bound_hold_the_truth_between_them_under_any_budget(seed: int) -> None:
    lattice = weighed(seed)
    truth = most(lattice, UNEVEN)
    for evaluations in (1, 5, 20, 60, 256):
        result = run(weighed(seed), max_evaluations=evaluations)
        assert result.best.weight <= truth <= result.bound


def test_operating_points_are_the_frontier_of_what_is_saved() -> None:
    lattice = weighed(3)
    result = run(lattice, patience=None)
    objective = lattice.problem.objective
    scored = [
        (slow_weight(UNEVEN, s), objective.score(lattice.of(s)).metric) for s in every_state(SHAPE)
    ]
    frontier = {
        point
        for point in scored
        if not any(o[0] >= point[0] and o[1] >= point[1] and o != point for o in scored)
    }
    assert {(node.weight, node.score.metric) for node in result.points} == frontier


def test_the_default_search_comes_close_with_few_evaluations() -> None:
    found, best = 0, 0
    for seed in range(10):
        lattice = weighed(seed, effect=0.2, interaction=0.05)
        found += run(lattice, max_evaluations=60).best.weight
        best += most(lattice, UNEVEN)
    assert found >= 0.95 * best


def test_proposals_empty_whole_layers_and_put_heads_back_for_it() -> None:
    lattice = weighed(1, effect=0.2, interaction=0.05)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    ledger.gradients([HeadSet()])
    ledger.score([(HeadSet(), (HeadSet.of([0, 3]), HeadSet.of([0, 3, 4]), HeadSet.of([3])))])
    best = ledger.best
    proposals = Learner(ledger).proposals()
    assert all(each.weight == slow_weight(UNEVEN, each.state) for each in proposals)
    emptied = [p.state for p in proposals if HeadSet.of([0, 1, 2]) <= p.state]
    assert any(
        not best.heads <= state and slow_weight(UNEVEN, state) > best.weight for state in emptied
    )


@pytest.mark.parametrize(
    ("kind", "saved", "rule"),
    [
        ("watts", ((0, 1),), "must be one of heads, parameters, latency but got 'watts'"),
        (LATENCY, ((1, 2),), "what layer 0 saves must be whole numbers from 0 on that never fall"),
        (LATENCY, ((0, 2), (0, 3, 2)), "what layer 1 saves"),
        (LATENCY, ((0, 1.5),), "what layer 0 saves"),
        (LATENCY, ((0, True),), "what layer 0 saves"),
        (LATENCY, ((),), "what layer 0 saves"),
        (LATENCY, ((0, 0), (0,)), "removing every head saves no microseconds"),
    ],
)
def test_what_is_no_weight_is_refused(kind: str, saved: tuple[tuple[int, ...]], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        Weight(kind, saved)


def test_a_weight_is_read_back_for_its_own_heads_alone() -> None:
    values = UNEVEN.to_json()
    assert Weight.from_json(values, SHAPE) == UNEVEN
    with pytest.raises(InputError, match=r"for heads \[3, 3, 2\] but the model has \[4, 4\]"):
        Weight.from_json(values, HeadMap((4, 4)))
    with pytest.raises(InputError, match=r"for heads \[3, 3, 2\] but the model has \[3, 2, 3\]"):
        Weight.from_json(values, HeadMap((3, 2, 3)))
    with pytest.raises(InputError, match="`format` must be 1 but got 2"):
        Weight.from_json({**values, "format": 2}, SHAPE)
    with pytest.raises(InputError, match="not a weight"):
        Weight.from_json({"format": 1, "kind": "heads"}, SHAPE)
