"""Lowering the bound after a search."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from headsearch.heads import HeadSet
from headsearch.search.astar import Result, Settings, search
from headsearch.search.problem import OUTPUTS
from tests.search.lattice import Lattice, brute_force

# Effects that add up: removing more heads nearly always costs more.
MONOTONE: dict[str, Any] = {"effect": 0.6, "interaction": 0.0, "examples": 120, "max_drop": 0.1}
FEW = Settings(max_expansions=0, proposals=0)


def run(lattice: Lattice, settings: Settings) -> tuple[Result, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []
    return search(lattice.problem, lattice, settings, on_step=steps.append), steps


def sharpened(evaluations: int) -> Settings:
    return dataclasses.replace(FEW, bound_evaluations=evaluations)


def test_bounds_get_lower_and_stay_above_the_truth_where_heads_only_hurt() -> None:
    lower = 0
    for seed in range(6):
        lattice = Lattice((5, 5), seed=seed, **MONOTONE)
        before, _ = run(lattice, FEW)
        after, _ = run(lattice, sharpened(20))
        truth = len(brute_force(lattice)[0])
        if not after.limits.violations:
            assert truth <= after.limits.assumed
        assert after.limits.best <= after.limits.assumed <= before.limits.assumed
        assert truth <= after.limits.proved
        lower += before.limits.assumed - after.limits.assumed
    assert lower >= 6


@pytest.mark.parametrize("seed", range(6))
def test_it_costs_no_more_than_was_allowed(seed: int) -> None:
    lattice = Lattice((4, 4), seed=seed, **MONOTONE)
    before, _ = run(lattice, FEW)
    for evaluations in (1, 3, 10):
        after, _ = run(lattice, sharpened(evaluations))
        # The last one may be a whole evaluation that began just below the limit.
        assert after.evaluations < before.evaluations + evaluations + 1


def test_a_search_that_ended_by_itself_says_so_whatever_ends_what_comes_after() -> None:
    lattice = Lattice((4, 4), seed=1, **MONOTONE)
    before, _ = run(lattice, FEW)
    limit = int(before.evaluations) + 2
    after, steps = run(lattice, dataclasses.replace(sharpened(50), max_evaluations=limit))
    assert any(step["kind"] == "bound" for step in steps)
    assert after.evaluations <= limit
    assert after.stopped == before.stopped == "expansion budget spent"


def test_without_evaluations_nothing_changes() -> None:
    lattice = Lattice((4, 4), seed=1)
    assert json.dumps(run(lattice, FEW)[1]) == json.dumps(run(lattice, sharpened(0))[1])
    assert not any(step["kind"] == "bound" for step in run(lattice, FEW)[1])


@pytest.mark.parametrize("seed", range(8))
def test_where_the_metric_is_not_monotone_it_ends_and_says_so(seed: int) -> None:
    lattice = Lattice((4, 4), seed=seed, effect=0.5, interaction=0.6)
    result, _ = run(lattice, sharpened(300))
    truth = len(brute_force(lattice)[0])
    assert result.best.weight <= truth <= result.limits.proved
    assert result.limits.best <= result.limits.assumed


def test_a_better_state_that_turns_up_is_kept() -> None:
    """Where no head matters the damage that is looked for is none, and the set is feasible."""
    lattice = Lattice((3, 3), seed=0, effect=0.0, interaction=0.0)
    settings = dataclasses.replace(
        sharpened(10), rollouts=Settings().rollouts[:1], max_evaluations=4
    )
    stopped, _ = run(lattice, settings)
    result, _ = run(lattice, dataclasses.replace(settings, max_evaluations=None))
    assert result.best.heads == lattice.shape.full
    assert stopped.best.weight <= result.best.weight


class Own(Lattice):
    """Every head is needed for ten examples of its own, of which gradients tell half the harm."""

    def of(self, heads: HeadSet) -> np.ndarray:
        return self._margins(heads, 1.2)

    def gradients(self, state: HeadSet) -> np.ndarray:
        heads = [HeadSet.of([j]) for j in range(self.shape.total)]
        slopes = [self._margins(HeadSet(), 0.0) - self._margins(head, 0.6) for head in heads]
        return np.stack(slopes, axis=2)

    def _margins(self, heads: HeadSet, harm: float) -> np.ndarray:
        labels = self.problem.objective.labels
        outputs = np.eye(2, dtype=np.float32)[labels]
        for head in heads:
            rows = np.arange(10 * head, 10 * head + 10)
            outputs[rows, labels[rows]] -= np.float32(harm)
        return outputs


def test_of_a_set_that_misses_the_budget_the_shortest_part_is_looked_for() -> None:
    lattice = Own((4, 4), examples=80, classes=2, max_drop=0.25)  # two heads may go, any two
    result, steps = run(lattice, sharpened(20))
    sizes = [
        (int(row[0], 16).bit_count(), row[3])
        for step in steps
        if step["kind"] == "bound"
        for row in step["scored"]
    ]
    assert sizes[0][0] > 3, "gradients tell that it takes more heads"
    assert (3, False) in sizes
    assert (2, True) in sizes
    assert result.best.weight == 2
    # Two disjoint sets of three: a head of each must stay.
    assert result.limits.assumed == 6
    assert not result.limits.violations


def test_what_it_will_ask_is_expected_for_workers_that_would_idle() -> None:
    lattice = Lattice((5, 5), seed=2, **MONOTONE)
    run(lattice, dataclasses.replace(sharpened(20), max_expansions=2))
    expected = {
        state for asks in lattice.expected for ask in asks for state in ask.states if ask.decide
    }
    asked = [
        state
        for asks in lattice.questions
        for ask in asks
        if ask.kind == OUTPUTS and ask.parent == HeadSet() and ask.decide
        for state in ask.states
    ]
    assert asked
    assert sum(state in expected for state in asked) >= len(asked) / 2


@pytest.mark.parametrize(("seed", "noise"), [(10, 0.3), (20, 1.0), (21, 0.3), (32, 0.3)])
@pytest.mark.parametrize("proposals", [0, pytest.param(8, marks=pytest.mark.slow)])
def test_workers_that_idle_change_nothing(seed: int, noise: float, proposals: int) -> None:
    """They have it looked at what comes next, at times when less is known than later."""
    settings = Settings(proposals=proposals, bound_evaluations=15, patience=2)
    idle, busy = (
        run(
            Lattice(
                (6, 6),
                seed=seed,
                examples=60,
                effect=0.35,
                interaction=0.03,
                max_drop=0.1,
                noise=noise,
                idle=idle,
            ),
            settings,
        )[1]
        for idle in (True, False)
    )
    assert any(step["kind"] == "bound" for step in busy)
    assert json.dumps(idle) == json.dumps(busy)


def test_same_inputs_same_steps() -> None:
    first, second = (run(Lattice((4, 4), seed=3, **MONOTONE), sharpened(15))[1] for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
