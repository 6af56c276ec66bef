"""The search against brute force on small lattices, its budgets and its transcript."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.search.astar import Result, Settings, search
from headsearch.search.guides import Budget, Fisher, Lookahead, Michel
from headsearch.search.ledger import BrokenBaseline, Ledger
from headsearch.search.points import gaps, operating_points, safer_points
from headsearch.search.problem import Node, Problem
from headsearch.search.proposals import ASIDE
from headsearch.search.rollouts import Rollout
from headsearch.task.metric import REGRESSION, Score, make_objective
from headsearch.task.readout import SEQUENCES
from tests.search.lattice import Lattice, brute_force, every_state

EXHAUSTIVE = Settings(patience=None)


def run(
    lattice: Lattice, settings: Settings, **options: Any
) -> tuple[Result, list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []
    result = search(lattice.problem, lattice, settings, on_step=steps.append, **options)
    return result, steps


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("effect", "interaction"), [(0.5, 0.0), (0.3, 0.2), (0.6, 0.6)])
def test_equals_brute_force_with_budgets_off(seed: int, effect: float, interaction: float) -> None:
    lattice = Lattice((3, 4), seed=seed, effect=effect, interaction=interaction)
    result, _ = run(lattice, EXHAUSTIVE)
    best, score = brute_force(lattice)
    assert (result.best.heads, result.best.score) == (best, score)
    assert result.stopped in ("frontier exhausted", "all that can be saved is saved")
    assert result.bound == len(best)


# One jump from the root: what is measured on the way would leave little to decide early.
COARSE = (Rollout(Michel(), 144), Rollout(Lookahead(0.3), 144))


@pytest.mark.parametrize("shape", [(3, 3, 4), pytest.param((4, 4, 4), marks=pytest.mark.slow)])
def test_equals_brute_force_on_more_heads(shape: tuple[int, ...]) -> None:
    lattice = Lattice(shape, seed=3, examples=20, effect=0.4, interaction=0.3)
    result, _ = run(lattice, EXHAUSTIVE)
    assert result.best.heads == brute_force(lattice)[0]
    assert result.evaluations == 2 ** sum(shape)


@pytest.mark.parametrize("guide", [Michel(), Fisher(), Lookahead(0.0), Lookahead(1.0), Budget()])
def test_any_single_guide_leaves_the_exhaustive_result_as_it_is(guide: Any) -> None:
    lattice = Lattice((3, 3), seed=1)
    rollouts = () if isinstance(guide, Budget) else (Rollout(guide, 2),)
    settings = Settings(rollouts=rollouts, guides=(guide,), patience=None)
    result, _ = run(lattice, settings)
    assert result.best.heads == brute_force(lattice)[0]


def rows_of(lattice: Lattice) -> dict[HeadSet, int]:
    """How many examples of each state the oracle was asked for and gave, at the most."""
    given: dict[HeadSet, int] = {}
    for state, rows in lattice.given:
        given[state] = max(rows, given.get(state, 0))
    return given


def test_no_state_is_asked_for_twice_but_to_go_on_where_it_was_given_up() -> None:
    lattice = Lattice((3, 4), seed=2)
    result, _ = run(lattice, EXHAUSTIVE)
    times: dict[HeadSet, list[int]] = {}
    for state, rows in lattice.given:
        times.setdefault(state, []).append(rows)
    assert set(times) == set(every_state(lattice.shape))
    assert all(rows == sorted(set(rows)) and len(rows) <= 2 for rows in times.values())
    assert any(len(rows) == 2 for rows in times.values())
    assert sum(rows_of(lattice).values()) == result.evaluations * 40


@pytest.mark.parametrize("seed", range(4))
def test_the_hardest_examples_first_decide_the_same_sooner(seed: int) -> None:
    plain, sorted_ = (
        Lattice((4, 4), seed=seed, examples=200, hardest_first=hardest) for hardest in (False, True)
    )
    # Later expansions may differ: of what is given up no loss is known to order them by.
    settings = Settings(rollouts=COARSE, patience=None, max_expansions=1, proposals=0)
    result, steps = run(plain, settings)
    sooner, others = run(sorted_, settings)
    assert sooner.best.heads == result.best.heads
    decided, sooner_decided = (
        {row[0]: row[3] for step in some for row in step["scored"]} for some in (steps, others)
    )
    # Paths may differ: of a single removal that was given up, guides know what was scored alone.
    both = decided.keys() & sooner_decided.keys()
    assert len(both) > 0.8 * len(decided)
    assert all(decided[state] == sooner_decided[state] for state in both)
    assert sooner.evaluations < result.evaluations
    early = [ask for asks in sorted_.questions for ask in asks if ask.decide is not None]
    assert early
    threshold = result.threshold
    for ask in early:
        assert ask.order is not None
        parent = sorted_.of(ask.parent)
        ahead = sorted_.problem.objective.margins(parent)
        wrong = ~(ahead > sorted_.problem.objective.least).all(axis=0)
        assert wrong[ask.order.examples[: wrong.sum()]].all(), "the parent's errors come first"
        assert sorted(ask.order.examples) == list(range(200))
        assert ask.order.ends[-1] == 200
        assert ask.order.ends[0] > 200 - threshold.correct


@pytest.mark.parametrize("seed", range(5))
def test_bound_and_incumbent_hold_the_truth_between_them_under_any_budget(seed: int) -> None:
    lattice = Lattice((3, 4), seed=seed)
    truth = len(brute_force(lattice)[0])
    for evaluations in (1, 2, 5, 20, 60, 128):
        result, _ = run(lattice, Settings(max_evaluations=evaluations))
        assert result.evaluations <= evaluations
        assert result.best.weight <= truth <= result.bound
        assert result.best.feasible


def test_more_evaluations_never_find_less() -> None:
    lattice = Lattice((4, 4), seed=5)
    found = [
        run(lattice, Settings(max_evaluations=n, patience=None))[0].best.weight
        for n in range(1, 200, 33)
    ]
    assert found == sorted(found)


def test_every_claimed_score_is_the_states_own() -> None:
    lattice = Lattice((3, 3), seed=4)
    result, _ = run(lattice, Settings())
    objective = lattice.problem.objective
    for node in [result.baseline, result.best, *result.points, *result.candidates]:
        assert node.score == objective.score(lattice.of(node.heads))
        assert node.feasible == (node.score.correct >= result.threshold.correct)


def test_candidates_are_all_feasible_states_best_first() -> None:
    lattice = Lattice((3, 3), seed=6)
    result, _ = run(lattice, EXHAUSTIVE)
    objective = lattice.problem.objective
    feasible = [
        state
        for state in every_state(lattice.shape)
        if result.threshold.feasible(objective.score(lattice.of(state)))
    ]
    assert {node.heads for node in result.candidates} == set(feasible)
    keys = [(-n.weight, n.score.loss, n.heads.bits) for n in result.candidates]
    assert keys == sorted(keys)


def test_operating_points_are_the_pareto_frontier() -> None:
    lattice = Lattice((3, 3), seed=7)
    result, _ = run(lattice, EXHAUSTIVE)
    objective = lattice.problem.objective
    scored = [(len(s), objective.score(lattice.of(s)).metric) for s in every_state(lattice.shape)]
    frontier = {
        point
        for point in scored
        if not any(o[0] >= point[0] and o[1] >= point[1] and o != point for o in scored)
    }
    found = [(node.weight, node.score.metric) for node in result.points]
    assert len(found) == len(set(found))
    assert set(found) == frontier
    assert found == sorted(found, reverse=True)


def test_same_inputs_same_transcript() -> None:
    first, second = (run(Lattice((4, 4), seed=8), Settings())[1] for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize("budget", [1, 3, 10, 25, 33, 41, 50, 60])
@pytest.mark.parametrize("by", ["evaluations", "a stop"])
def test_transcript_accounts_for_every_evaluation(budget: int, by: str) -> None:
    lattice = Lattice((4, 4), seed=9)

    def enough() -> str | None:
        return "enough" if by == "a stop" and len(lattice.given) >= budget else None

    settings = Settings(max_evaluations=budget if by == "evaluations" else None)
    result, steps = run(lattice, settings, should_stop=enough)
    assert result.stopped == ("enough" if by == "a stop" else "evaluation budget spent")
    scored = [HeadSet(int(row[0], 16)) for step in steps for row in step["scored"]]
    assert scored == [state for state, _ in lattice.given]
    assert sum(rows_of(lattice).values()) == result.evaluations * 40
    assert result.evaluations == steps[-1]["evaluations"]
    best = result.best
    assert steps[-1]["best"] == [len(best.heads), best.score.metric, best.score.loss]
    if by == "evaluations":
        assert result.evaluations <= budget
    assert [step["step"] for step in steps] == list(range(len(steps)))
    objective = lattice.problem.objective
    for step in steps:
        for bits, metric, loss, feasible, rows in step["scored"]:
            score = objective.score(lattice.of(HeadSet(int(bits, 16))))
            if rows == 40:
                assert (metric, loss) == (score.metric, score.loss)
            else:  # given up: nothing is said of what was not computed, and rightly so
                assert (metric, loss, feasible) == (None, None, False)
                assert not result.threshold.feasible(score)


def test_giving_up_early_saves_work_and_decides_the_same() -> None:
    spent, found = {"late": 0.0, "early": 0.0}, {"late": 0, "early": 0}
    for seed in range(10):
        states: dict[str, dict[str, tuple[bool, int]]] = {}
        for name in spent:
            lattice = Lattice((4, 4, 4), seed=seed, effect=0.6, max_drop=0.0)
            if name == "late":
                lattice.rounds = ()
            # What the surrogate learns from a state depends on how much of it is known.
            settings = Settings(rollouts=COARSE, max_expansions=3, proposals=0)
            result, steps = run(lattice, settings)
            states[name] = {row[0]: (row[3], row[4]) for step in steps for row in step["scored"]}
            assert result.evaluations * 40 == sum(rows for _, rows in states[name].values())
            spent[name] += result.evaluations
            found[name] += result.best.weight
        # Not all states are the same: of a single removal that was given up, guides know less.
        both = states["early"].keys() & states["late"].keys()
        assert len(both) > 12
        assert all(states["early"][state][0] == states["late"][state][0] for state in both)
        assert all(states["early"][state][1] <= states["late"][state][1] for state in both)
    assert spent["early"] < 0.9 * spent["late"]
    assert found["early"] > 0.9 * found["late"]


@pytest.mark.parametrize("hardest_first", [False, True])
def test_the_effect_of_what_was_given_up_is_known_where_it_was_scored(hardest_first: bool) -> None:
    lattice = Lattice((4, 4), seed=1, effect=0.4, hardest_first=hardest_first)
    lattice.break_off(2)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    root = ledger.baseline
    ledger.score([(root.heads, tuple(HeadSet.of([j]) for j in range(8)))], early=True)
    given_up = 0
    for head in range(8):
        node = ledger.known[HeadSet.of([head])]
        effect = lattice.of(node.heads) - root.outputs
        scored = np.arange(40) if node.whole else ledger.examples[node.heads]
        expected = np.zeros_like(effect)
        expected[scored] = effect[scored]
        np.testing.assert_array_equal(ledger.effect(root, head), expected)
        given_up += not node.whole
    assert 0 < given_up < 8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hardest_first", [False, True])
def test_without_gradients_a_head_that_must_stay_does_not_end_the_proposals(
    seed: int, hardest_first: bool
) -> None:
    """Its removal is given up, so it is never known to the end what it changes."""
    lattice = Lattice(
        (6, 6, 6),
        seed=seed,
        examples=120,
        effect=0.15,
        interaction=0.08,
        max_drop=0.03,
        hardest_first=hardest_first,
    )
    lattice.problem = replace(lattice.problem, gradients=False)
    lattice.break_off(1)
    result, steps = run(lattice, Settings(max_evaluations=100))
    (singles,) = (step for step in steps if step["kind"] == "expansion" and not step["removed"])
    given_up = {row[0] for row in singles["scored"] if row[4] < 120}
    assert f"{1 << 1:x}" in given_up
    assert "proposals" in {step["kind"] for step in steps}
    assert 1 not in result.best.heads
    assert result.best.weight >= 12


def test_what_was_given_up_is_no_operating_point_and_has_no_promise() -> None:
    lattice = Lattice((4, 4, 4), seed=5, effect=0.6, max_drop=0.0)
    result, steps = run(lattice, Settings(max_expansions=3))
    given_up = {row[0] for step in steps for row in step["scored"] if row[4] < 40}
    assert given_up
    assert not given_up & {f"{node.heads.bits:x}" for node in [*result.points, *result.candidates]}


def test_what_is_expected_next_often_comes() -> None:
    hits = expected = 0
    for seed in range(4):
        lattice = Lattice((4, 4, 4), seed=seed)
        run(lattice, Settings(max_expansions=6))
        asked = [{s for ask in asks for s in ask.states} for asks in lattice.questions]
        for now, ahead in enumerate(lattice.expected):
            for ask in ahead:
                expected += 1
                hits += any(set(ask.states) & later for later in asked[now + 1 :])
    assert expected > 80
    assert hits > expected / 3


@pytest.mark.parametrize("hardest_first", [False, True])
def test_proposals_are_new_states_that_lead_further_or_sideways_and_may_put_heads_back(
    hardest_first: bool,
) -> None:
    back = rounds = further = aside = 0
    for seed in range(4):
        lattice = Lattice((4, 4, 4), seed=seed, hardest_first=hardest_first)
        _, steps = run(lattice, Settings(max_expansions=2))
        seen: set[int] = set()
        best = 0
        for step in steps:
            states = [int(row[0], 16) for row in step["scored"]]
            if step["kind"] == "proposals":
                rounds += 1
                assert 0 < len(states) <= Settings().proposals
                assert not seen & set(states)
                assert min(state.bit_count() for state in states) >= best - ASIDE
                further += sum(state.bit_count() > best for state in states)
                aside += sum(state.bit_count() <= best for state in states)
                start = HeadSet.of(i * 4 + j for i, j in step["removed"]).bits
                back += sum(start & ~state != 0 for state in states)
            seen |= set(states)
            best = step["best"][0]
    assert rounds > 8
    assert back > rounds
    assert further > aside > rounds


def test_points_far_from_each_other_get_states_between_them() -> None:
    rounds = refined = 0
    for seed in range(5):
        lattice = Lattice((6, 6, 6), seed=seed, effect=0.2, interaction=0.05)
        result, steps = run(lattice, Settings(max_expansions=1))
        before = list[int]()
        for step in steps:
            sizes = [int(row[0], 16).bit_count() for row in step["scored"]]
            if step["kind"] == "curve":
                rounds += 1
                assert step["best"][0] == max(before), "they are milder"
                assert all(row[4] == 40 for row in step["scored"]), "none is given up"
                assert 0 < len(sizes) < Settings().curve
                assert 0 < min(sizes) <= max(sizes) < max(before)
                assert len(sizes) == len(set(sizes)), "one for each level"
            before += [n for n, row in zip(sizes, step["scored"], strict=True) if row[3]]
        curve = [place for place, step in enumerate(steps) if step["kind"] == "curve"]
        last = max(n for n, step in enumerate(steps) if step["kind"] not in ("curve", "safer"))
        first = [int(row[0], 16).bit_count() for row in steps[curve[0]]["scored"]]
        assert min(first) < max(first)
        _, plain = run(lattice, Settings(max_expansions=1, curve=0))
        assert not any(step["kind"] == "curve" for step in plain)
        assert sum(place < last for place in curve) <= 1
        assert [step["scored"] for step in plain[:8]] == [step["scored"] for step in steps[:8]]
        assert result.points[0].weight >= result.best.weight
        at_end = [place for place in curve if place > last]
        better = [
            largest_metrics(steps[:place]) < largest_metrics(steps[: place + 1]) for place in at_end
        ]
        assert all(one or two for one, two in pairwise(better[:-1])), "two in vain end it"
        left = gaps([node for node in result.points if node.feasible], Settings().curve)
        assert not left or not better[-1]
        refined += sum(better)
        assert sum(largest_metrics(steps)) >= sum(largest_metrics(plain))
    assert rounds >= 3
    assert refined >= 4


def test_safer_points_are_the_frontier_of_what_is_saved_against_loss() -> None:
    for seed in range(3):
        lattice = Lattice((4, 4), seed=seed, effect=0.3, interaction=0.05)
        result, steps = run(lattice, Settings())
        rows = [row for step in steps for row in step["scored"] if row[3]]
        found = {int(bits, 16): loss for bits, _, loss, *_ in rows}
        expected = [
            bits
            for bits, loss in found.items()
            if not any(
                other != bits
                and (other.bit_count(), -found[other]) >= (bits.bit_count(), -loss)
                and found[other] <= loss
                for other in found
            )
        ]
        points = [node.heads.bits for node in result.safer]
        assert sorted(points) == sorted(expected)
        assert points == sorted(points, key=lambda bits: -bits.bit_count())
        assert points[0] == result.best.heads.bits


def test_safer_points_of_a_correlation_are_the_operating_points_within_the_budget() -> None:
    def scored(weight: int, metric: float, loss: float, feasible: bool = True) -> Node:
        state = HeadSet.of(range(weight))
        return Node(state, weight, np.zeros((1, 1)), Score(metric, loss), feasible)

    nodes = [
        scored(5, 0.1, 0.1, False),
        scored(4, 0.5, 0.9),
        scored(3, 0.6, 0.2),
        scored(2, 0.5, 0),
    ]
    assert [node.weight for node in safer_points(nodes, "pearson")] == [4, 3]
    assert [node.weight for node in safer_points(nodes, "accuracy")] == [4, 3, 2]


def test_of_states_that_save_as_much_the_point_has_the_larger_metric_then_the_lower_loss() -> None:
    def scored(bits: int, metric: float, loss: float) -> Node:
        state = HeadSet(bits)
        return Node(state, len(state), np.zeros((1, 2)), Score(metric, loss), True)

    nodes = [
        scored(0b0000, 0.9, 0.3),
        scored(0b0001, 0.8, 0.1),
        scored(0b0010, 0.9, 0.5),
        scored(0b1000, 0.9, 0.4),
        scored(0b0100, 0.9, 0.4),
        scored(0b0011, 0.7, 0.5),
        scored(0b0101, 0.7, 0.4),
    ]
    for order in (nodes, nodes[::-1]):
        assert [node.heads.bits for node in operating_points(order)] == [0b0101, 0b0100]
        # Where a milder state has the same loss it is no safer.
        assert [node.heads.bits for node in safer_points(order, "accuracy")] == [
            0b0101,
            0b0001,
        ]
        same = [*order, scored(0b0110, 0.6, 0.1)]
        assert [node.heads.bits for node in safer_points(same, "accuracy")] == [0b0110]


def test_the_full_models_gradients_are_kept_whatever_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lattice = Lattice((3, 3), seed=1)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    states = [HeadSet(), *(HeadSet.of([j]) for j in range(4))]
    monkeypatch.setattr("headsearch.search.ledger.SLOPES_BYTES", 3 * 40 * 3 * 6 * 4)  # of three
    for state in states:
        ledger.gradients([state])
    assert set(ledger.slopes) == {states[0], *states[-2:]}, "of the others the newest"
    monkeypatch.setattr("headsearch.search.ledger.SLOPES_BYTES", 1)
    ledger.gradients([states[1]])
    assert set(ledger.slopes) == {states[0], states[1]}
    assert ledger.measured == set(states)


def test_the_curve_is_filled_by_loss_too() -> None:
    fell = 0
    for seed in range(4):
        lattice = Lattice((6, 6, 6), seed=seed, effect=0.3, interaction=0.05)
        result, _ = run(lattice, Settings(max_expansions=1))
        plain, _ = run(lattice, Settings(max_expansions=1, curve=0))
        of_plain = {node.weight: node.score.loss for node in plain.safer}
        least = [least_loss(each.safer, result.best.weight) for each in (result, plain)]
        fell += sum(one < two for one, two in zip(*least, strict=True))
        assert sum(least[0]) <= sum(least[1]) + 1e-9, of_plain
    assert fell > 4


def least_loss(points: list[Node], most: int) -> list[float]:
    """Return for each number of heads the least loss where so many are removed, or more."""
    return [
        min((node.score.loss for node in points if node.weight >= count), default=9.0)
        for count in range(most + 1)
    ]


def largest_metrics(steps: list[dict[str, Any]]) -> list[float]:
    """Return for each number of heads the largest metric where so many are removed, or more."""
    rows = [row for step in steps for row in step["scored"] if row[3]]
    found = [(int(bits, 16).bit_count(), metric) for bits, metric, *_ in rows]
    most = max(heads for heads, _ in found)
    return [max(m for heads, m in found if heads >= count) for count in range(most + 1)]


def point(weight: int) -> Node:
    return Node(HeadSet.of(range(weight)), weight, np.zeros((1, 2)), Score(0.5, 0.5), True)


@pytest.mark.parametrize(
    ("weights", "parts", "missing"),
    [
        ([40, 34, 33, 12], 9, [16, 20, 24, 28, 37]),
        ([40, 34, 33, 12], 2, [22]),
        ([40, 34, 33, 12], 0, []),
        ([9, 6, 3, 0], 3, []),
        ([3, 0], 9, [1, 2]),
        ([1, 0], 9, []),
        ([0], 9, []),
    ],
)
def test_gaps_are_divided(weights: list[int], parts: int, missing: list[int]) -> None:
    assert gaps([point(weight) for weight in weights], parts) == missing


@pytest.mark.parametrize("seed", range(20))
def test_no_gap_is_left_and_no_more_is_scored_than_parts(seed: int) -> None:
    random = np.random.default_rng(seed)
    most, parts = int(random.integers(2, 200)), int(random.integers(2, 20))
    between = random.integers(0, most, random.integers(1, 6)).tolist()
    weights = sorted({most, *between}, reverse=True)
    missing = gaps([point(weight) for weight in weights], parts)
    assert len(missing) < parts
    assert not set(missing) & set(weights)
    every = sorted([*weights, *missing])
    assert max(np.diff(every)) <= max(1, -(-most // parts))


@pytest.mark.parametrize(("layers", "proposed"), [(12, 8), (16, 8), (20, 10)])
def test_rounds_of_proposals_are_larger_where_there_are_many_heads(
    layers: int, proposed: int
) -> None:
    lattice = Lattice((12,) * layers, effect=0.05, interaction=0.0, examples=30)
    _, steps = run(lattice, Settings(max_evaluations=50))
    sizes = [len(step["scored"]) for step in steps if step["kind"] == "proposals"]
    assert max(sizes) == proposed


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_proposals_are_made_for_every_metric(metric: str) -> None:
    lattice = Lattice((3, 3), seed=3, classes=2, effect=0.3, interaction=0.1)
    labels, classes = lattice.problem.objective.labels, 2
    if metric in REGRESSION:
        labels, classes = np.random.default_rng(0).normal(size=40), 1
        lattice._base = lattice._base[:, :1] + 2 * labels[:, None]
        lattice._single, lattice._pair = lattice._single[..., :1], lattice._pair[..., :1]
    lattice.problem = Problem(lattice.shape, make_objective(metric, labels, classes), 0.05)
    result, steps = run(lattice, EXHAUSTIVE)
    assert any(step["kind"] == "proposals" for step in steps)
    assert result.best.heads == brute_force(lattice)[0]


def test_proposals_save_evaluations() -> None:
    """Summed over lattices: to get as far as the search without them ever gets."""
    spent = {0: 0.0, 8: 0.0}
    for seed in range(4):
        ends = {
            count: run(
                Lattice((6, 6, 6), seed=seed, effect=0.3, interaction=0.05, examples=200),
                Settings(max_expansions=4, proposals=count),
            )
            for count in spent
        }
        goal = ends[0][0].best.weight
        assert ends[8][0].best.weight >= goal
        for count, (_, steps) in ends.items():
            spent[count] += next(s["evaluations"] for s in steps if s["best"][0] >= goal)
    assert spent[8] < 0.8 * spent[0]


def test_a_smaller_budget_gives_a_prefix_of_the_transcript() -> None:
    long, short = (run(Lattice((4, 4), seed=10), Settings(max_expansions=n))[1] for n in (4, 2))
    assert short == long[: len(short)]
    assert len(short) < len(long)


def test_expansion_budget_and_patience_end_the_search() -> None:
    lattice = Lattice((4, 4), seed=11)
    result, _ = run(lattice, Settings(max_expansions=2, patience=None))
    assert (result.expansions, result.stopped) == (2, "expansion budget spent")
    result, steps = run(lattice, Settings(patience=3))
    assert result.stopped == "3 expansions without a better state"
    last = [step["best"][0] for step in steps if step["kind"] == "expansion"][-4:]
    assert len(set(last[-3:])) == 1


def test_a_stop_from_outside_keeps_what_was_found() -> None:
    lattice = Lattice((4, 4), seed=12)
    calls = iter(range(1000))
    result, _ = run(lattice, Settings(), should_stop=lambda: "enough" if next(calls) > 6 else None)
    assert result.stopped == "enough"
    assert result.evaluations * 40 == sum(rows_of(lattice).values())


def test_zero_budget_still_starts_from_the_full_model() -> None:
    lattice = Lattice((2, 2), seed=13, max_drop=0.0)
    result, _ = run(lattice, Settings(max_evaluations=1))
    assert result.best.heads == HeadSet()
    assert result.stopped == "evaluation budget spent"


@pytest.mark.parametrize(("heads", "stride"), [(12, 1), (36, 2), (72, 4), (144, 8), (384, 21)])
def test_rollouts_have_about_as_many_steps_whatever_the_models_size(
    heads: int, stride: int
) -> None:
    assert Rollout(Michel(), 4).stride(heads) == stride


def test_a_rollout_measures_after_each_stride() -> None:
    lattice = Lattice((12,) * 12, effect=0.01, interaction=0.0)
    settings = Settings(rollouts=(Rollout(Michel(), 12),), max_expansions=0)
    _, steps = run(lattice, settings)
    weights = [step["g"] for step in steps if step["kind"] == "rollout michel"]
    assert weights == [0, 24, 48, 72, 96, 120], "12 of 72 heads are 24 of 144"


def test_what_is_ready_early_changes_nothing() -> None:
    class Eager(Lattice):
        """Says so, in another order, before it answers."""

        called = 0

        def ask(self, asks: Any, ahead: Any = tuple, ready: Any = lambda *_: None) -> Any:
            answers = super().ask(asks, ahead)
            for asked, answer in zip(asks[::-1], answers[::-1], strict=True):
                for state, outputs in zip(asked.states[::-1], answer[::-1], strict=True):
                    self.called += 1
                    ready(state, outputs)
            return answers

    settings = Settings(max_evaluations=150, patience=None)
    eager = Eager((4, 4, 4), seed=5)
    found, transcript = run(eager, settings)
    plain, expected = run(Lattice((4, 4, 4), seed=5), settings)
    assert transcript == expected
    assert found.best.rank == plain.best.rank
    assert eager.called > 50


class Breaking(Lattice):
    """Where one of some heads is gone, outputs of some examples are not numbers; nor slopes."""

    breaking = 0

    def of(self, heads: HeadSet) -> np.ndarray:
        outputs = super().of(heads)
        broken = [j for j in heads if j < self.breaking]
        outputs[broken] = (np.nan, np.inf, -np.inf)
        return outputs


def test_nothing_has_an_effect_in_examples_that_are_broken_already() -> None:
    lattice = Breaking((3, 4), seed=2)
    lattice.breaking = 1
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    gone, more = HeadSet.of([0]), HeadSet.of([0, 5])
    node, child = ledger.score([(HeadSet(), (gone, more))])
    effects = ledger.view(node, [5], ledger.effect(node, 5)[None]).effects
    assert not effects[:, 0].any(), "the first example is"
    np.testing.assert_array_equal(effects[0, 1:], child.outputs[1:] - node.outputs[1:])


def test_what_is_known_already_is_not_scored_again() -> None:
    lattice = Lattice((3, 3), seed=1)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    one, two, three = (HeadSet.of([j]) for j in range(3))
    ledger.score([(HeadSet(), (one, two))])
    ledger.score([(HeadSet(), (two, three)), (one, (one | two,))])
    ledger.score([(HeadSet(), (one, two, three))])
    assert ledger.evaluations == 1 + 4


def test_heads_that_break_examples_are_weighed_like_any_others() -> None:
    lattice = Breaking((3, 4), seed=2, max_drop=0.1)
    lattice.breaking = 4
    with np.errstate(invalid="ignore"):
        result, _ = run(lattice, EXHAUSTIVE)
        best, score = brute_force(lattice)
    assert (result.best.heads, result.best.score) == (best, score)
    assert 0 < len(best) < 7


@pytest.mark.parametrize("breaking", [10, 28])
def test_a_search_goes_on_where_most_heads_break_examples(breaking: int) -> None:
    """More heads than a shortlist holds: those that break nothing, and those still there, first."""
    lattice = Breaking((14, 14), seed=4, examples=60, max_drop=0.05, effect=0.1, interaction=0.02)
    lattice.breaking = breaking
    with np.errstate(invalid="ignore"):
        result, steps = run(lattice, Settings(max_expansions=3))
        threshold = lattice.problem.objective.threshold(result.baseline.score, 0.05)
        assert threshold.feasible(lattice.problem.objective.score(lattice.of(result.best.heads)))
    assert len(result.best.heads) >= (14 if breaking < 14 else 3)
    assert steps[-1]["kind"] == "expansion"


def test_a_full_model_that_is_broken_itself_is_refused() -> None:
    class Broken(Lattice):
        def of(self, heads: HeadSet) -> np.ndarray:
            outputs = super().of(heads)
            outputs[[3, 17], 1] = np.nan
            return outputs

    with pytest.raises(BrokenBaseline, match="must be finite but 2 of 40 are not") as caught:
        run(Broken((3, 3)), Settings())
    assert caught.value.rows.tolist() == [3, 17]


@pytest.mark.parametrize("metric", REGRESSION)
def test_a_full_model_whose_correlation_is_undefined_is_refused(metric: str) -> None:
    class Constant(Lattice):
        def of(self, heads: HeadSet) -> np.ndarray:
            return np.full((40, 1), float(len(heads)), np.float32)

    lattice = Constant((3, 3))
    objective = make_objective(metric, np.arange(40.0), 1)
    lattice.problem = Problem(lattice.shape, objective, 0.05)
    with pytest.raises(ModelError, match=f"all the same, so that its {metric} is not defined"):
        run(lattice, Settings())


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 6))]
)
@pytest.mark.parametrize("hardest_first", [False, True])
def test_what_idle_workers_look_at_changes_nothing(seed: int, hardest_first: bool) -> None:
    idle, busy = (
        run(
            Lattice((5, 5), seed=seed, noise=0.3, hardest_first=hardest_first, idle=idle),
            Settings(patience=2),
        )[1]
        for idle in (True, False)
    )
    assert json.dumps(idle) == json.dumps(busy)


def test_what_has_no_perplexity_is_no_operating_point() -> None:
    class Text(Lattice):
        def of(self, heads: HeadSet) -> np.ndarray:
            surprise = np.full((40, 1), 60.0 + 0.6 * len(heads), np.float32)
            return surprise * (np.float32("nan") if heads == self.shape.full else np.float32(1))

    lattice = Text((2, 2))
    objective = make_objective("perplexity", np.full(40, 20), 1, SEQUENCES)
    lattice.problem = Problem(lattice.shape, objective, 0.5)
    lattice._base = np.zeros((40, 1))
    with np.errstate(invalid="ignore"):
        result, steps = run(lattice, EXHAUSTIVE)
    assert any(row[0] == "f" and row[1] is None for step in steps for row in step["scored"])
    assert [len(node.heads) for node in result.points] == [3, 2, 1, 0]
    assert result.best == result.points[0]
