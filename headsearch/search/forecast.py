"""What metric is to be expected of outputs that are predicted, not measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from headsearch.search.problem import Node
from headsearch.task.metric import PERPLEXITY, Objective

# Of several classes, those that come closest to the right one stand for all.
RIVALS = 2
# Most columns that are predicted, and examples; of more, those closest to a wrong answer.
COLUMNS = 4000
PREDICTED = 2000
LEAST_DEVIATION = 1e-6
# Examples by which a forecast may be off beside what each one's chance says.
OFF = 2.0
# Beyond this no prediction of a token's mean surprise means anything, nor has it an exponential.
MOST_SURPRISE = 50.0


class Forecast:
    """Turns predicted columns into expected metrics.

    For classification a column is a margin: by how much the right class is ahead of a rival. With
    a margin's mean m and standard deviation s the answer is right with chance Phi(m / s). For
    regression a column is an output, and of rank correlations their differences are taken to be
    those of Pearson's; for perplexity it is a sequence's surprise.

    Args:
        objective: metric and labels.
        baseline: the full model.
        known: scored states; which classes and examples matter is told by their outputs.

    Attributes:
        base: the full model's columns, (columns,).
    """

    def __init__(self, objective: Objective, baseline: Node, known: Sequence[Node]) -> None:
        self._objective = objective
        self._places = np.arange(len(objective.labels))
        self._rivals = np.zeros((0, len(self._places)), np.int64)  # (rivals, examples)
        if objective.classes > 1:
            ahead = self._least_ahead([baseline, *known])  # (classes, examples)
            rivals = np.argsort(ahead, axis=0, kind="stable")[: min(RIVALS, objective.classes - 1)]
            closest = np.argsort(ahead.min(axis=0), kind="stable")
            self._places = np.sort(closest[: min(PREDICTED, COLUMNS // len(rivals))])
            self._rivals = rivals[:, self._places]
        self._labels = objective.labels[self._places]
        self.base = self.columns(baseline.outputs)

    def columns(self, outputs: np.ndarray) -> np.ndarray:
        """Return the columns, (…, columns) float64, of outputs (…, examples, classes).

        Linear in the outputs, so the columns of their changes are the changes of columns.
        """
        some = outputs[..., self._places, :].astype(np.float64)
        if not len(self._rivals):
            return np.asarray(some[..., 0])
        rows = np.arange(len(self._places))
        right = some[..., rows, self._labels]
        return np.concatenate([right - some[..., rows, rival] for rival in self._rivals], axis=-1)

    def columns_of(self, outputs: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """Return the columns, (columns,), of some examples' outputs; NaN for all others.

        Args:
            outputs: (some, classes).
            examples: which these are, (some,).
        """
        every = np.full((len(self._objective.labels), outputs.shape[-1]), np.nan)
        every[examples] = outputs
        return self.columns(every)

    def metrics(self, changes: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return expected metrics and their standard deviations, (states,) each.

        The latter are 0 but for classification: deviations of outputs say little of a
        correlation's, or of a mean's.

        Args:
            changes: predicted changes from the full model, (states, columns).
            deviations: their standard deviations.
        """
        columns = self.base + changes
        if self._objective.metric == PERPLEXITY:
            surprise = columns.sum(axis=1) / self._labels.sum()
            return -np.exp(np.minimum(surprise, MOST_SURPRISE)), np.zeros(len(columns))
        if not len(self._rivals):
            return self._correlations(columns, deviations), np.zeros(len(columns))
        by_rival = self._by_rival(columns, deviations)
        chances = _chances(by_rival)
        total = len(self._objective.labels)
        spread = np.sqrt(np.einsum("se,se->s", chances, 1 - chances) + OFF**2) / total
        if self._objective.metric == "accuracy":
            # The examples that are not predicted are far from a wrong answer.
            return (chances.sum(axis=1) + (total - len(self._places))) / total, spread
        rivals = np.take_along_axis(
            np.broadcast_to(self._rivals, by_rival.shape), by_rival.argmin(axis=1)[:, None], axis=1
        )[:, 0]
        return self._of_confusion(self._confusion(chances, rivals)), spread

    def losses(self, changes: np.ndarray) -> np.ndarray:
        """Return mean losses of classifications, (states,), if outputs are as predicted.

        Over the examples that are predicted: the mean of log(1 + the sum of exp(-m)) over margins
        m. See `metrics`.
        """
        columns = self.base + changes
        margins = columns.reshape(len(columns), len(self._rivals), -1)
        odds = special.logsumexp(-margins, axis=1)
        return np.asarray(np.logaddexp(0.0, odds).mean(axis=1))

    def right(self, changes: np.ndarray, deviations: np.ndarray, examples: np.ndarray) -> float:
        """Return how many of some examples' answers are expected to be right.

        Args:
            changes, deviations: of one state, (columns,) each; see `metrics`.
            examples: which these are, (some,).
        """
        chances = np.ones(len(self._objective.labels))  # not predicted: far from a wrong answer
        chances[self._places] = _chances(self._by_rival((self.base + changes)[None], deviations))[0]
        return float(chances[examples].sum())

    def _by_rival(self, columns: np.ndarray, deviations: np.ndarray) -> np.ndarray:
        """Return margins in units of their deviations, (states, rivals, examples)."""
        scaled = columns / np.maximum(deviations, LEAST_DEVIATION)
        return np.asarray(scaled.reshape(len(scaled), len(self._rivals), -1))

    def _correlations(self, outputs: np.ndarray, deviations: np.ndarray) -> np.ndarray:
        """Pearson's, where each output has a deviation that has nothing to do with the label."""
        labels = self._labels - self._labels.mean()
        centred = outputs - outputs.mean(axis=1, keepdims=True)
        size = np.einsum("se,se->s", centred, centred)
        size += np.einsum("se,se->s", deviations, deviations)
        shared = np.einsum("se,e->s", centred, labels)
        return np.asarray(shared / np.sqrt(np.maximum(size * np.sum(labels**2), 1e-300)))

    def _confusion(self, chances: np.ndarray, rivals: np.ndarray) -> np.ndarray:
        """Return expected counts, (states, classes, classes), of labels and answers."""
        classes = self._objective.classes
        found = np.zeros((len(chances), classes, classes))
        states = np.arange(len(chances))[:, None]
        np.add.at(found, (states, self._labels, self._labels), chances)
        np.add.at(found, (states, self._labels, rivals), 1 - chances)
        others = np.bincount(self._objective.labels, minlength=classes)
        others -= np.bincount(self._labels, minlength=classes)
        found[:, np.arange(classes), np.arange(classes)] += others
        return found

    def _of_confusion(self, counts: np.ndarray) -> np.ndarray:
        """Return F1 or Matthews' coefficient, (states,), of counts (states, labels, answers)."""
        hits = np.einsum("scc->sc", counts)
        true, answered = counts.sum(axis=2), counts.sum(axis=1)
        if self._objective.metric == "f1":
            f1 = 2 * hits / np.maximum(true + answered, 1e-300)
            if self._objective.classes == 2:
                return np.asarray(f1[:, 1])
            there = true + answered > 1e-9
            return np.asarray(f1.sum(axis=1) / there.sum(axis=1))
        total = true.sum(axis=1)
        above = hits.sum(axis=1) * total - (true * answered).sum(axis=1)
        below = total**2 - np.square(answered).sum(axis=1)
        below = below * (total**2 - np.square(true).sum(axis=1))
        return np.asarray(above / np.sqrt(np.maximum(below, 1e-300)))

    def _least_ahead(self, nodes: Sequence[Node]) -> np.ndarray:
        """Return by how much the right class is ahead at least, (classes, examples)."""
        labels = self._objective.labels
        least = np.full((self._objective.classes, len(labels)), np.inf)
        for node in nodes:
            margins = self._objective.margins(node.outputs)
            least = np.minimum(least, np.nan_to_num(margins, nan=-np.inf))
        least[labels, np.arange(len(labels))] = np.inf
        return least


def _chances(by_rival: np.ndarray) -> np.ndarray:
    return np.asarray(special.ndtr(by_rival.min(axis=1)))
