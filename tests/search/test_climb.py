"""Climbs against the plain procedure, written as a loop."""

from __future__ import annotations

import itertools

import pytest

from headsearch.heads import HeadSet
from headsearch.search.climb import LADDER, Climb


def climbed(truth: tuple[bool, ...], reach: int) -> list[int]:
    """The rungs that are scored, in order; truth[k] says whether rung k is feasible."""
    length = len(truth) - 1
    rungs = [k for k in LADDER if k < length] + ([length] if length else [])
    scored = rungs[: len([k for k in rungs if k <= reach]) + 1]
    while len(scored) < len(rungs) and truth[scored[-1]]:
        scored.append(rungs[len(scored)])
    good = [k for k in scored if truth[k]]
    if good and good[-1] != scored[-1]:
        low, high = good[-1], scored[scored.index(good[-1]) + 1]
        while high - low > 1:
            middle = (low + high) // 2
            scored.append(middle)
            low, high = (middle, high) if truth[middle] else (low, middle)
    return scored


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("reach", [0, 1, 3, 8])
def test_scores_what_the_plain_procedure_scores(length: int, reach: int) -> None:
    climb = Climb(HeadSet(), tuple(range(length)), min(reach, length))
    for rest in itertools.product([False, True], repeat=length):
        truth = (True, *rest)
        known: dict[int, bool] = {}
        order: list[int] = []
        while wanted := climb.wanted(known.get):
            likely = climb.likely(known.get)
            assert not set(likely) & ({*wanted} | known.keys())
            order += wanted
            known |= {k: truth[k] for k in wanted}
            following = climb.wanted(known.get)
            if len(wanted) == 1:  # then it is one of the two outcomes that were looked at
                assert set(following) <= set(likely)
        assert order == climbed(truth, min(reach, length))
        assert climb.likely(known.get) == []


def test_states_are_the_start_and_the_first_heads_of_the_path() -> None:
    climb = Climb(HeadSet.of([2]), (5, 0, 3), 1)
    assert [climb.state(k) for k in range(4)] == [
        HeadSet.of([2]),
        HeadSet.of([2, 5]),
        HeadSet.of([0, 2, 5]),
        HeadSet.of([0, 2, 3, 5]),
    ]
