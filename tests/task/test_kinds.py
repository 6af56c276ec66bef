"""Tokens, labels and sequences as what is scored: data, labels and perplexity."""

from __future__ import annotations

import math
from typing import Any

import datasets
import numpy as np
import pytest

from headsearch.errors import DataError, InputError
from headsearch.task.data import Examples, examples_from_rows
from headsearch.task.holdout import hold_out, repeats, shared
from headsearch.task.metric import Score, least_allowed, make_objective
from headsearch.task.readout import LABELS, SEQUENCES, TOKENS, Readout

NAMES = {0: "O", 1: "PER", 2: "LOC"}


def loaded(rows: Any, kind: str, **more: Any) -> Examples:
    return examples_from_rows(rows, id2label=NAMES, classes=3, kind=kind, **more)


WORDS = [
    {"text": ["Ada", "met", "Bo"], "label": ["PER", "O", "PER"]},
    {"text": ["in", "Rome"], "label": ["O", "LOC"]},
    {"text": ["no"], "label": ["O"]},
]


def test_every_word_has_a_label() -> None:
    examples = loaded(WORDS, TOKENS)
    assert examples.texts == [["Ada", "met", "Bo"], ["in", "Rome"], ["no"]]
    assert [labels.tolist() for labels in examples.labels] == [[1, 0, 1], [0, 2], [0]]
    assert examples.distinct_labels == 3


def test_tags_of_a_data_set_are_followed_by_name() -> None:
    feature = datasets.Sequence(datasets.ClassLabel(names=["LOC", "O", "PER"]))
    rows = datasets.Dataset.from_dict(
        {"tokens": [["Ada"], ["in", "Rome"]], "tags": [[2], [1, 0]]},
        features=datasets.Features(
            {"tokens": datasets.Sequence(datasets.Value("string")), "tags": feature}
        ),
    )
    examples = loaded(rows, TOKENS, text_column="tokens", label_column="tags")
    assert [labels.tolist() for labels in examples.labels] == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"text": ["a", "b"], "label": ["O"]}, "row 3 has 1 labels for 2 words"),
        ({"text": ["a"], "label": ["ORG"]}, "but row 3 is 'ORG'"),
        ({"text": ["a", "\udc00"], "label": ["O", "O"]}, "valid Unicode but row 3 has"),
        ({"text": "a b", "label": ["O"]}, "'text' must hold lists of words"),
        ({"text": [], "label": []}, "must hold words but row 3 has none"),
        ({"text": ["a"], "label": "O"}, "must hold a label for each word but row 3 is 'O'"),
        ({"text": ["a"], "label": None}, "must hold a label for each word but row 3 is null"),
    ],
)
def test_bad_words_are_refused(row: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        loaded([*WORDS, row], TOKENS)


def test_labels_are_names_or_flags() -> None:
    rows = [
        {"text": "a", "label": ["PER", "LOC"]},
        {"text": "b", "label": []},
        {"text": "c", "label": [1, 0, 1]},
        {"text": "d", "label": [0.0, 1.0, 0.0]},
        {"text": "e", "label": np.array([1, 1, 0])},
    ]
    expected = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0]]
    examples = loaded(rows, LABELS)
    assert isinstance(examples.labels, np.ndarray)
    assert examples.labels.tolist() == expected


def test_flags_may_be_texts_and_ids_of_class_labels_are_no_flags() -> None:
    texts = loaded(
        [{"text": "a", "label": ["0", "1", "0"]}, {"text": "b", "label": ["LOC"]}], LABELS
    )
    assert texts.labels.tolist() == [[0, 1, 0], [0, 0, 1]]
    names = ["PER", "LOC", "O"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": [datasets.ClassLabel(names=names)]}
    )
    rows = {"text": list("abcd"), "label": [[0, 1], [1, 0, 0], [2], []]}
    found = loaded(datasets.Dataset.from_dict(rows, features=features), LABELS)
    yes = datasets.Features(
        {"text": datasets.Value("string"), "label": [datasets.ClassLabel(names=["no", "yes"])]}
    )
    flagged = {"text": list("ab"), "label": [[0, 1, 0], [1, 0, 1]]}
    each = loaded(datasets.Dataset.from_dict(flagged, features=yes), LABELS)
    assert each.labels.tolist() == flagged["label"]
    assert found.labels.tolist() == [[0, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "label", [[0, 1], [0, 2, 1], "PER", ["ORG"], 1, None, [None, 1, 0], [[1], [0], [0]]]
)
def test_bad_labels_are_refused(label: Any) -> None:
    with pytest.raises(DataError, match="column 'label' must hold"):
        loaded([{"text": "a", "label": [1, 0, 0]}, {"text": "b", "label": label}], LABELS)


def test_sequences_need_no_labels_and_may_be_one() -> None:
    assert loaded([{"text": "only one"}], SEQUENCES).texts == ["only one"]
    with pytest.raises(DataError, match="column 'text' must hold texts"):
        loaded([{"text": 3}], SEQUENCES)


@pytest.mark.parametrize("kind", [TOKENS, SEQUENCES])
def test_pairs_are_of_texts_alone(kind: str) -> None:
    with pytest.raises(InputError, match="`pair_column` must not be given"):
        loaded(WORDS, kind, pair_column="label")


def test_a_part_is_held_out_whole_and_told_apart() -> None:
    rows = [{"text": [f"w{i % 8}", "x"], "label": ["O", "PER"]} for i in range(16)]
    rest, part = hold_out(loaded(rows, TOKENS), 0.25, seed=0)
    assert len(rest) + len(part) == 16
    assert len(part) >= 4
    assert shared(rest, part) == 0
    assert shared(rest, rest) == len(rest)
    assert repeats(loaded(rows, TOKENS)) == 8
    assert rest.kind == part.kind == TOKENS


def test_rows_of_a_readout() -> None:
    tokens = Readout(TOKENS, np.array([[0, 1], [0, 2], [2, 1]]))
    assert tokens.rows(3) == 3
    assert tokens.examples_of_rows(3).tolist() == [0, 0, 2]
    assert Readout(LABELS, labels=3).rows(2) == 6
    assert Readout(LABELS, labels=3).examples_of_rows(2).tolist() == [0, 0, 0, 1, 1, 1]
    assert Readout().rows(5) == 5


# Perplexity

TOKENS_OF = np.array([4, 6, 10])
SURPRISES = np.array([[8.0], [9.0], [23.0]])


def test_perplexity_is_that_of_all_tokens_together() -> None:
    objective = make_objective("perplexity", TOKENS_OF, 1, SEQUENCES)
    score = objective.score(SURPRISES)
    assert score.metric == pytest.approx(-math.exp(40 / 20))
    assert score.loss == pytest.approx(40 / 20)
    assert score.correct is None
    assert objective.metrics(np.stack([SURPRISES, SURPRISES * 0]))[1] == pytest.approx(-1.0)


def test_its_budget_is_relative() -> None:
    objective = make_objective("perplexity", TOKENS_OF, 1, SEQUENCES)
    base = objective.score(SURPRISES)
    threshold = objective.threshold(base, 0.1)
    assert threshold == least_allowed("perplexity", base, 0.1, 3)
    assert threshold.value == pytest.approx(1.1 * base.metric)
    above = math.log(1.1) * 20  # so much more surprise in all, and it is exactly ten per cent more
    for more, feasible in ((above - 1e-6, True), (above + 1e-6, False)):
        raised = SURPRISES + np.array([[more], [0.0], [0.0]])
        assert threshold.feasible(objective.score(raised)) == feasible
    with pytest.raises(InputError, match="`max_drop` must be in"):
        objective.threshold(base, 1.0)


def test_its_derivatives_are_those_of_the_loss() -> None:
    objective = make_objective("perplexity", TOKENS_OF, 1, SEQUENCES)
    slopes, curves = objective.derivatives(SURPRISES)
    for row in range(3):
        step = np.zeros_like(SURPRISES)
        step[row] = 1e-3
        change = objective.losses(SURPRISES + step).sum() - objective.losses(SURPRISES).sum()
        assert slopes[row, 0] == pytest.approx(change / 1e-3, rel=1e-5)
    assert not curves.any()
    assert np.allclose(objective.slopes(SURPRISES), slopes)


def test_what_is_no_number_is_as_bad_as_can_be() -> None:
    objective = make_objective("perplexity", TOKENS_OF, 1, SEQUENCES)
    for broken in (np.nan, np.inf, 1e6):
        score = objective.score(np.array([[broken], [0.0], [0.0]]))
        assert score.metric == -math.inf
        assert not objective.threshold(Score(-5.0, 1.6), 0.5).feasible(score)


@pytest.mark.parametrize(
    ("metric", "classes", "kind"),
    [("accuracy", 1, SEQUENCES), ("perplexity", 3, "examples"), ("perplexity", 1, "examples")],
)
def test_perplexity_is_for_language_models_alone(metric: str, classes: int, kind: str) -> None:
    with pytest.raises(InputError, match="`metric` must be one of"):
        make_objective(metric, TOKENS_OF, classes, kind)
