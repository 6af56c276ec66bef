"""A* over sets of removed heads: f(S) = g(S) + h(S), anytime, deterministic.

The declared graph is the lattice of all HeadSets. Its edges are the single removals, which make it
complete, and macro moves along the guides' paths, which only shorten the way. g is the number of
heads removed; h is a guide's estimate of how many more are removable within the budget. All ways
to a state cost the same, so every state is scored once, put on the frontier once and never
reopened. h is no upper limit, so f orders the search and proves nothing: only an exhausted
frontier does.

Macro moves are decided early: a state that can't meet the threshold any more after a round of
batches is given up there. Its loss and metric are then not known, it goes to the end of the
frontier with h = -g, and is scored to the end before it is expanded. Single removals and rollouts
are always scored to the end, since guides need their effect on every example.

A state is expanded in two steps, as in partial expansion A*: the root first sends out rollouts,
whose guides are re-measured on the way by gradients; every other expansion measures all single
removals and climbs along paths built from those exact effects. Rollouts and climbs go in lockstep,
so that what can be asked at once is asked at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.climb import Climb
from headsearch.search.frontier import Entry, Frontier
from headsearch.search.guides import (
    Budget,
    Fisher,
    Guide,
    Ladder,
    Lookahead,
    Michel,
    Path,
    View,
    furthest,
    predicted_reach,
)
from headsearch.search.points import operating_points
from headsearch.search.problem import GRADIENTS, OUTPUTS, Ask, Node, Oracle, Problem
from headsearch.task.metric import Score, Threshold

# A rollout ends after so many rungs in a row that are infeasible with a loss above the baseline's.
LOST_RUNGS = 2
# The size of model that `Rollout.remeasure` speaks of: MiniLM-L6, where it was measured.
REMEASURED_HEADS = 72
# How many of the states that may be expanded next are looked at ahead.
STATES_AHEAD = 3


@dataclass(frozen=True)
class Rollout:
    """A guide followed from the root, with gradients measured anew on the way.

    Attributes:
        guide: whose path is followed.
        remeasure: heads removed between two measurements, in a model of up to 72 heads. In larger
            ones more in proportion, so that a rollout has about as many steps, which come one
            after the other, whatever the model's size.
    """

    guide: Guide
    remeasure: int

    def stride(self, heads: int) -> int:
        """Return the heads removed between two measurements in a model of so many."""
        return max(self.remeasure, self.remeasure * heads // REMEASURED_HEADS)


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
        Rollout(Lookahead(0.3, limit=16), 4),
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
        evaluations: HeadSets scored; one that was given up counts by its share of the examples.
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
    evaluations: float
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
    rows: int = 0  # outputs committed, of all states together
    expansions: int = 0
    memo_hits: int = 0
    measured: set[HeadSet] = field(default_factory=set)  # states whose gradients are known
    expanded: View | None = None  # of the last expansion

    def __post_init__(self) -> None:
        # Most children have the same path ahead of them.
        self._ladder = lru_cache(maxsize=8)(self._ladder_of)

    def run(self) -> Result:
        root = HeadSet()
        ((outputs,),) = self.oracle.ask([Ask(OUTPUTS, root, (root,))])
        score = self.problem.objective.score(outputs)
        self.threshold = self.problem.objective.threshold(score, self.problem.max_drop)
        self.baseline = self.best = self.known[root] = Node(root, outputs, score, True)
        self.rows = len(outputs)
        self._commit("baseline", self.baseline, 0, [self.baseline])
        try:
            reach = self._rollouts()
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
            evaluations=self._evaluations(),
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
            entry = self.frontier.pop()
            if not entry.node.whole and self._is_whole(entry.node.heads):
                continue  # it was given up, and scored to the end since: it is on the frontier anew
            self._expand(entry)
            since_better = 0 if self.best.weight > before else since_better + 1
        return "frontier exhausted"

    def _expand(self, entry: Entry) -> None:
        """Score all single removals of a state, then climb along the guides' paths."""
        node, completed = entry.node, list[Node]()
        if not node.whole:  # it was given up half way: now all of it is needed
            completed = self._score([(node.heads, (node.heads,))])
            (node,) = completed
        heads = [j for j in range(self.problem.shape.total) if j not in node.heads]
        singles = tuple(node.heads.add(j) for j in heads)
        found = self._score([(node.heads, singles)], ahead=self._next_singles)
        if heads:
            effects = np.stack([self.known[single].outputs - node.outputs for single in singles])
            self.expanded = view = self._view(node, heads, effects)
            paths = _paths([(guide, view) for guide in self.settings.guides])
            climbs = [Climb(node.heads, path.heads, path.reach or 0) for path in paths]
            found += self._climb(node, paths, climbs)
            for made in self._entries(found, node, paths):
                self.frontier.push(made)
        self.expansions += 1
        self._commit("expansion", node, entry.h, completed + found)

    def _climb(self, node: Node, paths: Sequence[Path], climbs: Sequence[Climb]) -> list[Node]:
        """Score macro moves along all paths in lockstep, until every climb has ended."""
        found: list[Node] = []

        def asked(rungs: Callable[[Climb], list[int]]) -> tuple[HeadSet, ...]:
            return tuple(dict.fromkeys(climb.state(k) for climb in climbs for k in rungs(climb)))

        def ahead() -> Iterable[Ask]:
            following = asked(lambda climb: climb.likely(self._feasible(climb)))
            if following:
                yield self._early(node.heads, following)
            yield from self._next_singles(self._entries(found, node, paths))

        while states := asked(lambda climb: climb.wanted(self._feasible(climb))):
            found += self._score([(node.heads, states)], early=True, ahead=ahead)
        return found

    def _feasible(self, climb: Climb) -> Callable[[int], bool | None]:
        def known(rung: int) -> bool | None:
            node = self.known.get(climb.state(rung))
            return None if node is None else node.feasible

        return known

    def _next_singles(self, found: Iterable[Entry] = ()) -> Iterable[Ask]:
        """What is asked first if the states that now look best are expanded next."""
        limit = self.settings.max_expansions
        if limit is not None and self.expansions + 1 >= limit:
            return
        for entry in self.frontier.first(STATES_AHEAD, found):
            if not entry.node.whole or entry.f == 0:
                continue
            singles = tuple(
                child
                for j in range(self.problem.shape.total)
                if j not in entry.node.heads
                and not self._is_whole(child := entry.node.heads.add(j))
            )
            if singles:
                yield Ask(OUTPUTS, entry.node.heads, singles)

    def _entries(self, found: Iterable[Node], node: Node, paths: Sequence[Path]) -> list[Entry]:
        """Give newly scored states their h: the furthest that any path is predicted to lead.

        It is put off until it is needed, from the exact effects at the state whose paths they are.
        """

        entries = []
        for child in found:
            if child.whole:
                most = min(self.settings.horizon, self.problem.shape.total - child.weight)

                def promise(child: Node = child) -> int:
                    ladders = [self._ladder(node.heads, self._rest(path, child)) for path in paths]
                    reach = furthest(ladders, child.outputs, self.threshold, self.problem.objective)
                    return self._promise(child, [reach])

                entries.append(Entry(child, most, promise))
            else:
                entries.append(Entry(child, self._promise(child, [])))
        return entries

    def _ladder_of(self, heads: HeadSet, path: tuple[int, ...]) -> Ladder:
        """Return the ladder of a path by the exact effects of its heads at a state."""
        if self.expanded is not None and self.expanded.node.heads == heads:
            return Ladder(self.expanded, path)
        node, removed = self.known[heads], sorted(path)
        effects = [self.known[heads.add(j)].outputs - node.outputs for j in removed]
        view = self._view(node, removed, np.stack(effects) if effects else node.outputs[:0, None])
        return Ladder(view, path)

    def _rest(self, path: Path, node: Node) -> tuple[int, ...]:
        """What of a path is still to be removed at a state, as far as h may look."""
        left = (j for j in path.heads if j not in node.heads)
        return tuple(islice(left, self.settings.horizon))

    def _promise(self, node: Node, reaches: Iterable[int | None]) -> int:
        """h: the best reach within the horizon; where nothing feasible is expected, f is 0."""
        some = [min(reach, self.settings.horizon) for reach in reaches if reach is not None]
        return max(some) if some else -node.weight

    # Rollouts

    def _rollouts(self) -> int:
        """Follow the rollouts' guides from the root, in lockstep, and return the root's h."""
        nodes = dict.fromkeys(self.settings.rollouts, self.baseline)
        lost = dict.fromkeys(self.settings.rollouts, 0)
        root_reach = 0
        while nodes:
            slopes = self._gradients([node.heads for node in nodes.values()])
            moves: list[tuple[Rollout, View, Path, int, HeadSet]] = []
            views = {
                node.heads: self._slope_view(node, slopes[node.heads]) for node in nodes.values()
            }
            paths = _paths([(r.guide, views[node.heads]) for r, node in nodes.items()])
            for (rollout, node), path in zip(nodes.items(), paths, strict=True):
                view = views[node.heads]
                h = self._promise(node, [path.reach])
                if node is self.baseline:
                    root_reach = max(root_reach, h)
                step = node.heads | HeadSet.of(
                    path.heads[: rollout.stride(self.problem.shape.total)]
                )
                moves.append((rollout, view, path, h, step))
            steps = list(dict.fromkeys(step for *_, step in moves))
            parents = {step: view.node.heads for _, view, _, _, step in reversed(moves)}

            def ahead(steps: list[HeadSet] = steps) -> Iterable[Ask]:
                return [Ask(GRADIENTS, step, (step,)) for step in steps]

            found = self._score([(parents[step], (step,)) for step in steps], ahead=ahead)
            new = {node.heads: node for node in found}
            for rollout, view, path, h, step in moves:
                fresh = [new.pop(step)] if step in new else []
                for child in fresh:
                    ahead_of_it = predicted_reach(view, self._rest(path, child), child.outputs)
                    self.frontier.push(Entry(child, self._promise(child, [ahead_of_it])))
                self._commit(f"rollout {rollout.guide.name}", view.node, h, fresh)
                node = nodes[rollout] = self.known[step]
                worse = not node.feasible and node.score.loss > self.baseline.score.loss
                lost[rollout] = lost[rollout] + 1 if worse else 0
                if lost[rollout] == LOST_RUNGS or node.weight == self.problem.shape.total:
                    del nodes[rollout]
        return root_reach

    def _gradients(self, states: Sequence[HeadSet]) -> dict[HeadSet, np.ndarray]:
        """Return d outputs / d gates, (examples, classes, heads), of each state."""
        self._check_stop()
        wanted = list(dict.fromkeys(states))
        self.measured.update(wanted)
        asks = [Ask(GRADIENTS, state, (state,)) for state in wanted]
        answers = self.oracle.ask(asks, self._next_singles)
        return {state: answer[0] for state, answer in zip(wanted, answers, strict=True)}

    # Shared parts

    def _slope_view(self, node: Node, slopes: np.ndarray) -> View:
        """Return a view whose effects come from slopes (examples, classes, heads)."""
        heads = [j for j in range(self.problem.shape.total) if j not in node.heads]
        effects = np.ascontiguousarray(slopes.transpose(2, 0, 1)[heads])
        np.negative(effects, out=effects)
        return self._view(node, heads, effects)

    def _view(self, node: Node, heads: list[int], effects: np.ndarray) -> View:
        return View(self.problem, self.threshold, node, np.array(heads), effects)

    def _score(
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
            known = [s for s in states if (s in self.known if early else self._is_whole(s))]
            self.memo_hits += len(known)
            new = tuple(state for state in states if state not in known)
            room = self._room(sum(len(ask.states) for ask in asks))
            dropped = dropped or len(new) > room
            if new[:room]:
                ask = Ask(OUTPUTS, parent, new[:room])
                asks.append(self._early(parent, ask.states) if early else ask)
        if not asks and not dropped:
            return []
        self._check_stop()
        scores = dict[HeadSet, Score]()

        def ready(state: HeadSet, outputs: np.ndarray) -> None:
            scores[state] = self._score_of(outputs)

        answers = self.oracle.ask(asks, ahead if not dropped else tuple, ready) if asks else []
        nodes = [
            self._take(state, outputs, scores.get(state))
            for ask, answer in zip(asks, answers, strict=True)
            for state, outputs in zip(ask.states, answer, strict=True)
        ]
        if dropped:
            self._commit("last", self.known[wanted[0][0]], 0, nodes)
            raise _Stop("evaluation budget spent")
        return nodes

    def _score_of(self, outputs: np.ndarray) -> Score:
        """Return the score of whole outputs; of others it is not known."""
        if len(outputs) < len(self.problem.objective.labels):
            return Score(math.nan, math.inf)
        return self.problem.objective.score(outputs)

    def _take(self, state: HeadSet, outputs: np.ndarray, score: Score | None) -> Node:
        """Make what the oracle answered known."""
        whole = len(outputs) == len(self.problem.objective.labels)
        score = self._score_of(outputs) if score is None else score
        earlier = self.known.get(state)
        node = Node(state, outputs, score, whole and self.threshold.feasible(score), whole)
        self.known[state] = node
        self.rows += len(outputs) - (0 if earlier is None else len(earlier.outputs))
        if node.feasible and node.rank < self.best.rank:
            self.best = node
        return node

    def _early(self, parent: HeadSet, states: tuple[HeadSet, ...]) -> Ask:
        def open_still(outputs: np.ndarray) -> bool:
            return self.problem.objective.in_reach(outputs, self.threshold)

        return Ask(OUTPUTS, parent, states, open_still)

    def _is_whole(self, state: HeadSet) -> bool:
        node = self.known.get(state)
        return node is not None and node.whole

    def _evaluations(self) -> float:
        return round(self.rows / len(self.problem.objective.labels), 3)

    def _room(self, asked: int) -> int:
        """How many more HeadSets the evaluation budget has room for, each taken as a whole."""
        limit = self.settings.max_evaluations
        if limit is None:
            return sys.maxsize
        total = len(self.problem.objective.labels)
        return max(0, (limit * total - self.rows) // total - asked)

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
                    [
                        f"{n.heads.bits:x}",
                        finite(n.score.metric),
                        finite(n.score.loss),
                        n.feasible,
                        len(n.outputs),
                    ]
                    for n in found
                ],
                "best": [self.best.weight, self.best.score.metric, finite(self.best.score.loss)],
                "evaluations": self._evaluations(),
            }
        )
        self.steps += 1


def _paths(asked: Sequence[tuple[Guide, View]]) -> list[Path]:
    """Return each guide's path from a view; NumPy leaves Python's lock to the others meanwhile."""
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        return list(pool.map(lambda pair: pair[0].path(pair[1]), asked))


def finite(value: float) -> float | None:
    """Return the value as JSON can hold it: None for an infinite or undefined one."""
    return value if math.isfinite(value) else None
