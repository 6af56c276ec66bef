"""Metrics and losses, computed from stored per-example outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from headsearch.errors import InputError
from headsearch.task.readout import EXAMPLES, SEQUENCES

ACCURACY = "accuracy"
CLASSIFICATION = (ACCURACY, "f1", "matthews")
REGRESSION = ("pearson", "spearman")
PERPLEXITY = "perplexity"  # see `task.perplexity`
METRICS = (*CLASSIFICATION, *REGRESSION, PERPLEXITY)
# Metrics that are no whole number of examples are sums and quotients, with rounding errors: a drop
# of the budget itself must not miss it by those. Of 100,000 examples no two F1 lie as close.
ROUNDING = 1e-12
FEW = 8  # so many classes and more are NumPy's own affair; see `over_classes`


@dataclass(frozen=True)
class Score:
    """What outputs are worth.

    Attributes:
        metric: larger is better.
        loss: mean cross-entropy, or mean squared error.
        correct: number of right answers; for accuracy only.
    """

    metric: float
    loss: float
    correct: int | None = None


@dataclass(frozen=True)
class Threshold:
    """The least metric that is allowed; for accuracy a whole number of right answers."""

    value: float
    correct: int | None = None

    def feasible(self, score: Score) -> bool:
        """Whether a score meets the threshold."""
        if self.correct is not None and score.correct is not None:
            return score.correct >= self.correct
        return score.metric >= self.value


def stricter(first: Threshold, second: Threshold) -> Threshold:
    """Return the threshold that allows less."""
    return first if first.value >= second.value else second


def least_allowed(metric: str, baseline: Score, max_drop: float, examples: int) -> Threshold:
    """Return the least metric that a budget allows; exact, in whole examples, for accuracy.

    For others but perplexity it is lower by `ROUNDING`.

    Args:
        metric: its name.
        baseline: of the full model.
        max_drop: how far it may fall, absolute; of perplexity, by what share of itself it may rise.
        examples: how many were scored.

    Raises:
        InputError: `max_drop` is out of range.
    """
    if not 0 <= max_drop < 1:
        raise InputError(f"`max_drop` must be in [0, 1) but got {max_drop}")
    if metric == PERPLEXITY:  # the metric is its negative
        return Threshold(baseline.metric * (1 + max_drop))
    if baseline.correct is None:
        return Threshold(baseline.metric - max_drop - ROUNDING)
    # The decimal that the user wrote, not the binary fraction next to it.
    correct = baseline.correct - math.floor(Fraction(str(max_drop)) * examples)
    return Threshold(correct / examples, correct)


@dataclass(frozen=True)
class Objective:
    """A metric and a loss over fixed labels.

    An example with an output that is not finite is a wrong answer, and its loss is infinite.

    Attributes:
        metric: a name in `METRICS`.
        labels: (examples,) int64 class ids, or float64 values for regression.
        classes: number of classes; 1 for regression.
    """

    metric: str
    labels: np.ndarray
    classes: int

    def losses(self, outputs: np.ndarray) -> np.ndarray:
        """Return each example's loss, (…, examples) float64, of outputs (…, examples, classes)."""
        outputs = outputs.astype(np.float64, copy=False)
        if self.classes == 1:
            losses = np.square(outputs[..., 0] - self.labels)
            return np.where(finite_rows(outputs), losses, np.inf)
        with np.errstate(invalid="ignore"):  # inf - inf of outputs that count as broken below
            top = over_classes(np.maximum, outputs)
            spread = np.log(over_classes(np.add, np.exp(outputs - top[..., None])))
            losses = top + spread - self._of_label(outputs)
        return np.where(finite_rows(outputs), losses, np.inf)

    def slopes(self, outputs: np.ndarray) -> np.ndarray:
        """Return d loss / d outputs of each example, (examples, classes) float64."""
        outputs = outputs.astype(np.float64, copy=False)
        if self.classes == 1:
            return np.asarray(2.0 * (outputs - self.labels[:, None]))
        weights = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        weights[np.arange(len(self.labels)), self.labels] -= 1.0
        return np.asarray(weights)

    def derivatives(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return slopes, and weights of squared changes that go with them, as float32.

        A change d of an example's outputs changes its loss by about slopes . d + weights . d**2.
        For one output and two classes that is Taylor's second-order term, the latter for changes
        d that sum to 0 over the classes; for more classes it leaves out the mixed terms.

        Returns:
            Two arrays (examples, classes); 0 for examples that are not finite.
        """
        slopes = np.where(finite_rows(outputs)[:, None], self.slopes(outputs), 0.0)
        if self.classes == 1:
            return slopes.astype(np.float32), np.ones_like(slopes, dtype=np.float32)
        chances = slopes.copy()
        chances[np.arange(len(self.labels)), self.labels] += 1.0
        spread = chances * (1.0 - chances) * (0.5 * self.classes / (self.classes - 1))
        return slopes.astype(np.float32), spread.astype(np.float32)

    def flaw(self, outputs: np.ndarray) -> str | None:
        """Return why the metric of a full model is no measure for others; None if it is one.

        Args:
            outputs: all finite, (examples, classes).
        """
        if self.classes == 1 and _correlation(self.metric, outputs[:, 0], self.labels) is None:
            return f"its outputs are all the same, so that its {self.metric} is not defined"
        same = self.classes > 1 and not np.ptp(self._predicted(outputs))
        if same and self.metric != ACCURACY and self._metric(outputs) == 0:
            return f"its answers are all the same, and so its {self.metric} is 0"
        return None

    def score(self, outputs: np.ndarray) -> Score:
        """Return metric and mean loss of outputs (examples, classes)."""
        loss = float(self.losses(outputs).mean())
        if self.metric == ACCURACY:
            correct = int(self._right(outputs).sum())
            return Score(correct / len(self.labels), loss, correct)
        return Score(self._metric(outputs), loss)

    def in_reach(self, outputs: np.ndarray, examples: np.ndarray, threshold: Threshold) -> bool:
        """Whether the threshold can still be met, given the outputs of some examples.

        Exact for accuracy: were all other answers right. For other metrics always True.

        Args:
            outputs: (some, classes).
            examples: which these are, (some,).
            threshold: what is to be met.
        """
        if threshold.correct is None:
            return True
        right = self.right_of(outputs, examples)
        return right + len(self.labels) - len(outputs) >= threshold.correct

    def right_of(self, outputs: np.ndarray, examples: np.ndarray) -> int:
        """Return how many of some examples' answers are right.

        Args:
            outputs: (some, classes).
            examples: which these are, (some,).
        """
        return int(replace(self, labels=self.labels[examples])._right(outputs).sum())

    def metrics(self, outputs: np.ndarray) -> np.ndarray:
        """Return the metric of each of a stack of outputs (stack, examples, classes), (stack,)."""
        if self.metric == ACCURACY:
            return np.asarray(self._right(outputs).sum(axis=-1) / len(self.labels))
        return np.array([self._metric(one) for one in outputs], dtype=np.float64)

    @property
    def has_margins(self) -> bool:
        """Whether margins tell all that the metric needs."""
        return self.metric == ACCURACY

    def margins(self, outputs: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Return by how much the right class is ahead of each, (…, classes, examples) float64.

        Linear in the outputs (…, examples, classes). An answer is right if all are positive, or 0
        for classes that do not come before the right one: of equal outputs the first counts.

        Args:
            outputs: (…, examples, classes).
            labels: of these examples, (examples,); by default, they are all.
        """
        labels = self.labels if labels is None else labels
        columns = np.ascontiguousarray(np.moveaxis(outputs, -1, -2), dtype=np.float64)
        with np.errstate(invalid="ignore"):  # inf - inf is nan, and that is not positive
            wanted = np.take_along_axis(
                columns,
                np.broadcast_to(labels, (*columns.shape[:-2], 1, columns.shape[-1])),
                axis=-2,
            )
            return np.asarray(wanted - columns)

    def meets(self, predicted: np.ndarray, threshold: Threshold) -> bool:
        """Whether a prediction meets the threshold: of outputs or, for accuracy, of margins."""
        if not self.has_margins:
            return bool(self._metric(predicted) >= threshold.value)
        right = (predicted > self.least).all(axis=0)
        return bool(int(np.count_nonzero(right)) / len(self.labels) >= threshold.value)

    def closest(self, outputs: np.ndarray, count: int) -> np.ndarray:
        """Return the examples whose right class is least far ahead, or furthest behind, (count,).

        Only if `has_margins`; of outputs (examples, classes).
        """
        return np.sort(self.hardest_first(outputs)[:count])

    def hardest_first(self, outputs: np.ndarray) -> np.ndarray:
        """Return all examples, those first whose right class is furthest behind, (examples,).

        Only if `has_margins`; of outputs (examples, classes).
        """
        margins = np.nan_to_num(self.margins(outputs), nan=-np.inf)
        own = np.arange(self.classes)[:, None] == self.labels
        ahead = np.where(own, np.inf, margins).min(axis=0)
        return np.argsort(ahead, kind="stable")

    def can_meet(self, margins: np.ndarray, threshold: Threshold, least: np.ndarray) -> bool:
        """Whether a prediction could meet the threshold if all examples but some were right.

        Args:
            margins: predicted, of these examples, (classes, some).
            threshold: what is to be met.
            least: `least` of these examples, (classes, some).
        """
        wrong = margins.shape[1] - int(np.count_nonzero((margins > least).all(axis=0)))
        return bool((len(self.labels) - wrong) / len(self.labels) >= threshold.value)

    @cached_property
    def least(self) -> np.ndarray:
        """What margins must be above, (classes, examples): 0, or just below where 0 will do."""
        before = np.arange(self.classes)[:, None] < self.labels
        return np.where(before, 0.0, -1e-300)

    def threshold(self, baseline: Score, max_drop: float) -> Threshold:
        """Return the least metric that is allowed; see `least_allowed`."""
        return least_allowed(self.metric, baseline, max_drop, len(self.labels))

    def _predicted(self, outputs: np.ndarray) -> np.ndarray:
        """Return class ids, (…, examples); of a broken example one that is not the right one."""
        wrong = (self.labels + 1) % self.classes
        return np.where(finite_rows(outputs), outputs.argmax(axis=-1), wrong)

    def _right(self, outputs: np.ndarray) -> np.ndarray:
        if outputs.shape[-1] >= FEW:
            return np.asarray(self._predicted(outputs) == self.labels)
        # The same, class by class: of equal outputs the first is the model's answer.
        outputs = np.moveaxis(np.ascontiguousarray(np.moveaxis(outputs, -1, 0)), 0, -1)
        wanted, right = self._of_label(outputs), finite_rows(outputs)
        for number in range(self.classes):
            other = outputs[..., number]
            right &= (other < wanted) | ((other == wanted) & self._not_before[number])
        return right

    @cached_property
    def _not_before(self) -> list[np.ndarray]:
        """For each class, the examples whose label does not come after it."""
        return [self.labels <= number for number in range(self.classes)]

    def _of_label(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the right classes, (…, examples)."""
        found = outputs[..., 0]
        for number in range(1, self.classes):
            found = np.where(self.labels == number, outputs[..., number], found)
        return found

    def _metric(self, outputs: np.ndarray) -> float:
        if self.classes == 1:
            found = _correlation(self.metric, outputs[:, 0], self.labels)
            return -1.0 if found is None else found  # the least value
        from sklearn import metrics  # takes a second to import

        predicted = self._predicted(outputs)
        if self.metric == "matthews":
            if np.ptp(self.labels) == 0:  # 0 by definition; scikit-learn would warn
                return 0.0
            return float(metrics.matthews_corrcoef(self.labels, predicted))
        average = "binary" if self.classes == 2 else "macro"
        return float(metrics.f1_score(self.labels, predicted, average=average, zero_division=0))


def metrics_for(classes: int, kind: str = EXAMPLES) -> tuple[str, ...]:
    """Return the metrics that fit a model; see `make_objective`."""
    if kind == SEQUENCES:
        return (PERPLEXITY,)
    return REGRESSION if classes == 1 else CLASSIFICATION


def make_objective(
    metric: str, labels: np.ndarray, classes: int, kind: str = EXAMPLES
) -> Objective:
    """Return the objective of a metric.

    Args:
        metric: its name.
        labels: of every row that is scored, (rows,).
        classes: how many outputs a row has; 1: a regression, or `SEQUENCES`.
        kind: what the rows are, see `task.readout`.

    Raises:
        InputError: the metric is unknown or does not fit the model.
    """
    if metric not in METRICS:
        raise InputError(f"`metric` must be one of {', '.join(METRICS)} but got {metric!r}")
    fitting = metrics_for(classes, kind)
    if metric not in fitting:
        model = "a language model" if kind == SEQUENCES else f"a model with {classes} classes"
        if fitting == REGRESSION:
            model = "a model with 1 output (regression)"
        raise InputError(
            f"`metric` must be one of {', '.join(fitting)} for {model} but got {metric!r}"
        )
    if kind == SEQUENCES:
        from headsearch.task.perplexity import Perplexity  # builds on this module

        return Perplexity(metric, labels, classes)
    return Objective(metric, labels, classes)


def _correlation(name: str, values: np.ndarray, labels: np.ndarray) -> float | None:
    """Return a correlation; None where it is not defined: of constants or non-finite values."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return None
    from scipy import stats

    function = stats.pearsonr if name == "pearson" else stats.spearmanr
    found = float(function(values, labels).statistic)
    return found if math.isfinite(found) else None


def finite_rows(outputs: np.ndarray) -> np.ndarray:
    """Whether all outputs of an example are finite, (…, examples)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is not finite if a term is not; it may also overflow, so then all are looked at.
        finite = np.isfinite(over_classes(np.add, outputs))
    if finite.all():
        return np.asarray(finite)
    return np.asarray(np.isfinite(outputs).all(axis=-1))


def over_classes(combine: np.ufunc, outputs: np.ndarray) -> np.ndarray:
    """Return what `combine.reduce` over the last axis does; much faster where it is short.

    NumPy walks a short last axis element by element. Below 8 it combines in this very order.
    """
    if outputs.shape[-1] >= FEW:
        return np.asarray(combine.reduce(outputs, axis=-1))
    found = outputs[..., 0]
    for number in range(1, outputs.shape[-1]):
        found = combine(found, outputs[..., number])
    return np.asarray(found)
