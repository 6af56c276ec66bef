"""What a search knows: every scored state, what it cost, and the steps that were committed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.search.bound import Bounds
from headsearch.search.guides import View
from headsearch.search.problem import GRADIENTS, OUTPUTS, Ask, Node, Oracle, Order, Problem
from headsearch.search.weight import HEADS
from headsearch.task.metric import Objective, Score, finite_rows

# A state may be given up after so many times the examples that it would have to get wrong. More
# often, and small rounds keep workers waiting for each other; measured, it saves next to nothing.
ENDS = (1.2, 1.6, 2.2, 3.0)

# Gradients that are kept, in bytes.
SLOPES_BYTES = 1 << 30


class BrokenBaseline(ModelError):
    """The full model's outputs are not all finite, so that there is nothing to compare with.

    Attributes:
        rows: of which rows, (some,), in the task's order.
    """

    def __init__(self, rows: np.ndarray, total: int) -> None:
        super().__init__(
            f"the full model's outputs must be finite but {len(rows)} of {total} are not"
        )
        self.rows = rows


def check_baseline(objective: Objective, outputs: np.ndarray) -> None:
    """Raise ModelError if the full model's outputs are none that others can be compared with.

    Args:
        objective: metric and labels.
        outputs: (examples, classes).

    Raises:
        BrokenBaseline: they are not all finite.
        ModelError: the metric says nothing of them.
    """
    broken = np.flatnonzero(~finite_rows(outputs))
    if len(broken):
        raise BrokenBaseline(broken, len(outputs))
    if flaw := objective.flaw(outputs):
        raise ModelError(f"the full model can't be compared with: {flaw}")


class Stop(Exception):
    """Ends the search from within; its text is the reason."""


@dataclass
class Ledger:
    """Asks the oracle, within the budget, and keeps what it answered.

    Attributes:
        problem: shape, objective and budget.
        oracle: what scores HeadSets.
        max_evaluations: budget over what is committed; None: no limit.
        on_step: called with each committed step, a dict of JSON values without times.
        should_stop: asked before each step; a text ends the search and says why.
        on_incumbent: called with `best` where answers made it another one.
        baseline: the full model.
        threshold: the least metric that is allowed.
        best: the feasible state that saves most (ties: lower loss, smaller bitset).
        known: all scored states.
        bounds: what they say about how much can be removed.
        measured: states whose gradients were measured.
        examples: which of them each state that was given up was scored on, (some,), ascending.
        slopes: the gradients of the last of them, (examples, classes, heads).
    """

    problem: Problem
    oracle: Oracle
    max_evaluations: int | None
    on_step: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], str | None]
    on_incumbent: Callable[[Node], None] = lambda node: None
    known: dict[HeadSet, Node] = field(default_factory=dict)
    measured: set[HeadSet] = field(default_factory=set)
    examples: dict[HeadSet, np.ndarray] = field(default_factory=dict)
    slopes: dict[HeadSet, np.ndarray] = field(default_factory=dict)
    bounds: Bounds = field(init=False)
    _orders: dict[HeadSet, Order] = field(default_factory=dict)
    _steps: int = 0
    _open: dict[HeadSet, Node] = field(default_factory=dict)  # scored since, and in no step yet
    _rows: int = 0  # outputs committed, of all states together

    def __post_init__(self) -> None:
        root = HeadSet()
        ((outputs,),) = self.oracle.ask([Ask(OUTPUTS, root, (root,))])
        check_baseline(self.problem.objective, outputs)
        score = self.problem.objective.score(outputs)
        self.threshold = self.problem.objective.threshold(score, self.problem.max_drop)
        self.bounds = Bounds(self.problem.shape)
        self.baseline = self.best = self.known[root] = Node(root, 0, outputs, score, True)
        self.bounds.observe(self.baseline)
        self._rows = len(outputs)
        self.commit("baseline", self.baseline, 0, [self.baseline])

    @property
    def evaluations(self) -> float:
        """HeadSets scored; one that was given up counts by its share of the examples."""
        return round(self._rows / len(self.problem.objective.labels), 3)

    def is_whole(self, state: HeadSet) -> bool:
        """Return whether all outputs of a state are known."""
        node = self.known.get(state)
        return node is not None and node.whole

    def view(self, node: Node, heads: list[int], effects: np.ndarray) -> View:
        """Return what guides see of a node: the effects of removing each of some heads.

        Nothing has an effect in examples whose outputs are broken already.
        """
        broken = ~finite_rows(node.outputs)
        if broken.any():
            effects = np.where(broken[:, None], np.float32(0.0), effects)
        return View(self.problem, self.threshold, node, np.array(heads), effects)

    def effect(self, node: Node, head: int) -> np.ndarray:
        """Return what removing a head too changes in a node's outputs, (examples, classes).

        Its state is known. Of one that was given up, 0 in the examples that were not scored.
        """
        child = self.known[node.heads.add(head)]
        with np.errstate(invalid="ignore"):  # inf - inf, of examples that both break
            if child.whole:
                return np.asarray(child.outputs - node.outputs)
            scored = self.examples[child.heads]
            effect = np.zeros_like(node.outputs)
            effect[scored] = child.outputs - node.outputs[scored]
        return effect

    def early(self, parent: HeadSet, states: tuple[HeadSet, ...]) -> Ask:
        """Return a question that gives states up where they can't meet the threshold any more."""

        def open_still(outputs: np.ndarray, examples: np.ndarray) -> bool:
            return self.problem.objective.in_reach(outputs, examples, self.threshold)

        return Ask(OUTPUTS, parent, states, open_still, self._order(parent))

    def _order(self, parent: HeadSet) -> Order | None:
        """Return the order in which a parent's children are scored: its likeliest errors first."""
        if not self.problem.hardest_first or self.threshold.correct is None:
            return None
        if parent not in self._orders:
            outputs = self.known[parent].outputs
            total = len(outputs)
            errors = total - self.threshold.correct + 1  # so many, and the threshold is missed
            ends = {min(total, math.ceil(errors * more)) for more in ENDS}
            examples = self.problem.objective.hardest_first(outputs)
            self._orders[parent] = Order(examples, tuple(sorted({*ends, total} - {0})))
        return self._orders[parent]

    def score(
        self,
        wanted: Sequence[tuple[HeadSet, tuple[HeadSet, ...]]],
        *,
        early: bool = False,
        ahead: Callable[[], Iterable[Ask]] = tuple,
    ) -> list[Node]:
        """Have states scored and return those that are new, in order; ends the search on budget.

        Args:
            wanted: parents, and what is wanted of each; distinct states.
            early: give a state up where it can't meet the threshold any more.
            ahead: see `Oracle.ask`.
        """
        asks: list[Ask] = []
        dropped = False
        for parent, states in wanted:
            known = [s for s in states if (s in self.known if early else self.is_whole(s))]
            new = tuple(state for state in states if state not in known)
            room = self._room(sum(len(ask.states) for ask in asks))
            dropped = dropped or len(new) > room
            if fit := new[:room]:
                asks.append(self.early(parent, fit) if early else Ask(OUTPUTS, parent, fit))
        if not asks and not dropped:
            return []
        self._check_stop(wanted[0][0])
        scores = dict[HeadSet, Score]()

        def ready(state: HeadSet, outputs: np.ndarray) -> None:
            scores[state] = self._score_of(outputs)

        answers = self.oracle.ask(asks, ahead if not dropped else tuple, ready) if asks else []
        nodes, before = [], self.best
        for ask, answer in zip(asks, answers, strict=True):
            for state, outputs in zip(ask.states, answer, strict=True):
                nodes.append(self._take(state, outputs, scores.get(state)))
                if not nodes[-1].whole:
                    scored = np.arange(len(outputs))  # the first in the task's order
                    if ask.order is not None:
                        scored = np.sort(ask.order.examples[: len(outputs)])
                    self.examples[state] = scored
        if self.best is not before:
            self.on_incumbent(self.best)
        if dropped:
            self._end(wanted[0][0], "evaluation budget spent")
        return nodes

    def gradients(
        self, states: Sequence[HeadSet], ahead: Callable[[], Iterable[Ask]] = tuple
    ) -> dict[HeadSet, np.ndarray]:
        """Return d outputs / d gates, (examples, classes, heads), of each state.

        They are 0 in examples where one is not finite.
        """
        self._check_stop(states[0])
        wanted = list(dict.fromkeys(states))
        self.measured.update(wanted)
        asks = [Ask(GRADIENTS, state, (state,)) for state in wanted]
        answers = self.oracle.ask(asks, ahead)
        found = {state: _mended(answer[0]) for state, answer in zip(wanted, answers, strict=True)}
        for state, slopes in found.items():
            self._keep(state, slopes)
        return found

    def _keep(self, state: HeadSet, slopes: np.ndarray) -> None:
        """Keep slopes, within `SLOPES_BYTES`; the root's always, and of others the newest."""
        self.slopes.pop(state, None)
        self.slopes[state] = slopes
        held = sum(each.nbytes for each in self.slopes.values())
        for old in list(self.slopes):
            if held <= SLOPES_BYTES:
                break
            if old != HeadSet() and old != state:
                held -= self.slopes.pop(old).nbytes

    def commit(self, kind: str, node: Node, h: int, found: Sequence[Node]) -> None:
        """Write down one step: what was done from a node with its h, and what was scored."""
        shape = self.problem.shape
        self.on_step(
            {
                "step": self._steps,
                "kind": kind,
                "removed": shape.pairs(node.heads),
                "g": node.weight,
                "h": h,
                "scored": [
                    [
                        f"{n.heads.bits:x}",
                        finite(n.score.metric),
                        finite(n.score.loss),
                        n.feasible,
                        len(n.outputs),
                    ]
                    for n in found
                ],
                "best": [
                    len(self.best.heads),
                    self.best.score.metric,
                    finite(self.best.score.loss),
                ],
                **self._saved(),
                "bound": self.bounds.now().to_step(),
                "evaluations": self.evaluations,
            }
        )
        self._steps += 1
        for each in found:
            self._open.pop(each.heads, None)

    def _saved(self) -> dict[str, dict[str, int]]:
        """Return what the best state saves, where that is not the number of its heads."""
        weight = self.problem.weight
        return {} if weight.kind == HEADS else {"saved": {weight.unit: self.best.weight}}

    def _take(self, state: HeadSet, outputs: np.ndarray, score: Score | None) -> Node:
        """Make what the oracle answered known."""
        whole = len(outputs) == len(self.problem.objective.labels)
        score = self._score_of(outputs) if score is None else score
        earlier = self.known.get(state)
        weight = self.problem.weight.of(self.problem.shape, state)
        feasible = whole and self.threshold.feasible(score)
        node = Node(state, weight, outputs, score, feasible, whole)
        self.known[state] = self._open[state] = node
        self.bounds.observe(node)
        self._rows += len(outputs) - (0 if earlier is None else len(earlier.outputs))
        if node.feasible and node.rank < self.best.rank:
            self.best = node
        return node

    def _score_of(self, outputs: np.ndarray) -> Score:
        """Return the score of whole outputs; of others it is not known."""
        if len(outputs) < len(self.problem.objective.labels):
            return Score(math.nan, math.inf)
        return self.problem.objective.score(outputs)

    def _room(self, asked: int) -> int:
        """How many more HeadSets the evaluation budget has room for, each taken as a whole."""
        limit = self.max_evaluations
        if limit is None:
            return sys.maxsize
        total = len(self.problem.objective.labels)
        return max(0, (limit * total - self._rows) // total - asked)

    def _check_stop(self, at: HeadSet) -> None:
        reason = self.should_stop()
        if reason is not None:
            self._end(at, reason)

    def _end(self, at: HeadSet, reason: str) -> NoReturn:
        """End the search at a state, in the middle of a step maybe: what was scored is kept."""
        if self._open:
            self.commit("last", self.known[at], 0, list(self._open.values()))
        raise Stop(reason)


def _mended(slopes: np.ndarray) -> np.ndarray:
    """Return slopes with 0 in examples where one is not finite."""
    whole = np.asarray(finite_rows(slopes).all(axis=1))
    return slopes if whole.all() else np.where(whole[:, None, None], slopes, np.float32(0.0))


def finite(value: float) -> float | None:
    """Return the value as JSON can hold it: None for an infinite or undefined one."""
    return value if math.isfinite(value) else None
