"""The baselines against plain loops on small lattices."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from headsearch.heads import HeadSet
from headsearch.search.baselines import BASELINES, Baseline, Outcome, run_baseline
from headsearch.search.baselines.evolution import Evolution
from headsearch.search.baselines.gradient import Bertology
from headsearch.search.baselines.greedy import Beam
from headsearch.search.baselines.kwon import rearranged
from headsearch.search.baselines.random_orders import RandomOrders
from headsearch.search.problem import GRADIENTS, Problem
from headsearch.task.metric import Score, make_objective
from tests.search.lattice import Lattice, brute_force, every_state

EVERY = pytest.mark.parametrize("name", BASELINES)
SEEDS = pytest.mark.parametrize("seed", range(4))


def play(
    baseline: Baseline | str, lattice: Lattice, max_evaluations: int | None = None, **options: Any
) -> tuple[Outcome, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []
    method = BASELINES[baseline] if isinstance(baseline, str) else baseline
    outcome = run_baseline(
        method, lattice.problem, lattice, max_evaluations, on_step=steps.append, **options
    )
    return outcome, steps


def scored(steps: list[dict[str, Any]]) -> list[list[set[int]]]:
    """The states of each step after the baseline's, as sets of heads."""
    return [[set(HeadSet(int(row[0], 16))) for row in step["scored"]] for step in steps[1:]]


def score_of(lattice: Lattice, heads: set[int]) -> Score:
    return lattice.problem.objective.score(lattice.of(HeadSet.of(heads)))


def least_correct(lattice: Lattice) -> int:
    labels = lattice.problem.objective.labels
    base = score_of(lattice, set()).correct
    assert base is not None
    return base - int(lattice.problem.max_drop * len(labels) + 1e-9)


def feasible(lattice: Lattice, heads: set[int]) -> bool:
    return (score_of(lattice, heads).correct or 0) >= least_correct(lattice)


def loss_gradients(lattice: Lattice, heads: set[int]) -> np.ndarray:
    """d loss / d gate, (heads, examples), from the chain rule written out."""
    outputs = lattice.of(HeadSet.of(heads)).astype(np.float64)
    slopes = lattice.gradients(HeadSet.of(heads)).astype(np.float64)
    found = np.zeros((lattice.shape.total, len(outputs)))
    for example, label in enumerate(lattice.problem.objective.labels):
        chances = np.exp(outputs[example]) / np.exp(outputs[example]).sum()
        chances[label] -= 1
        found[:, example] = chances @ slopes[example]
    return found


def michel_order(lattice: Lattice, heads: set[int]) -> list[int]:
    """Remaining heads, the least important first."""
    importance = {
        j: float(np.mean(np.abs(row)))
        for j, row in enumerate(loss_gradients(lattice, heads))
        if j not in heads
    }
    layer = {j: lattice.shape.position(j)[0] for j in importance}
    norms = {
        name: sum(importance[j] ** 2 for j in importance if layer[j] == name) ** 0.5
        for name in set(layer.values())
    }
    return sorted(importance, key=lambda j: (importance[j] / norms[layer[j]], j))


# What holds of all of them


@EVERY
@SEEDS
def test_the_answer_is_the_best_feasible_state_of_all_that_were_scored(
    name: str, seed: int
) -> None:
    lattice = Lattice((3, 4), seed=seed)
    outcome, steps = play(name, lattice)
    states = [state for step in scored(steps) for state in step]
    sure = [state for state in [set(), *states] if feasible(lattice, state)]
    best = min(
        sure,
        key=lambda s: (-len(s), score_of(lattice, s).loss, HeadSet.of(s).bits),
    )
    assert set(outcome.ledger.best.heads) == best
    assert outcome.ledger.best.score == score_of(lattice, best)
    assert outcome.name == name
    assert outcome.stopped == "came to its end"


@EVERY
@SEEDS
def test_no_state_is_scored_twice_and_all_on_every_example(name: str, seed: int) -> None:
    lattice = Lattice((2, 4, 3), seed=seed)
    outcome, steps = play(name, lattice)
    states = [state for state, _ in lattice.given]
    assert len(states) == len(set(states)) == outcome.ledger.evaluations
    assert {rows for _, rows in lattice.given} == {40}
    assert states[1:] == [HeadSet.of(state) for step in scored(steps) for state in step]
    assert all(ask.decide is None for asks in lattice.questions for ask in asks)
    measured = [ask.states for asks in lattice.questions for ask in asks if ask.kind == GRADIENTS]
    assert len(measured) == len(set(measured)) == len(outcome.ledger.measured)


@EVERY
def test_the_budget_ends_it_exactly_where_the_unlimited_run_was_then(name: str) -> None:
    everything = Lattice((3, 4), seed=1)
    play(name, everything)
    for limit in (1, 2, 3, 7, 30, 127, 128):
        lattice = Lattice((3, 4), seed=1)
        outcome, _ = play(name, lattice, limit)
        assert lattice.given == everything.given[: len(lattice.given)]
        short = len(everything.given) > limit
        assert outcome.ledger.evaluations == (limit if short else len(everything.given))
        assert outcome.stopped == ("evaluation budget spent" if short else "came to its end")
        assert outcome.ledger.best.feasible


@EVERY
def test_the_same_run_has_the_same_transcript(name: str) -> None:
    first, second = (play(name, Lattice((4, 4), seed=8))[1] for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert {step["kind"] for step in first[1:]} == {name}


@EVERY
def test_a_single_head_is_no_trouble(name: str) -> None:
    outcome, _ = play(name, Lattice((1,), max_drop=0.99))
    assert outcome.ledger.best.weight == (0 if name == "bertology" else 1)


@EVERY
def test_a_metric_that_counts_no_examples_is_no_trouble(name: str) -> None:
    lattice = Lattice((2, 3), seed=2, classes=2, effect=0.2, interaction=0.1)
    objective = make_objective("f1", lattice.problem.objective.labels, 2)
    lattice.problem = Problem(lattice.shape, objective, 0.1)
    outcome, steps = play(name, lattice)
    states = [state for step in scored(steps) for state in step]
    threshold = score_of(lattice, set()).metric - 0.1
    most = max(len(s) for s in [set(), *states] if score_of(lattice, s).metric >= threshold)
    assert outcome.ledger.best.weight == most


@EVERY
def test_a_stop_from_outside_keeps_what_was_found(name: str) -> None:
    outcome, _ = play(name, Lattice((3, 4)), should_stop=lambda: "enough")
    assert outcome.stopped == "enough"
    assert outcome.ledger.best is outcome.ledger.baseline


def test_names_are_those_of_the_methods() -> None:
    assert all(name == baseline.name for name, baseline in BASELINES.items())


# Random orders


@SEEDS
def test_random_orders_are_scored_on_a_ladder_and_filled_in_where_they_fail(seed: int) -> None:
    lattice = Lattice((4, 4, 4), seed=seed)
    _, steps = play(RandomOrders(seed=seed, orders=3, rungs=4), lattice)
    random = np.random.default_rng(seed)
    orders = [random.permutation(12) for _ in range(3)]
    ladder = [set(order[:k].tolist()) for order in orders for k in (3, 6, 9, 12)]
    between = []
    for order in orders:
        good = max(k for k in (0, 3, 6, 9, 12) if feasible(lattice, set(order[:k].tolist())))
        sizes = range(good + 1, good + 3) if good < 12 else ()
        between += [set(order[:k].tolist()) for k in sizes]
    found = scored(steps)
    assert found[0] == [s for i, s in enumerate(ladder) if s not in ladder[:i]]
    known = found[0]
    fresh = [s for i, s in enumerate(between) if s not in known and s not in between[:i]]
    assert [state for step in found[1:] for state in step] == fresh


# Gradients


@SEEDS
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("michel", [11]),
        ("michel-10-steps", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]),
        ("michel-18-steps", list(range(1, 12))),
        ("michel-every-head", list(range(1, 12))),
    ],
)
def test_michel_measures_anew_at_the_ends_of_its_steps(
    name: str, ends: list[int], seed: int
) -> None:
    lattice = Lattice((4, 2, 5), seed=seed)
    outcome, steps = play(name, lattice)
    state, expected, walk = set[int](), [], []
    for end in ends:
        order = michel_order(lattice, state)[: end - len(state)]
        expected += [state | set(order[: k + 1]) for k in range(len(order))]
        state = state | set(order)
        walk.append(state)
    found = [state for step in scored(steps) for state in step]
    assert sorted(found, key=len) == expected
    # The ends of steps first, or tenths where there are fewer steps; then what is next to the best.
    coarse = walk if len(ends) > 1 else [s for s in expected if len(s) != 1]
    assert found[: len(coarse)] == coarse
    best = max((len(s) for s in coarse if feasible(lattice, s)), default=0)
    following = min((len(s) for s in coarse if len(s) > best), default=best)
    near = [s for s in expected if best < len(s) < following]
    assert found[len(coarse) :][: len(near)] == near
    assert outcome.ledger.evaluations == 12
    assert len(outcome.ledger.measured) == len(ends)


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.2, 0.99])
@SEEDS
def test_bertology_stops_at_its_first_infeasible_step(seed: int, drop: float) -> None:
    lattice = Lattice((6, 6, 8), seed=seed, effect=0.2, interaction=0.1, max_drop=drop)
    outcome, steps = play(Bertology(amount=0.15), lattice)
    state, expected, answer = set[int](), list[list[set[int]]](), set[int]()
    while True:
        state = state | set(michel_order(lattice, state)[:3])
        expected.append([state])
        if not feasible(lattice, state):
            break
        answer = state
        if len(state) == 20:
            break
    assert scored(steps) == expected
    assert set(outcome.ledger.best.heads) == answer
    assert len(outcome.ledger.measured) == len(expected)


# Fisher


def exchanged(gradients: np.ndarray, count: int) -> set[int]:
    """Greedy exchanges on gradient vectors, (heads, examples), as the method's authors do them."""
    if count in (0, len(gradients)):
        return set(range(count))
    lengths = [(float((row**2).sum()), j) for j, row in enumerate(gradients)]
    order = [j for _, j in sorted(lengths)]
    chosen = order[:count]
    for j in order[count:]:
        chosen.append(j)
        costs = [
            float((sum(gradients[k] for k in chosen if k != left_out) ** 2).sum())
            for left_out in chosen
        ]
        chosen.pop(int(np.argmin(costs)))
    return set(chosen)


@pytest.mark.parametrize("heads", [1, 2, 5, 8])
@SEEDS
def test_the_rearrangement_is_that_of_gradient_vectors(heads: int, seed: int) -> None:
    gradients = np.random.default_rng(seed).normal(size=(heads, 12)) + 0.3
    fisher = gradients @ gradients.T
    for count in range(heads + 1):
        assert set(rearranged(fisher, count)) == exchanged(gradients, count)


@pytest.mark.parametrize("heads", [2, 3, 4, 6])
@SEEDS
def test_the_rearrangement_is_exact_for_one_head_and_for_all_but_one(heads: int, seed: int) -> None:
    gradients = np.random.default_rng(seed).normal(size=(heads, 12)) + 0.3
    fisher = gradients @ gradients.T
    for count in {1, heads - 1}:
        best = min(
            itertools.combinations(range(heads), count),
            key=lambda chosen: fisher[np.ix_(chosen, chosen)].sum(),
        )
        assert set(rearranged(fisher, count)) == set(best)


@SEEDS
def test_fisher_chooses_globally_then_rearranges_each_layer(seed: int) -> None:
    lattice = Lattice((4, 2, 5), seed=seed)
    outcome, steps = play("fisher", lattice)
    gradients = loss_gradients(lattice, set())
    order = sorted(range(11), key=lambda j: float((gradients[j] ** 2).sum()))
    expected = []
    for count in range(1, 12):
        state = set[int]()
        for first, last in ((0, 4), (4, 6), (6, 11)):
            inside = sum(first <= j < last for j in order[:count])
            state |= {first + j for j in exchanged(gradients[first:last], inside)}
        expected.append(state)
    assert sorted((s for step in scored(steps) for s in step), key=len) == expected
    assert any(expected[k] != set(order[: k + 1]) for k in range(11)), "something was exchanged"
    assert outcome.ledger.evaluations == 12
    assert len(outcome.ledger.measured) == 1


# Greedy and beam


@pytest.mark.parametrize("name", ["loss-greedy", "metric-greedy"])
@SEEDS
def test_greedy_is_a_plain_loop(name: str, seed: int) -> None:
    lattice = Lattice((3, 2, 4), seed=seed)
    outcome, steps = play(name, lattice)
    state, path = set[int](), [set[int]()]
    while len(state) < 9:
        ranks = []
        for j in sorted(set(range(9)) - state):
            score = score_of(lattice, state | {j})
            gain = -score.metric if name == "metric-greedy" else 0.0
            ranks.append((gain, score.loss, j))
        state = state | {min(ranks)[2]}
        path.append(state)
    assert [{lattice.shape.index(*pair) for pair in s["removed"]} for s in steps[1:]] == path[:-1]
    assert outcome.ledger.evaluations == 9 * 10 / 2 + 1


@SEEDS
def test_a_beam_of_three_is_a_plain_loop(seed: int) -> None:
    lattice = Lattice((3, 2, 3), seed=seed)
    _, steps = play(Beam("beam-3", 3), lattice)
    held: list[set[int]] = [set()]
    for found in scored(steps):
        children = list[set[int]]()
        for state in held:
            for j in sorted(set(range(8)) - state):
                if state | {j} not in children:
                    children.append(state | {j})
        assert found == children
        held = sorted(children, key=lambda s: score_of(lattice, s).loss)[:3]
    assert held == [set(range(8))]


def test_a_beam_of_one_is_greedy() -> None:
    greedy, beam = (
        play(baseline, Lattice((4, 4), seed=3))[1] for baseline in ("loss-greedy", Beam("beam", 1))
    )
    assert scored(greedy) == scored(beam)


@SEEDS
def test_a_beam_as_wide_as_the_lattice_is_brute_force_level_by_level(seed: int) -> None:
    lattice = Lattice((3, 4), seed=seed)
    outcome, steps = play(Beam("beam", 1000), lattice)
    for level, found in enumerate(scored(steps), start=1):
        wanted = {state for state in every_state(lattice.shape) if len(state) == level}
        assert {HeadSet.of(state) for state in found} == wanted
    assert outcome.ledger.best.heads == brute_force(lattice)[0]


# The paper's rule


@pytest.mark.parametrize("drop", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("seed", range(8))
def test_the_budget_rule_is_a_plain_best_first_loop(seed: int, drop: float) -> None:
    lattice = Lattice((3, 4), seed=seed, effect=0.4, interaction=0.2, max_drop=drop)
    outcome, steps = play("budget-rule", lattice)
    least = least_correct(lattice)

    def left(state: set[int]) -> int:
        return (score_of(lattice, state).correct or 0) - least

    def h_of(state: set[int], costs: dict[int, int]) -> int:
        if not state:
            return 7
        cheapest = sorted(costs[j] for j in range(7) if j not in state)
        return sum(total <= left(state) for total in itertools.accumulate(cheapest))

    waiting: list[tuple[set[int], dict[int, int]]] = [(set(), dict.fromkeys(range(7), 0))]
    met, expected = [set[int]()], []
    while waiting:
        waiting.sort(
            key=lambda entry: (
                -len(entry[0]) - h_of(*entry),
                -len(entry[0]),
                score_of(lattice, entry[0]).loss,
            )
        )
        state, costs = waiting.pop(0)
        if h_of(state, costs) == 0:
            break
        now, children = dict(costs), list[set[int]]()
        for j in sorted(set(range(7)) - state):
            if costs[j] <= left(state):
                children.append(state | {j})
                now[j] = max(0, left(state) - left(state | {j}))
        expected.append((state, children))
        for child in children:
            if left(child) >= 0 and child not in met:
                met.append(child)
                waiting.append((child, now))
    found = [
        ({lattice.shape.index(*pair) for pair in step["removed"]}, states)
        for step, states in zip(steps[1:], scored(steps), strict=True)
    ]
    known, fresh = list[set[int]](), []
    for state, children in expected:
        fresh.append((state, [child for child in children if child not in known]))
        known += children
    assert found == fresh
    sizes = [len(state) for state in [*known, set[int]()] if left(state) >= 0]
    assert outcome.ledger.best.weight == max(sizes)


# Evolution


def levels(
    lattice: Lattice, steps: list[dict[str, Any]]
) -> list[tuple[set[int], list[list[set[int]]]]]:
    """The course of an evolution: the parent below each level, and the generations there."""
    course: list[tuple[set[int], list[list[set[int]]]]] = []
    for step, states in zip(steps[1:], scored(steps), strict=True):
        parent = {lattice.shape.index(*pair) for pair in step["removed"]}
        assert len({len(state) for state in states}) == 1, "one number of heads in a generation"
        if len(states[0]) > len(parent):
            course.append((parent, [states]))
        else:
            course[-1][1].append(states)
    return course


@pytest.mark.parametrize("seed", range(6))
def test_evolution_switches_heads_at_a_level_and_keeps_the_best(seed: int) -> None:
    lattice = Lattice((6, 6), seed=seed, effect=0.3, interaction=0.2)
    method = Evolution(seed=seed, initial=10, offspring=4, switches=2, rises=4, generations=8)
    _, steps = play(method, lattice, 300)
    best = {0: set[int]()}
    for step, states in zip(steps[1:], scored(steps), strict=True):
        parent = {lattice.shape.index(*pair) for pair in step["removed"]}
        assert parent == best[len(parent)], "the best of its level so far"
        for state in states:
            if len(state) > len(parent):
                assert parent < state
            else:
                assert 1 <= len(state - parent) == len(parent - state) <= 2
        held = [best[len(states[0])]] if len(states[0]) in best else []
        best[len(states[0])] = min([*held, *states], key=lambda s: score_of(lattice, s).loss)


@pytest.mark.parametrize("seed", range(6))
def test_evolution_rises_where_something_is_feasible_and_ends_at_one_head_too_many(
    seed: int,
) -> None:
    lattice = Lattice((6, 6, 6), seed=seed, effect=0.6, interaction=0.3, max_drop=0.0)
    method = Evolution(seed=seed, initial=10, offspring=4, rises=4, settle=2, generations=6)
    outcome, steps = play(method, lattice)
    level, rise, most = 0, 4, 0
    for parent, generations in levels(lattice, steps):
        sizes = [len(states) for states in generations]
        assert (len(parent), len(generations[0][0])) == (level, level + rise)
        assert sizes == [4 if level else 10, *[4] * (len(sizes) - 1)]
        good = [any(feasible(lattice, state) for state in states) for states in generations]
        if any(good):
            assert len(good) == max(3, good.index(True) + 1)
            level += rise
            most = max(most, level)
        else:
            assert len(good) == 7, "the first generation and six more"
            rise //= 2
    assert rise == 0
    assert 0 < level < 14, "so that no generation ran out of states"
    assert outcome.ledger.best.weight == most


@pytest.mark.parametrize("seed", range(6))
def test_evolution_may_begin_where_michels_order_leads(seed: int) -> None:
    lattice = Lattice((6, 6), seed=seed, effect=0.6, interaction=0.3, max_drop=0.05)
    method = Evolution(offspring=4, rises=4, generations=4, seeded=True)
    outcome, steps = play(method, lattice)
    order = michel_order(lattice, set())
    walk = scored(steps)
    tenths = [set(order[:count]) for count in (2, 3, 4, 5, 6, 8, 9, 10, 11, 12)]
    assert walk[0] == tenths
    furthest = max((len(s) for s in tenths if feasible(lattice, s)), default=0)
    assert furthest < 12, "there is something left to evolve"
    between = [set(order[: furthest + 1])] if furthest in (0, 6) else []
    if between:
        assert walk[1] == between
        furthest += feasible(lattice, between[0])
    assert len(steps[2 + len(between)]["removed"]) == furthest
    assert outcome.ledger.best.weight >= furthest


def test_evolution_depends_on_its_seed_alone() -> None:
    courses = [scored(play(Evolution(seed=n), Lattice((4, 4, 4)))[1]) for n in (0, 0, 1)]
    assert courses[0] == courses[1] != courses[2]
