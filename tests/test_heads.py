"""Sets of heads against Python's own sets."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headsearch.heads
from headsearch.errors import InputError
from headsearch.heads import HeadMap, HeadSet

SETS = st.sets(st.integers(0, 400))


@given(SETS, SETS, st.integers(0, 400))
def test_set_algebra_equals_pythons(a: set[int], b: set[int], j: int) -> None:
    left, right = HeadSet.of(a), HeadSet.of(b)
    assert list(left) == sorted(a)
    assert len(left) == len(a)
    assert set(left | right) == a | b
    assert set(left ^ right) == a ^ b
    assert (left <= right) == (a <= b)
    assert (j in left) == (j in a)
    assert set(left.add(j)) == a | {j}
    assert (left == right) == (a == b)
    assert HeadSet.from_bytes(left.to_bytes()) == left


SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any).map(tuple)


@given(SHAPES, st.data())
def test_every_head_has_one_index(heads: tuple[int, ...], data: Any) -> None:
    shape = HeadMap(heads)
    positions = [(layer, head) for layer, n in enumerate(heads) for head in range(n)]
    assert [shape.position(i) for i in range(shape.total)] == positions
    assert [shape.index(*position) for position in positions] == list(range(shape.total))
    removed = HeadSet.of(data.draw(st.sets(st.sampled_from(range(shape.total)))))
    for layer, n in enumerate(heads):
        lost = shape.in_layer(removed, layer)
        assert sorted([*lost, *shape.kept(removed, layer)]) == list(range(n))
        assert all(shape.index(layer, head) in removed for head in lost)
    touched = [shape.position(i)[0] for i in removed]
    assert shape.first_layer(removed) == min(touched, default=len(heads))
    assert shape.from_pairs(shape.pairs(removed)) == removed
    assert HeadMap.from_mask(shape.to_mask(removed)) == (shape, removed)


def test_pairs_may_be_numpys() -> None:
    shape = HeadMap((50, 50))  # more heads than an int64 has bits
    gone = np.zeros((2, 50), dtype=bool)
    gone[0, 3] = gone[1, 49] = True
    assert shape.from_pairs(np.argwhere(gone)) == HeadSet.of([3, 99])
    with pytest.raises(InputError, match="a head must be a pair"):
        shape.from_pairs(np.argwhere(gone).astype(float))


def test_mask_is_as_in_the_contract() -> None:
    shape = HeadMap((12, 12))
    assert shape.to_mask(shape.from_pairs([(0, 1), (0, 5)])) == {
        "format": 1,
        "layers": 2,
        "heads_per_layer": [12, 12],
        "removed": {"0": [1, 5]},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "`format` must be 1 but got 2"),
        ({"layers": 3}, "`layers` must be 2"),
        ({"removed": {"0": [4]}}, "head of layer 0 must be in 0..3 but got 4"),
        ({"removed": {"2": [0]}}, "layer must be in 0..1 but got 2"),
        ({"removed": {"0": [-1]}}, "head of layer 0 must be in 0..3 but got -1"),
        ({"removed": {"0": [0.5]}}, "a head must be a pair"),
        ({"removed": {"x": [1]}}, "not a mask"),
        ({"removed": [1]}, "not a mask"),
        ({"heads_per_layer": None}, "not a mask"),
    ],
)
def test_bad_masks(change: dict[str, Any], message: str) -> None:
    good = {"format": 1, "layers": 2, "heads_per_layer": [4, 4], "removed": {"0": [1]}}
    assert HeadMap.from_mask(good)[1] == HeadSet.of([1])
    with pytest.raises(InputError) as caught:
        HeadMap.from_mask({**good, **change})
    assert message in str(caught.value)


def test_docstrings_are_true() -> None:
    assert doctest.testmod(headsearch.heads).failed == 0
