"""The surrogate predicts what kriging's formulas say, and the forecast what outputs are worth."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from threading import Thread

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from headsearch.heads import HeadSet
from headsearch.search import surrogate as module
from headsearch.search.astar import Settings, search
from headsearch.search.forecast import Forecast
from headsearch.search.learning import Learner
from headsearch.search.ledger import Ledger
from headsearch.search.points import feasible_points
from headsearch.search.problem import Node
from headsearch.search.proposals import APART, ASIDE, Proposal, spread_out
from headsearch.search.surrogate import EXTRAPOLATED, LEAST_WEIGHT, Evidence, Surrogate
from headsearch.task.metric import Objective, make_objective
from tests.search.lattice import Lattice, brute_force

HEADS = 10


def evidence(rows: int = 30, columns: int = 7, seed: int = 0, bent: bool = True) -> Evidence:
    random = np.random.default_rng(seed)
    alone = random.normal(size=(HEADS, columns))
    together = random.normal(size=(HEADS, HEADS, columns))
    removed = (random.random((rows, HEADS)) < 0.4).astype(float)
    removed[:, 0] = 1.0
    changes = removed @ alone
    if bent:
        changes += 0.2 * np.einsum("ri,rj,ijc->rc", removed, removed, together)
    return Evidence(removed, changes, np.arange(rows) % 5 != 0)


def by_hand(fitted: Surrogate, weights: np.ndarray, known: Evidence, asked: np.ndarray):
    """Equations 2.25 and 2.26, one state and one column after the other."""
    raised = weights + LEAST_WEIGHT * weights.mean()
    raised = raised / raised.sum()

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        common = sum(w for w, a, b in zip(raised, one, other, strict=True) if a and b)
        return (np.exp(fitted.bend * common) - 1) / (np.exp(fitted.bend) - 1)

    gram = np.array([[kernel(a, b) for b in known.removed] for a in known.removed])
    gram += fitted.noise * np.diag(np.where(known.measured, 1.0, EXTRAPOLATED))
    means = np.zeros((len(asked), known.changes.shape[1]))
    deviations = np.zeros_like(means)
    for i, state in enumerate(asked):
        row = np.array([kernel(state, other) for other in known.removed])
        for c, values in enumerate(known.changes.T):
            means[i, c] = row @ np.linalg.solve(gram, values)
            scale = values @ np.linalg.solve(gram, values) / len(values)
            left = kernel(state, state) - row @ np.linalg.solve(gram, row)
            deviations[i, c] = np.sqrt(scale * left)
    return means, deviations


def test_predictions_are_krigings() -> None:
    known, random = evidence(), np.random.default_rng(1)
    weights = random.random(HEADS)
    asked = (random.random((5, HEADS)) < 0.5).astype(float)
    fitted = Surrogate(weights, known)
    means, deviations = fitted.predict(asked)
    wanted_means, wanted_deviations = by_hand(fitted, weights, known, asked)
    np.testing.assert_allclose(means, wanted_means, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(deviations, wanted_deviations, rtol=1e-6, atol=1e-8)


def test_what_is_left_out_is_predicted_from_the_others() -> None:
    known, weights = evidence(), np.ones(HEADS)
    fitted = Surrogate(weights, known)
    means, _ = fitted.left_out()
    for place, row in enumerate(np.flatnonzero(known.measured)):
        others = np.arange(len(known.removed)) != row
        rest = Evidence(known.removed[others], known.changes[others], known.measured[others])
        wanted, _ = by_hand(fitted, weights, rest, known.removed[[row]])
        np.testing.assert_allclose(means[place], wanted[0], rtol=1e-7, atol=1e-7)


def test_gaps_change_no_prediction_of_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BENDS", (1.0,))
    monkeypatch.setattr(module, "NOISES", (1e-3,))
    known, random = evidence(), np.random.default_rng(1)
    asked = (random.random((6, HEADS)) < 0.5).astype(float)
    whole = Evidence(known.removed[:25], known.changes[:25], known.measured[:25])
    gaps = known._replace(changes=known.changes.copy())
    gaps.changes[25:, 3:] = np.nan
    without, filled = Surrogate(np.ones(HEADS), whole), Surrogate(np.ones(HEADS), gaps)
    before, after = without.predict(asked)[0], filled.predict(asked)[0]
    np.testing.assert_allclose(after[:, 3:], before[:, 3:], rtol=0, atol=1e-9)
    there = filled.predict(known.removed[25:])[0]
    off = [
        np.abs(each[:, :3] - known.changes[25:, :3]).max()
        for each in (there, without.predict(known.removed[25:])[0])
    ]
    assert off[0] < 0.2 * off[1], "what is known of such rows is learned"


def test_nothing_changes_where_nothing_is_removed() -> None:
    means, deviations = Surrogate(np.ones(HEADS), evidence()).predict(np.zeros((1, HEADS)))
    assert np.abs(means).max() < 1e-12
    assert np.abs(deviations).max() < 1e-12


def test_interactions_are_learned() -> None:
    """A bend is chosen that the evidence asks for, and what is new is predicted well by it."""
    every, off = evidence(400, seed=3), []
    known = Evidence(every.removed[:200], every.changes[:200], np.ones(200, dtype=bool))
    fitted = Surrogate(np.ones(HEADS), known)
    means, _ = fitted.predict(every.removed[200:])
    off.append(np.abs(means - every.changes[200:]).mean())
    linear = np.linalg.lstsq(known.removed, known.changes, rcond=None)[0]
    off.append(np.abs(every.removed[200:] @ linear - every.changes[200:]).mean())
    assert off[0] < 0.5 * off[1]
    straight = Surrogate(np.ones(HEADS), evidence(120, seed=3, bent=False))
    assert straight.bend == min(module.BENDS)


def test_the_number_of_threads_changes_nothing() -> None:
    random = np.random.default_rng(0)
    removed = (random.random((300, 72)) < 0.5).astype(float)
    known = Evidence(removed, random.normal(size=(300, 900)), np.ones(300, dtype=bool))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(Surrogate(np.ones(72), known).predict(removed[:40] * removed[40:80]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_searches_in_several_threads_limit_blas_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Limits:
        within, seen = 0, list[int]()

        def limit(self, **_: object) -> Limits:
            return self

        def __enter__(self) -> None:
            self.within += 1
            self.seen.append(self.within)

        def __exit__(self, *_: object) -> None:
            self.within -= 1

    limits = Limits()
    monkeypatch.setattr(module, "_threads", lambda: limits)

    def computes() -> None:
        with module.one_thread():
            pass

    other = Thread(target=computes)
    with module.one_thread():
        other.start()
        other.join(0.2)  # where it need not wait, it is through by then
        assert other.is_alive()
    other.join()
    assert limits.seen == [1, 1]


def test_heads_that_move_nothing_so_far_may_still_be_removed() -> None:
    fitted = Surrogate(np.zeros(HEADS), evidence())
    assert np.isfinite(fitted.predict(np.ones((1, HEADS)))[0]).all()
    assert module.LEAST_WEIGHT > 0


def node(outputs: np.ndarray, objective) -> Node:
    return Node(HeadSet(), 0, outputs.astype(np.float32), objective.score(outputs), True)


@pytest.mark.parametrize(
    ("metric", "classes"),
    [
        ("accuracy", 2),
        ("accuracy", 5),
        ("f1", 2),
        ("f1", 5),
        ("matthews", 2),
        ("matthews", 5),
        ("pearson", 1),
    ],
)
def test_a_certain_forecast_is_the_metric(metric: str, classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 80) if classes > 1 else random.normal(size=80)
    if classes > 1:
        labels[:classes] = np.arange(classes)
    objective = make_objective(metric, labels, classes)
    outputs = random.normal(size=(6, 80, classes))
    if classes > 1:
        outputs[:, np.arange(80), labels] += 1.0
    nodes = [node(each, objective) for each in outputs]
    # With more classes only some rivals are looked at, so that each forecast has its own here.
    for other in nodes[1:]:
        forecast = Forecast(objective, nodes[0], [other] if classes > 2 else nodes)
        change = forecast.columns(other.outputs) - forecast.base
        found, _ = forecast.metrics(change[None], np.zeros((1, change.size)))
        if classes > 2:
            assert found[0] == pytest.approx(other.score.metric, abs=0.1)
            assert found[0] >= other.score.metric - 1e-12 or metric != "accuracy"
        else:
            assert found[0] == pytest.approx(other.score.metric, abs=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_certain_forecast_of_the_loss_is_the_loss(classes: int) -> None:
    random = np.random.default_rng(0)
    objective = make_objective("accuracy", random.integers(0, classes, 80), classes)
    outputs = random.random(size=(6, 80, classes)) * 5
    nodes = [node(each, objective) for each in outputs]
    forecast = Forecast(objective, nodes[0], nodes)
    changes = np.stack([forecast.columns(each.outputs) - forecast.base for each in nodes])
    losses = [each.score.loss for each in nodes]
    assert np.ptp(losses) > 0.01
    np.testing.assert_allclose(forecast.losses(changes), losses, atol=1e-6)


def test_an_uncertain_forecast_is_the_mean_of_what_may_be() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    objective = make_objective("accuracy", labels, 2)
    base = node(random.normal(size=(60, 2)), objective)
    forecast = Forecast(objective, base, [])
    changes, deviations = random.normal(size=(1, 60)), random.random((1, 60)) + 0.1
    found, spread = forecast.metrics(changes, deviations)
    margins = forecast.base + changes + deviations * random.normal(size=(20000, 60))
    drawn = (margins > 0).mean(axis=1)
    assert found[0] == pytest.approx(drawn.mean(), abs=0.005)
    assert spread[0] >= drawn.std() * 0.99


def two_states(
    random: np.random.Generator, classes: int, examples_a_unit: int
) -> tuple[Objective, Node, Node]:
    """The full model and another state on 50 examples, each further from a wrong answer."""
    labels = random.integers(0, classes, 50)
    objective = make_objective("accuracy", labels, classes)
    outputs = random.normal(size=(50, classes))
    outputs[np.arange(50), labels] += np.arange(50) / examples_a_unit
    changed = outputs + random.normal(size=(50, classes))
    return objective, node(outputs, objective), node(changed, objective)


def test_examples_far_from_a_wrong_answer_are_not_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective, base, other = two_states(np.random.default_rng(0), classes=2, examples_a_unit=5)
    monkeypatch.setattr("headsearch.search.forecast.COLUMNS", 30)
    forecast = Forecast(objective, base, [other])
    change = forecast.columns(other.outputs) - forecast.base
    assert len(change) == 30
    found, _ = forecast.metrics(change[None], np.zeros((1, 30)))
    assert found[0] == pytest.approx(other.score.metric)


def test_right_answers_of_some_examples_add_up_to_the_metric() -> None:
    random = np.random.default_rng(1)
    objective, base, other = two_states(random, classes=4, examples_a_unit=20)
    forecast = Forecast(objective, base, [other])
    change, deviation = random.normal(size=(2, len(forecast.base)))
    deviation = np.abs(deviation)
    (metric,), _ = forecast.metrics(change[None], deviation[None])
    some, rest = np.arange(0, 50, 3), np.setdiff1d(np.arange(50), np.arange(0, 50, 3))
    parts = [forecast.right(change, deviation, examples) for examples in (some, rest)]
    assert 0 < parts[0] < len(some)
    assert sum(parts) == pytest.approx(50 * metric)
    assert objective.right_of(other.outputs[some], some) == sum(
        other.outputs[place].argmax() == objective.labels[place] for place in some
    )


@pytest.mark.parametrize("hardest_first", [False, True])
def test_chances_of_many_classes_are_judged_by_what_came(
    monkeypatch: pytest.MonkeyPatch, hardest_first: bool
) -> None:
    """Two rivals of twelve don't tell how often an answer is right, but what was scored does."""

    def off() -> float:
        """By how much more proposals are expected to meet the threshold than do."""
        proposed: list[Proposal] = []

        def told(learner: Learner) -> list[Proposal]:
            found = proposals(learner)
            proposed.extend(found[:8])
            return found

        monkeypatch.setattr(Learner, "proposals", told)
        expected = met = 0.0
        for seed in range(2):
            proposed.clear()
            lattice = Lattice(
                (5, 5, 5),
                seed=seed,
                effect=0.3,
                interaction=0.05,
                examples=200,
                classes=12,
                hardest_first=hardest_first,
            )
            result = search(lattice.problem, lattice, Settings(max_expansions=1))
            assert len(proposed) > 40
            expected += sum(each.chance for each in proposed)
            for each in proposed:
                score = lattice.problem.objective.score(lattice.of(each.state))
                met += result.threshold.feasible(score)
        assert met > 5
        return (expected - met) / met

    proposals = Learner.proposals
    judged = off()
    monkeypatch.setattr(Learner, "_errors", lambda *_: np.zeros(1))
    assert judged < off() / 2


def proposal(*heads: int) -> Proposal:
    return Proposal(HeadSet(), HeadSet.of(heads), len(heads), 0.5, 0.0)


def test_proposals_much_like_an_earlier_one_come_last() -> None:
    first, alike, other = proposal(0, 1, 2), proposal(0, 1, 3), proposal(3, 4, 5)
    assert len(first.state ^ alike.state) < APART <= len(first.state ^ other.state)
    assert spread_out([first, alike, other]) == [first, other, alike]


def test_a_removal_that_breaks_examples_hides_nothing_of_the_other_heads() -> None:
    class Breaks(Lattice):
        def of(self, heads: HeadSet) -> np.ndarray:
            outputs = super().of(heads)
            outputs[:3, 0] += np.inf if 3 in heads else 0.0
            return outputs

    lattice = Breaks((3, 4, 2), seed=4, max_drop=0.2)
    lattice.rounds = ()
    problem = replace(lattice.problem, gradients=False)
    ledger = Ledger(problem, lattice, None, lambda step: None, lambda: None)
    ledger.score([(HeadSet(), tuple(HeadSet.of([head]) for head in range(9)))])
    proposals = Learner(ledger).proposals()
    assert len(proposals) > 8
    assert all(0 <= proposal.chance <= 1 for proposal in proposals)
    assert len({proposal.chance for proposal in proposals}) > 4
    found = search(problem, lattice, Settings(patience=None))  # without a warning, too
    assert found.best.heads == brute_force(lattice)[0]


@pytest.mark.parametrize("seed", range(4))
def test_proposals_lead_further_or_sideways_and_are_new(seed: int) -> None:
    lattice = Lattice((4, 4), seed=seed, effect=0.2, interaction=0.1)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    ledger.gradients([HeadSet()])
    ledger.score([(HeadSet(), tuple(HeadSet.of(range(k)) for k in range(1, 6)))])
    proposals = Learner(ledger).proposals()
    best = ledger.best.weight
    aside = [each for each in proposals if len(each.state) <= best]
    assert best >= 2
    assert 0 < len(aside) < len(proposals)
    assert all(len(each.state) >= best - ASIDE for each in aside)
    assert all(each.gain == 0.0 for each in aside)
    assert all(each.rise == 0.0 < each.gain for each in proposals if each not in aside)
    assert len({each.state for each in proposals}) == len(proposals)
    assert not {each.state for each in proposals} & set(ledger.known)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_between_points_saves_what_it_should_and_is_new(seed: int) -> None:
    lattice = Lattice((5, 5), seed=seed, effect=0.2, interaction=0.1)
    ledger = Ledger(lattice.problem, lattice, None, lambda step: None, lambda: None)
    ledger.gradients([HeadSet()])
    ledger.score([(HeadSet(), tuple(HeadSet.of(range(k)) for k in (1, 3, 8)))])
    points = feasible_points(ledger.known.values())
    found = Learner(ledger).between(points, [1, 2, 3, 5])
    assert [each.weight for each in found] == [1, 2, 3, 5]
    assert [len(each.state) for each in found] == [1, 2, 3, 5]
    assert not {each.state for each in found} & set(ledger.known)
    # By chance a state loses more than that.
    of_size = [HeadSet.of(pair) for pair in combinations(range(10), 2)]
    losses = {s: lattice.problem.objective.score(lattice.of(s)).loss for s in of_size}
    assert losses[found[1].state] < np.median(list(losses.values()))
