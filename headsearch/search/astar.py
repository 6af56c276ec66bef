"""A* over sets of removed heads: f(S) = g(S) + h(S), anytime, deterministic.

The declared graph is the lattice of all HeadSets. Its edges are the single removals, which make it
complete, and macro moves along the guides' paths, which only shorten the way. g is the number of
heads removed; h is a guide's estimate of how many more are removable within the budget. All ways
to a state cost the same, so every state is scored once, put on the frontier once and never
reopened. h is no upper limit, so f orders the search and proves nothing: only an exhausted
frontier does.

A state is expanded in two steps, as in partial expansion A*: the root first sends out rollouts,
whose guides are re-measured on the way by gradients; every other expansion measures all single
removals and climbs along paths built from those exact effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.frontier import Entry, Frontier
from headsearch.search.guides import (
    Budget,
    Fisher,
    Guide,
    Lookahead,
    Michel,
    View,
    predicted_reach,
)
from headsearch.search.points import operating_points
from headsearch.search.problem import Node, Oracle, Problem
from headsearch.task.metric import Threshold

# Lengths of macro moves along a path; rungs between them are filled in where feasibility changes.
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# A rollout ends after so many rungs in a row that are infeasible with a loss above the baseline's.
LOST_RUNGS = 2


@dataclass(frozen=True)
class Rollout:
    """A guide followed from the root, with gradients measured anew on the way.

    Attributes:
        guide: whose path is followed.
        remeasure: heads removed between two measurements.
    """

    guide: Guide
    remeasure: int


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        rollouts: where the search begins; one backward pass for each class at every measurement.
        guides: guides whose paths are climbed in every expansion, on exact effects.
        horizon: most heads that h may promise: linear predictions are not trusted further.
        patience: stop after so many expansions in a row without a better incumbent; None: never,
            so that without other budgets every state is scored. That f falls below the incumbent
            is no reason to stop: h is an estimate, and the next expansion corrects it.
        max_evaluations, max_expansions: budgets over what is committed; None: no limit.
    """

    # Re-scored Michel and cautious lookahead lead furthest. Fisher's path is weaker, so it is
    # measured more seldom.
    rollouts: tuple[Rollout, ...] = (
        Rollout(Michel(), 4),
        Rollout(Lookahead(0.3), 4),
        Rollout(Fisher(), 12),
    )
    guides: tuple[Guide, ...] = (Lookahead(0.0), Lookahead(0.3), Budget())
    horizon: int = 12
    patience: int | None = 4
    max_evaluations: int | None = None
    max_expansions: int | None = None


@dataclass
class Result:
    """What a search found; valid at any moment that it stops.

    Attributes:
        baseline: the full model.
        threshold: the least metric that was allowed.
        best: the feasible state with most heads removed (ties: lower loss, smaller bitset).
        points: see `operating_points`.
        candidates: every feasible state, best first.
        bound: an upper limit on the heads removable within the budget, over all HeadSets.
        evaluations: HeadSets scored.
        expansions: states expanded.
        memo_hits: times that a wanted score was known already.
        gradients: states whose gradients were measured.
        stopped: why the search ended.
    """

    baseline: Node
    threshold: Threshold
    best: Node
    points: list[Node]
    candidates: list[Node]
    bound: int
    evaluations: int
    expansions: int
    memo_hits: int
    gradients: int
    stopped: str


class _Stop(Exception):
    """Ends the search from within; its text is the reason."""


def search(
    problem: Problem,
    oracle: Oracle,
    settings: Settings | None = None,
    *,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
    should_stop: Callable[[], str | None] = lambda: None,
) -> Result:
    """Search until a budget ends or the frontier is exhausted.

    Args:
        problem: shape, objective and budget.
        oracle: what scores HeadSets.
        settings: how to search.
        on_step: called with each committed step, a dict of JSON values without times.
        should_stop: asked before each step; a text ends the search and says why.
    """
    run = _Search(problem, oracle, settings or Settings(), on_step, should_stop)
    return run.run()


@dataclass
class _Search:
    problem: Problem
    oracle: Oracle
    settings: Settings
    on_step: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], str | None]
    known: dict[HeadSet, Node] = field(default_factory=dict)
    frontier: Frontier = field(default_factory=Frontier)
    steps: int = 0
    expansions: int = 0
    memo_hits: int = 0
    measured: set[HeadSet] = field(default_factory=set)  # states whose gradients are known

    def run(self) -> Result:
        root = HeadSet()
        outputs = self.oracle.outputs(root, [root])[0]
        score = self.problem.objective.score(outputs)
        self.threshold = self.problem.objective.threshold(score, self.problem.max_drop)
        self.baseline = self.best = self.known[root] = Node(root, outputs, score, True)
        self._commit("baseline", self.baseline, 0, [self.baseline])
        try:
            reach = max((self._rollout(r) for r in self.settings.rollouts), default=0)
            self.frontier.push(Entry(self.baseline, reach))
            stopped = self._expand_all()
        except _Stop as stop:
            stopped = str(stop)
        nodes = self.known.values()
        full = self.problem.shape.total
        return Result(
            baseline=self.baseline,
            threshold=self.threshold,
            best=self.best,
            points=operating_points(nodes),
            candidates=sorted((n for n in nodes if n.feasible), key=lambda n: n.rank),
            bound=self.best.weight if stopped == "frontier exhausted" else full,
            evaluations=len(self.known),
            expansions=self.expansions,
            memo_hits=self.memo_hits,
            gradients=len(self.measured),
            stopped=stopped,
        )

    # Expansion

    def _expand_all(self) -> str:
        settings, since_better = self.settings, 0
        while len(self.frontier):
            if self.best.weight == self.problem.shape.total:
                return "every head removed"
            if settings.patience is not None and since_better >= settings.patience:
                return f"{settings.patience} expansions without a better state"
            if settings.max_expansions is not None and self.expansions >= settings.max_expansions:
                return "expansion budget spent"
            before = self.best.weight
            self._expand(self.frontier.pop())
            since_better = 0 if self.best.weight > before else since_better + 1
        return "frontier exhausted"

    def _expand(self, entry: Entry) -> None:
        """Score all single removals of a state, then climb along the guides' paths."""
        node = entry.node
        heads = [j for j in range(self.problem.shape.total) if j not in node.heads]
        found = self._score(node, [node.heads.add(j) for j in heads])
        singles = [self.known[node.heads.add(j)] for j in heads]
        effects = np.stack([single.outputs - node.outputs for single in singles]) if heads else None
        if effects is not None:
            view = self._view(node, heads, effects)
            paths = [guide.path(view) for guide in self.settings.guides]
            for path in paths:
                found += self._climb(node, path.heads, path.reach or 0)
            self._push(found, view, [path.heads for path in paths])
        self.expansions += 1
        self._commit("expansion", node, entry.h, found)

    def _climb(self, node: Node, path: Sequence[int], reach: int) -> list[Node]:
        """Score macro moves along a path: up to the first rung past `reach`, then on or between."""
        found: list[Node] = []
        rungs = [k for k in LADDER if k < len(path)]
        if path:
            rungs.append(len(path))

        def state(k: int) -> HeadSet:
            return node.heads | HeadSet.of(path[:k])

        within = [k for k in rungs if k <= reach]
        climbed = rungs[: len(within) + 1]
        found += self._score(node, [state(k) for k in climbed])
        while len(climbed) < len(rungs) and self.known[state(climbed[-1])].feasible:
            climbed = rungs[: len(climbed) + 1]
            found += self._score(node, [state(climbed[-1])])
        feasible = [k for k in climbed if self.known[state(k)].feasible]
        if feasible and feasible[-1] < climbed[-1]:
            low, high = feasible[-1], climbed[climbed.index(feasible[-1]) + 1]
            while high - low > 1:  # bisect for the last feasible rung in between
                middle = (low + high) // 2
                found += self._score(node, [state(middle)])
                low, high = (middle, high) if self.known[state(middle)].feasible else (low, middle)
        return found

    def _push(self, found: Iterable[Node], view: View, paths: Sequence[tuple[int, ...]]) -> None:
        """Put newly scored states on the frontier; h is the furthest that any path is predicted."""
        for child in found:
            reaches = []
            for path in paths:
                rest = tuple(j for j in path if j not in child.heads)[: self.settings.horizon]
                reaches.append(predicted_reach(view, rest, child.outputs))
            self.frontier.push(Entry(child, self._promise(child, reaches)))

    def _promise(self, node: Node, reaches: Iterable[int | None]) -> int:
        """h: the best reach within the horizon; where nothing feasible is expected, f is 0."""
        some = [min(reach, self.settings.horizon) for reach in reaches if reach is not None]
        return max(some) if some else -node.weight

    # Rollouts

    def _rollout(self, rollout: Rollout) -> int:
        """Follow a guide from the root and return the root's h."""
        node, lost = self.baseline, 0
        root_reach = 0
        while node.weight < self.problem.shape.total:
            heads = [j for j in range(self.problem.shape.total) if j not in node.heads]
            view = self._view(node, heads, self._gradient_effects(node, heads))
            path = rollout.guide.path(view)
            h = self._promise(node, [path.reach])
            if node is self.baseline:
                root_reach = h
            step = node.heads | HeadSet.of(path.heads[: rollout.remeasure])
            found = self._score(node, [step])
            self._push(found, view, [path.heads])
            self._commit(f"rollout {rollout.guide.name}", node, h, found)
            node = self.known[step]
            worse = not node.feasible and node.score.loss > self.baseline.score.loss
            lost = lost + 1 if worse else 0
            if lost == LOST_RUNGS:
                break
        return root_reach

    def _gradient_effects(self, node: Node, heads: list[int]) -> np.ndarray:
        self._check_stop()
        self.measured.add(node.heads)
        slopes = self.oracle.gradients(node.heads)  # (examples, classes, heads)
        return -np.ascontiguousarray(slopes[:, :, heads].transpose(2, 0, 1))

    # Shared parts

    def _view(self, node: Node, heads: list[int], effects: np.ndarray) -> View:
        return View(self.problem, self.threshold, node, np.array(heads), effects)

    def _score(self, parent: Node, states: Sequence[HeadSet]) -> list[Node]:
        """Have states scored and return those that are new, in order; ends the search on budget."""
        wanted = list(dict.fromkeys(states))
        new = [state for state in wanted if state not in self.known]
        self.memo_hits += len(wanted) - len(new)
        if not new:
            return []
        self._check_stop()
        limit = self.settings.max_evaluations
        room = len(new) if limit is None else max(0, limit - len(self.known))
        nodes = []
        asked = new[:room]
        for state, outputs in zip(
            asked, self.oracle.outputs(parent.heads, asked) if asked else [], strict=True
        ):
            score = self.problem.objective.score(outputs)
            node = Node(state, outputs, score, self.threshold.feasible(score))
            self.known[state] = node
            nodes.append(node)
            if node.feasible and node.rank < self.best.rank:
                self.best = node
        if room < len(new):
            self._commit("last", parent, 0, nodes)
            raise _Stop("evaluation budget spent")
        return nodes

    def _check_stop(self) -> None:
        reason = self.should_stop()
        if reason is not None:
            raise _Stop(reason)

    def _commit(self, kind: str, node: Node, h: int, found: Sequence[Node]) -> None:
        shape = self.problem.shape
        self.on_step(
            {
                "step": self.steps,
                "kind": kind,
                "removed": shape.pairs(node.heads),
                "g": node.weight,
                "h": h,
                "scored": [
                    [f"{n.heads.bits:x}", n.score.metric, finite(n.score.loss), n.feasible]
                    for n in found
                ],
                "best": [self.best.weight, self.best.score.metric, finite(self.best.score.loss)],
                "evaluations": len(self.known),
            }
        )
        self.steps += 1


def finite(value: float) -> float | None:
    """Return the value as JSON can hold it: None for an infinite or undefined one."""
    return value if math.isfinite(value) else None
