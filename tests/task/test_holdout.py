"""The certify split and the search split share nothing."""

from __future__ import annotations

import numpy as np
import pytest

from headsearch.errors import DataError
from headsearch.task.data import Examples
from headsearch.task.holdout import hold_out, repeats, shared


def examples(texts: list[str], pairs: list[str] | None = None) -> Examples:
    return Examples(texts, pairs, np.arange(len(texts)) % 2)


MANY = examples([f"text {i}" for i in range(200)])


def test_every_example_is_in_exactly_one_part_and_keeps_its_label() -> None:
    for fraction, size in ((0.5, 100), (0.25, 50), (0.001, 1)):
        rest, part = hold_out(MANY, fraction, seed=0)
        assert len(part.texts) == size
        assert sorted(rest.texts + part.texts) == sorted(MANY.texts)
        for made in (rest, part):
            rows = [MANY.texts.index(text) for text in made.texts]
            assert rows == sorted(rows), "in source order"
            np.testing.assert_array_equal(made.labels, MANY.labels[rows])
        assert shared(rest, part) == 0


def test_the_cut_is_random_and_the_seed_decides_it() -> None:
    first = hold_out(MANY, 0.5, seed=0)[1].texts
    assert hold_out(MANY, 0.5, seed=0)[1].texts == first
    assert hold_out(MANY, 0.5, seed=1)[1].texts != first
    early = sum(int(text.split()[1]) < 100 for text in first)
    assert 30 < early < 70, "from all over the source"


def test_copies_of_a_text_stay_together() -> None:
    copied = examples([f"text {i // 4}" for i in range(200)])
    rest, part = hold_out(copied, 0.5, seed=0)
    assert shared(rest, part) == 0
    assert len(part.texts) == 100
    assert repeats(part) == 75
    pairs = examples(["same"] * 20, [f"second {i // 2}" for i in range(20)])
    rest, part = hold_out(pairs, 0.3, seed=0)
    assert shared(rest, part) == 0
    assert part.pairs is not None
    assert len(part.pairs) == 6


def test_shared_examples_are_counted_by_both_texts() -> None:
    assert shared(examples(["a", "b"]), examples(["b", "c", "b"])) == 2
    assert shared(examples(["a", "b"], ["x", "y"]), examples(["a", "b"], ["y", "y"])) == 1
    assert repeats(examples(["a", "b", "a", "a"])) == 2


def test_the_search_needs_two_labels() -> None:
    with pytest.raises(DataError, match=r"of 200 examples 0.999 leaves 0"):
        hold_out(MANY, 0.999, seed=0)
    with pytest.raises(DataError, match=r"at least two labels .* of 3 examples 0.5 leaves 1"):
        hold_out(examples(["a", "b", "c"]), 0.5, seed=0)
