"""Ask and tell: the search for people who score sets of heads by an evaluator of their own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from numbers import Integral
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np

from headsearch.errors import InputError, ModelError
from headsearch.heads import HeadMap, HeadSet
from headsearch.run.config import RunConfig
from headsearch.run.points import OperatingPoint
from headsearch.run.settings import settings_of
from headsearch.search.astar import Result
from headsearch.search.ledger import check_baseline, finite
from headsearch.search.points import operating_points, safer_points
from headsearch.search.problem import Node, Problem
from headsearch.study.talk import Talk, run
from headsearch.task.metric import ACCURACY, REGRESSION, make_objective

CLOSED = "closed"


class Study:
    """Searches with answers that the caller gives, and without gradients.

    The same search as `headsearch.search`, turned inside out; where that would give a set of heads
    up half way, a study takes what it is told, which is whole. Same answers, same questions. It
    may be used as a context manager, which closes it.

    >>> study = Study([2, 2], labels=[0, 1], max_drop=0.5)
    >>> study.ask()
    [()]
    >>> study.tell([[[1.0, 0.0], [0.0, 1.0]]])
    >>> study.best.metric, study.best.heads_removed
    (1.0, 0)
    >>> study.close()

    Args:
        heads_per_layer: how many heads each layer has.
        labels: of the examples that every set is scored on, (examples,): class ids, or numbers for
            a metric of regressions.
        metric, max_drop, max_evaluations, max_expansions, patience: see `headsearch run --help`.

    Attributes:
        stopped: why the search has ended; None as long as it goes on.

    Raises:
        InputError: an argument breaks a rule; the text names it.
    """

    def __init__(
        self,
        heads_per_layer: Sequence[int],
        labels: Any,
        *,
        metric: str = "accuracy",
        max_drop: float = 0.01,
        max_evaluations: int | None = None,
        max_expansions: int | None = None,
        patience: int = 4,
    ) -> None:
        self._config = RunConfig(
            model="study",
            data="study",
            metric=metric,
            max_drop=max_drop,
            max_evaluations=max_evaluations,
            max_expansions=max_expansions,
            patience=patience,
        )
        self._shape = _shape(heads_per_layer)
        self._labels = _labels(labels, metric)
        self._talk = Talk()
        self._problem: Problem | None = None  # it has as many classes as the first outputs
        self._thread: Thread | None = None
        self._nodes: list[Node] = []
        # What was asked and not told yet; None: the search has to say.
        self._batch: list[HeadSet] | None = [HeadSet()]
        self.stopped: str | None = None
        # A study that is dropped leaves no thread behind that waits for ever.
        weakref.finalize(self, self._talk.close)

    def ask(self) -> list[tuple[tuple[int, int], ...]]:
        """Return the sets of heads to score next, each as the (layer, head) pairs to do without.

        The first is the full model alone. None are left when the search has ended. Without a
        `tell` in between it returns the same again.
        """
        if self.stopped is not None:
            return []
        if self._batch is None:
            self._batch = self._heard()
        return [self._pairs(heads) for heads in self._batch]

    def tell(self, outputs: Iterable[Any]) -> None:
        """Answer what was asked.

        Args:
            outputs: for each set of heads, in order, logits or values, (examples, classes), 1 class
                for a regression. They are copied, as float32; what is not finite counts as wrong,
                and is refused in the first, of the full model.

        Raises:
            InputError: there is nothing to answer, or the answers are not of that shape, or nothing
                can be compared with the full model's; then nothing was taken, and they can be told
                again.
        """
        if self._batch is None or self.stopped is not None:
            raise InputError("`tell` must come after an `ask` that returned sets of heads")
        told = list(outputs) if isinstance(outputs, Iterable) else None
        if told is None or len(told) != len(self._batch):
            raise InputError(
                f"`outputs` must be {len(self._batch)} arrays, one for each set of heads that was "
                f"asked for, but got {outputs if told is None else len(told)}"
            )
        arrays = [self._checked(each) for each in told]
        if self._problem is None:
            objective = make_objective(self._config.metric, self._labels, arrays[0].shape[1])
            try:
                check_baseline(objective, arrays[0])
            except ModelError as error:
                raise InputError(str(error)) from None
            self._begin(Problem(self._shape, objective, self._config.max_drop, gradients=False))
        for heads, array in zip(self._batch, arrays, strict=True):
            self._nodes.append(self._node(heads, array))
        self._batch = None
        self._talk.answer(arrays)

    @property
    def best(self) -> OperatingPoint:
        """The set of heads, of those told, that removes most within the budget.

        Raises:
            InputError: nothing was told yet.
        """
        if not self._nodes:
            raise InputError("`best` must come after a `tell`")
        feasible = (node for node in self._nodes if node.feasible)  # the full model always is
        return self._point(min(feasible, key=lambda node: node.rank))

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The frontier of heads removed against metric so far, most removed first."""
        return tuple(map(self._point, operating_points(self._nodes)))

    @property
    def safer_points(self) -> tuple[OperatingPoint, ...]:
        """The frontier of heads removed against loss within the budget, most removed first."""
        return tuple(map(self._point, safer_points(self._nodes, self._config.metric)))

    def close(self) -> None:
        """End the search, if it has not ended; what was told stays."""
        if self.stopped is None:
            self.stopped = CLOSED
        self._talk.close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, problem: Problem) -> None:
        """Start the search, whose first question is known: the full model."""
        self._problem = problem
        self._thread = Thread(
            target=run,
            args=(self._talk, problem, settings_of(self._config)),
            name="headsearch-study",
            daemon=True,  # a program that ends without `close` does not wait for it
        )
        self._thread.start()
        self._heard()

    def _heard(self) -> list[HeadSet]:
        """Wait for the search to ask or to end; raise what it raised."""
        said = self._talk.heard()
        if isinstance(said, Exception):
            self.stopped = f"{type(said).__name__}: {said}"
            raise said
        if isinstance(said, Result):
            self.stopped = said.stopped
            return []
        return said

    def _checked(self, outputs: Any) -> np.ndarray:
        """Return outputs as an array of their own, (examples, classes) float32."""
        try:
            array = np.asarray(outputs, dtype=np.float32).copy()  # tensors know no other way
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"outputs must be numbers, (examples, classes): {error}") from None
        if self._problem is not None:
            classes = str(self._problem.objective.classes)
            fits = array.shape[1:] == (self._problem.objective.classes,)
        elif self._config.metric in REGRESSION:
            classes, fits = "1", array.shape[1:] == (1,)
        else:
            least = max(2, int(self._labels.max()) + 1)
            classes, fits = f"{least} or more", array.ndim == 2 and array.shape[1] >= least
        if len(array.shape) != 2 or len(array) != len(self._labels) or not fits:
            raise InputError(
                f"outputs must have the shape (examples, classes), ({len(self._labels)}, {classes})"
                f", but got {array.shape}"
            )
        return array

    def _node(self, heads: HeadSet, outputs: np.ndarray) -> Node:
        assert self._problem is not None
        objective = self._problem.objective
        score = objective.score(outputs)
        full = self._nodes[0].score if self._nodes else score
        feasible = objective.threshold(full, self._problem.max_drop).feasible(score)
        weight = self._problem.weight.of(self._shape, heads)
        return Node(heads, weight, outputs, score, feasible)

    def _point(self, node: Node) -> OperatingPoint:
        score = node.score
        return OperatingPoint(
            removed=self._pairs(node.heads),
            heads_removed=len(node.heads),
            saved=node.weight,
            metric=score.metric,
            loss=finite(score.loss),
            correct=score.correct,
        )

    def _pairs(self, heads: HeadSet) -> tuple[tuple[int, int], ...]:
        return tuple(self._shape.position(index) for index in heads)


def _shape(heads_per_layer: Sequence[int]) -> HeadMap:
    counts = list(heads_per_layer) if isinstance(heads_per_layer, Iterable) else []
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 0 for n in counts)
    if not whole or not any(counts):
        raise InputError(
            "`heads_per_layer` must be whole numbers, one for each layer, not all of them 0, but "
            f"got {heads_per_layer}"
        )
    return HeadMap(tuple(int(n) for n in counts))


def _labels(labels: Any, metric: str) -> np.ndarray:
    """Return labels as an objective takes them, (examples,)."""
    array = np.asarray(labels)
    if metric in REGRESSION:
        rule, fits = "finite numbers", array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    else:
        rule, fits = "class ids from 0 on", array.dtype.kind in "iu" and bool((array >= 0).all())
    if not fits or array.ndim != 1 or not len(array):
        raise InputError(
            f"`labels` must be {rule}, (examples,), for the metric {metric} but got an array "
            f"{array.shape} of {array.dtype}"
        )
    made = array.astype(np.float64 if metric in REGRESSION else np.int64)
    # What the metric says of any model: the number of classes is not known yet.
    make_objective(metric, made, 1 if metric in REGRESSION else max(2, int(made.max()) + 1))
    if metric != ACCURACY and np.ptp(array) == 0:
        raise InputError(
            f"`labels` must not all be the same for the metric {metric}, which means nothing then, "
            f"but all {len(array)} are {array[0]}"
        )
    return made
