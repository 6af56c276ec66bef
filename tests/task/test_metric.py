"""Metrics and losses against scikit-learn, SciPy, torch and numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from headsearch.errors import InputError
from headsearch.task.metric import Score, Threshold, make_objective, stricter

RANDOM = np.random.default_rng(0)


def classification(classes: int, examples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    labels = RANDOM.integers(0, classes, examples)
    outputs = RANDOM.normal(size=(examples, classes)).astype(np.float32)
    outputs[np.arange(examples), labels] += 1
    return outputs, labels


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_metrics_equal_scikit_learns(classes: int) -> None:
    outputs, labels = classification(classes)
    predicted = outputs.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average=average),
        "matthews": sk.matthews_corrcoef(labels, predicted),
    }
    for name, value in expected.items():
        score = make_objective(name, labels, classes).score(outputs)
        assert score.metric == pytest.approx(value, abs=1e-12)
        assert (score.correct is not None) == (name == "accuracy")


@pytest.mark.parametrize(
    ("name", "function"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)]
)
def test_regression_metrics_equal_scipys(name: str, function) -> None:
    labels = RANDOM.normal(size=100)
    outputs = (labels + RANDOM.normal(size=100))[:, None].astype(np.float32)
    score = make_objective(name, labels, 1).score(outputs)
    assert score.metric == pytest.approx(function(outputs[:, 0], labels).statistic, abs=1e-12)
    assert score.loss == pytest.approx(np.mean((outputs[:, 0] - labels) ** 2))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_with_the_opposite_is_negative(name: str) -> None:
    labels = np.arange(6.0)
    score = make_objective(name, labels, 1).score(-labels[:, None].astype(np.float32))
    assert score.metric == pytest.approx(-1.0)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_an_undefined_correlation_is_the_worst(name: str) -> None:
    objective = make_objective(name, np.arange(5.0), 1)
    assert objective.score(np.ones((5, 1), np.float32)).metric == -1.0
    broken = objective.score(np.array([[0], [1], [2], [3], [np.nan]], np.float32))
    assert (broken.metric, broken.loss) == (-1.0, np.inf)
    constant = make_objective(name, np.ones(5), 1)
    assert constant.score(np.arange(5, dtype=np.float32)[:, None]).metric == -1.0


def test_loss_and_slopes_equal_torchs() -> None:
    outputs, labels = classification(4)
    objective = make_objective("accuracy", labels, 4)
    logits = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(objective.losses(outputs), losses.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(objective.slopes(outputs), logits.grad.numpy(), atol=1e-12)
    target = RANDOM.normal(size=20)
    value = torch.tensor(RANDOM.normal(size=(20, 1)), requires_grad=True)
    ((value[:, 0] - torch.tensor(target)) ** 2).sum().backward()
    slopes = make_objective("pearson", target, 1).slopes(value.detach().numpy())
    np.testing.assert_allclose(slopes, value.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_stacks_equal_one_at_a_time(name: str) -> None:
    stack = np.stack([classification(3)[0] for _ in range(4)])
    objective = make_objective(name, classification(3)[1], 3)
    single = [objective.score(one) for one in stack]
    assert objective.metrics(stack).tolist() == [score.metric for score in single]
    np.testing.assert_allclose(objective.losses(stack).mean(axis=1), [s.loss for s in single])


def test_huge_logits_do_not_overflow_and_broken_ones_are_wrong() -> None:
    labels = np.array([0, 1, 1])
    objective = make_objective("accuracy", labels, 2)
    outputs = np.array([[1e30, 0], [0, 1e30], [np.nan, 1]], np.float32)
    score = objective.score(outputs)
    assert score.correct == 2
    assert score.loss == np.inf
    assert np.isfinite(objective.losses(outputs)[:2]).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_a_broken_example_counts_as_a_wrong_answer(name: str, broken: float) -> None:
    labels = np.array([0, 0, 1, 1])
    objective = make_objective(name, labels, 2)
    wrong = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)  # the last one
    # Taken as numbers, some of these would name the right class.
    for row in ([broken, 1], [0, broken], [broken, broken]):
        outputs = np.array([*wrong[:3].tolist(), row], np.float32)
        score = objective.score(outputs)
        assert score.metric == objective.score(wrong).metric
        assert score.loss == np.inf
        assert objective.metrics(outputs[None]).tolist() == [score.metric]


@pytest.mark.parametrize("name", ["f1", "matthews"])
def test_metrics_that_are_not_defined_are_zero(name: str) -> None:
    outputs = np.array([[1, 0], [1, 0]], np.float32)
    for labels in ([0, 0], [1, 1], [0, 1]):
        assert make_objective(name, np.array(labels), 2).score(outputs).metric == 0.0


def test_ties_go_to_the_smaller_class() -> None:
    objective = make_objective("accuracy", np.array([0, 1]), 2)
    assert objective.score(np.zeros((2, 2), np.float32)).correct == 1


@pytest.mark.parametrize(
    ("examples", "correct", "max_drop", "least"),
    [
        (1746, 1481, 0.01, 1464),  # 17.46 may be lost: 17
        (100, 90, 0.07, 83),  # in binary, 0.07 * 100 is 7.000000000000001
        (100, 90, 0.29, 61),  # in binary, 0.29 * 100 is 28.999999999999996
        (1000, 800, 0.0, 800),
        (10, 9, 0.999, 0),
        (3, 3, 0.333, 3),
        (3, 3, 0.334, 2),
    ],
)
def test_accuracy_thresholds_are_whole_numbers(
    examples: int, correct: int, max_drop: float, least: int
) -> None:
    objective = make_objective("accuracy", np.zeros(examples, np.int64), 2)
    threshold = objective.threshold(Score(correct / examples, 0.5, correct), max_drop)
    assert threshold == Threshold(least / examples, least)
    assert threshold.feasible(Score(least / examples, 0.5, least))
    assert not threshold.feasible(Score((least - 1) / examples, 0.1, least - 1))


def test_other_thresholds_are_differences() -> None:
    objective = make_objective("f1", np.array([0, 1]), 2)
    threshold = objective.threshold(Score(0.8, 0.5), 0.05)
    assert threshold.value == pytest.approx(0.75)
    assert threshold.feasible(Score(0.7500001, 9.0))
    assert not threshold.feasible(Score(0.7499, 0.0))


@pytest.mark.parametrize("max_drop", [-0.1, 1.0, 1.5, float("nan")])
def test_budget_out_of_range(max_drop: float) -> None:
    objective = make_objective("accuracy", np.array([0, 1]), 2)
    with pytest.raises(InputError, match=r"`max_drop` must be in \[0, 1\) but got"):
        objective.threshold(Score(1.0, 0.0, 2), max_drop)


def test_a_drop_of_the_budget_itself_is_within_it_for_f1_too() -> None:
    """F1 = 2 t / (2 t + e): for right answers t and errors e, in floats of any rounding."""
    objective = make_objective("f1", np.array([0, 1]), 2)
    tried = 0
    for budget in (Fraction(1, 10), Fraction(1, 20), Fraction(1, 100)):
        exact = {Fraction(2 * t, 2 * t + e) for t in range(1, 60) for e in range(60)}
        for above in exact:
            if above - budget in exact:
                threshold = objective.threshold(Score(float(above), 0.0), float(budget))
                assert threshold.feasible(Score(float(above - budget), 0.0))
                assert not threshold.feasible(Score(float(above - budget) - 1e-9, 0.0))
                tried += 1
    assert tried > 100


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_a_full_model_that_answers_all_alike_is_no_measure(metric: str) -> None:
    labels = np.array([0, 1, 1, 0])
    objective = make_objective(metric, labels, 2)
    alike = np.tile(np.array([[1.0, 0.0]], np.float32), (4, 1))
    assert objective.flaw(alike) == f"its answers are all the same, and so its {metric} is 0"
    assert objective.flaw(np.eye(2, dtype=np.float32)[labels]) is None
    assert make_objective("accuracy", labels, 2).flaw(alike) is None
    # Its F1 is 2/3 where all answers are the class that it is of.
    expected = None if metric == "f1" else "its answers are all the same, and so its matthews is 0"
    assert objective.flaw(alike[:, ::-1]) == expected


def test_a_full_model_of_infinite_perplexity_is_no_measure() -> None:
    objective = make_objective("perplexity", np.array([3, 4]), 1, "sequences")
    assert objective.flaw(np.array([[1e4], [2.0]], np.float32)) == "its perplexity is infinite"
    assert objective.flaw(np.array([[6.0], [2.0]], np.float32)) is None


def test_budgets_are_exact_wherever_floats_are_not() -> None:
    # Of 100 examples k may be lost for a budget written k/100; in binary, floor(b * 100) is less
    # for some.
    objective = make_objective("accuracy", np.zeros(100, np.int64), 2)
    lost = [
        100 - (objective.threshold(Score(1.0, 0.0, 100), k / 100).correct or 0) for k in range(100)
    ]
    assert lost == list(range(100))
    assert any(int(k / 100 * 100) != k for k in range(100))


@pytest.mark.parametrize(
    ("name", "classes", "choices"),
    [
        (
            "precision",
            2,
            "pearson, spearman, perplexity but got 'precision'",
        ),
        ("pearson", 2, "accuracy, f1, matthews for a model with 2 classes but got 'pearson'"),
        ("accuracy", 1, "pearson, spearman for a model with 1 output"),
    ],
)
def test_metrics_that_do_not_fit(name: str, classes: int, choices: str) -> None:
    with pytest.raises(InputError) as caught:
        make_objective(name, np.array([0, 1]), classes)
    assert choices in str(caught.value)


def test_the_metric_module_needs_numpy_only() -> None:
    code = (
        "import sys, headsearch.task.metric; "
        "print(sorted({'torch', 'ray', 'datasets', 'sklearn', 'scipy', 'pandas'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("classes", [2, 3, 7, 9])
def test_margins_and_short_axes_agree_with_numpys_own_way(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 300)
    objective = make_objective("accuracy", labels, classes)
    outputs = random.integers(-2, 3, (5, 300, classes)).astype(np.float32)  # full of ties
    right = (outputs.argmax(axis=-1) == labels).mean(axis=-1)
    np.testing.assert_array_equal(objective.metrics(outputs), right)
    least = np.sort(right)[2]
    margins = objective.margins(outputs)
    for share, margin in zip(right, margins, strict=True):
        assert objective.meets(margin, Threshold(least)) == (share >= least)
    sums = outputs[0] + outputs[1]
    np.testing.assert_array_equal(margins[0] + margins[1], objective.margins(sums))
    for broken in (np.nan, np.inf, -np.inf):
        outputs[0, :7, 0] = broken
        right = (outputs[0, 7:].argmax(axis=-1) == labels[7:]).sum() / 300
        assert objective.metrics(outputs)[0] == right
    outputs[0, :7, :2] = 3e38  # finite, though the sum of two is not
    assert np.isfinite(objective.losses(outputs)).all()
    assert objective.metrics(outputs)[0] == (outputs[0].argmax(axis=-1) == labels).mean()


def test_of_two_thresholds_the_stricter_allows_less() -> None:
    loose, strict = Threshold(0.8, 80), Threshold(0.81, 81)
    assert stricter(loose, strict) == stricter(strict, loose) == strict


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_a_threshold_is_in_reach_as_long_as_all_other_answers_may_be_right(classes: int) -> None:
    outputs, labels = classification(classes, 60)
    outputs[::7, 0] = np.nan
    objective = make_objective("accuracy", labels, classes)
    examples = RANDOM.permutation(60)[:25]
    right = sum(
        np.isfinite(outputs[place]).all() and outputs[place].argmax() == labels[place]
        for place in examples
    )
    assert objective.right_of(outputs[examples], examples) == right
    for correct in range(61):
        expected = right + 35 >= correct
        threshold = Threshold(correct / 60, correct)
        assert objective.in_reach(outputs[examples], examples, threshold) == expected
    f1 = make_objective("f1", labels, classes)
    assert f1.in_reach(outputs[examples], examples, Threshold(1.0)), "of others nothing is known"


@pytest.mark.parametrize("classes", [2, 5])
def test_the_hardest_examples_are_those_whose_right_class_is_furthest_behind(classes: int) -> None:
    outputs, labels = classification(classes, 40)
    outputs[7, 0] = np.nan
    objective = make_objective("accuracy", labels, classes)
    ahead = [
        -np.inf
        if place == 7
        else row[label] - max(value for other, value in enumerate(row) if other != label)
        for place, (row, label) in enumerate(zip(outputs.tolist(), labels.tolist(), strict=True))
    ]
    order = sorted(range(40), key=lambda place: ahead[place])
    assert objective.hardest_first(outputs).tolist() == order
    assert objective.closest(outputs, 9).tolist() == sorted(order[:9])
    wrong = sum(each <= 0 for each in ahead)
    some = order[: wrong + 5]
    margins = objective.margins(outputs[some], labels[some])
    for correct in (39 - wrong, 40 - wrong, 41 - wrong):
        met = objective.can_meet(margins, Threshold(correct / 40), objective.least[:, some])
        assert met == (correct <= 40 - wrong)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_what_is_not_finite_has_no_derivatives(classes: int) -> None:
    outputs = RANDOM.normal(size=(6, classes)).astype(np.float32)
    outputs[2, 0], outputs[4, -1] = np.nan, np.inf
    labels = np.arange(6) % max(classes, 2)
    name = "pearson" if classes == 1 else "accuracy"
    with np.errstate(invalid="ignore"):
        slopes, weights = make_objective(name, labels, classes).derivatives(outputs)
    assert not slopes[[2, 4]].any()
    assert np.isfinite(slopes).all()
    assert np.isfinite(weights).all()
