"""The bound against brute force, on lattices that are monotone and not (G2 and G3)."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from headsearch.heads import HeadMap, HeadSet
from headsearch.search.bound import THOROUGH, Bounds, bound_text
from headsearch.search.hitting import by_size, least_hitting, packing
from headsearch.search.problem import Node
from headsearch.task.metric import Score

SHAPE = HeadMap((4, 4))


def truths(seed: int, monotone: bool) -> dict[HeadSet, bool]:
    """Which sets meet a made-up budget; the empty one always does."""
    chance = np.random.default_rng(seed)
    damage = chance.uniform(0.2, 2.0, SHAPE.total)
    noise = 0.0 if monotone else 0.8
    return {
        HeadSet(bits): bits == 0
        or float(damage[list(HeadSet(bits))].sum() + noise * chance.normal()) <= 3.0
        for bits in range(1 << SHAPE.total)
    }


def scored(heads: HeadSet, feasible: bool) -> Node:
    return Node(heads, len(heads), np.zeros((1, 2), np.float32), Score(0.5, 1.0, 1), feasible)


def watched(feasible: dict[HeadSet, bool], count: int, seed: int) -> tuple[Bounds, list[HeadSet]]:
    """Bounds that observed the empty set and some random others."""
    states = [HeadSet(), *random.Random(seed).sample(sorted(feasible, key=lambda s: s.bits), count)]
    states = list(dict.fromkeys(states))
    bounds = Bounds(SHAPE)
    for state in states:
        bounds.observe(scored(state, feasible[state]))
    return bounds, states


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [5, 40, 150, 256])
@pytest.mark.parametrize("monotone", [True, False])
def test_best_is_below_the_optimum_and_that_below_the_bounds(
    seed: int, count: int, monotone: bool
) -> None:
    feasible = truths(seed, monotone)
    optimum = max(len(state) for state, good in feasible.items() if good)
    bounds, states = watched(feasible, count, seed)
    bound = bounds.now()
    assert bound.best == max(len(state) for state in states if feasible[state])
    assert bound.best <= optimum <= bound.proved <= bound.total
    assert bound.best <= bound.assumed <= bound.proved
    if monotone:
        assert optimum <= bound.assumed
        assert bound.violations == 0
    if count == 256:
        assert bound.proved == optimum


@pytest.mark.parametrize("seed", range(8))
def test_what_speaks_against_the_assumption_is_counted(seed: int) -> None:
    feasible = truths(seed, monotone=False)
    bounds, states = watched(feasible, 120, seed)
    bad = [state for state in states if not feasible[state]]
    above = [s for s in states if any(b <= s and b != s for b in bad)]
    bound = bounds.now()
    assert bound.tested == len(above)
    assert bound.violations == sum(feasible[state] for state in above)
    assert bound.contradicted == sum(any(b <= s and feasible[s] for s in states) for b in bad)
    if bound.assumed < bound.proved:
        seen = f"(seen to fail in {bound.violations} of {bound.tested})"
        assert bound_text(bound.to_step()).endswith(seen)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [60, 120, 200])
def test_nogoods_are_the_smallest_sets_that_no_feasible_one_refutes(seed: int, count: int) -> None:
    feasible = truths(seed, monotone=False)
    bounds, states = watched(feasible, count, seed)
    unrefuted = [
        bad
        for bad in states
        if not feasible[bad] and not any(bad <= s and feasible[s] for s in states)
    ]
    smallest = [s for s in unrefuted if not any(o <= s and o != s for o in unrefuted)]
    assert bounds.nogoods() == by_size(state.bits for state in smallest)
    assert bounds.now().nogoods == len(unrefuted)


def test_a_state_that_is_seen_again_counts_once() -> None:
    bounds = Bounds(HeadMap((2,)))
    for bits, good in ((0, True), (3, False), (1, False), (1, False)):
        bounds.observe(scored(HeadSet(bits), good))
    bound = bounds.now()
    assert bound.proved == 1, "of the two sets of one head, one was scored"
    assert (bound.nogoods, bound.tested) == (2, 1)


def test_what_is_proved_rests_on_nothing() -> None:
    bounds = Bounds(HeadMap((3,)))
    for bits, good in ((0, True), (7, False)):
        bounds.observe(scored(HeadSet(bits), good))
    bound = bounds.now()  # the one nogood says no more than that it was scored itself
    assert (bound.proved, bound.assumed, bound.rests_on) == (2, 2, 0)
    assert bound.assumption == "none"
    assert bound_text(bound.to_step()) == "2 (proved)"
    bounds.observe(scored(HeadSet(1), True))
    for bits in (3, 5, 6):
        bounds.observe(scored(HeadSet(bits), False))
    bound = bounds.now()  # all pairs were scored
    assert (bound.proved, bound.assumed, bound.rests_on) == (1, 1, 0)


def test_more_effort_proves_more_and_says_what_that_rests_on() -> None:
    bounds = Bounds(HeadMap((4,)))
    for bits, good in ((0, True), (0b0011, False), (0b0101, False), (0b0110, False)):
        bounds.observe(scored(HeadSet(bits), good))
    quick, thorough = bounds.now(), bounds.now(THOROUGH)
    # No two of three pairs are disjoint, but no single head is in all of them.
    assert (quick.assumed, quick.rests_on) == (3, 1)
    assert (thorough.assumed, thorough.rests_on) == (2, 3)
    assert bounds.now() == quick


def test_only_a_state_of_the_bounds_own_size_is_called_optimal() -> None:
    bounds = Bounds(HeadMap((2,)))
    for bits, good in ((0, True), (1, True), (2, True), (3, False)):
        bounds.observe(scored(HeadSet(bits), good))
    found = [bounds.now().to_json(removed) for removed in (0, 1)]
    assert [json["optimal"] for json in found] == [False, True]
    assert [json["assumed"]["optimal"] for json in found] == [False, True]


def test_the_assumption_says_how_many_sets_it_rests_on() -> None:
    bounds = Bounds(HeadMap((3,)))
    bounds.observe(scored(HeadSet(), True))
    assert bounds.now().assumption == "none"
    bounds.observe(scored(HeadSet(1), False))
    assert bounds.now().assumption.startswith("the scored set of heads that misses the budget ")
    bounds.observe(scored(HeadSet(2), False))
    assert bounds.now().assumption.startswith("none of 2 scored sets of heads that miss ")


def test_an_assumed_bound_that_is_wrong_is_lifted_once_the_states_are_seen() -> None:
    bounds = Bounds(HeadMap((3,)))
    for bits, good in ((0, True), (1, False), (2, False), (4, False)):
        bounds.observe(scored(HeadSet(bits), good))
    assert bounds.now().assumed == 0
    bounds.observe(scored(HeadSet(7), True))
    bound = bounds.now()
    assert (bound.assumed, bound.best, bound.violations, bound.contradicted) == (3, 3, 1, 3)


@pytest.mark.parametrize("seed", range(20))
def test_packing_and_hitting_set_against_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    heads = 8 - seed % 3  # whole bytes, and less
    sets = sorted({chance.randrange(1, 1 << heads) for _ in range(12)})
    least = min(
        len(kept)
        for size in range(9)
        for kept in itertools.combinations(range(8), size)
        if all(any(one >> j & 1 for j in kept) for one in sets)
    )
    packed = packing(sets)
    assert all(not a & b for a, b in itertools.combinations(packed, 2))
    assert len(packed) <= least
    assert least_hitting(sets, 5_000_000)[0] == least
    assert least_hitting(sets, 1)[0] <= least


def fewest(sets: list[int], heads: int) -> int:
    """The size of the smallest set that has a head of each, by brute force."""
    every = np.arange(1 << heads)
    hits = np.all([every & one for one in sets], axis=0)
    return min(int(bits).bit_count() for bits in every[hits])


# Of the latter, searches forget heads in more than one branch, and packings grow more than once.
@pytest.mark.parametrize("seed", [*range(30), 71, 74, 91, 109, 211, 262, 531, 694, 4109])
def test_small_sets_that_overlap_in_chains_against_brute_force(seed: int) -> None:
    """Where packings fall short, sets fall into parts, and searches have many branches."""
    chance = random.Random(seed)
    heads = chance.choice((9, 12, 15))
    drawn = {
        sum(1 << j for j in chance.sample(range(heads), chance.choice((2, 2, 3, 3, 4))))
        for _ in range(chance.randrange(4, 26))
    }
    sets = by_size(one for one in drawn if not any(o & one == o and o != one for o in drawn))
    packed = packing(sets)
    assert set(packed) <= set(sets)
    assert all(not a & b for a, b in itertools.combinations(packed, 2))
    least, rests_on = least_hitting(sets, 5_000_000)
    assert least == fewest(sets, heads)
    assert set(rests_on) <= set(sets)
    assert fewest(rests_on, heads) == least, "what it rests on proves it"
    for effort in (1, 30, 100):
        assert least_hitting(sets, effort)[0] <= least


def test_proofs_end_when_their_effort_is_spent() -> None:
    chance = random.Random(0)
    sets = by_size({sum(1 << j for j in chance.sample(range(60), 3)) for _ in range(400)})
    unproved = [least_hitting(sets, effort)[0] for effort in (0, 10_000, 100_000)]
    assert unproved[0] == len(packing(sets))
    assert unproved == sorted(unproved)
