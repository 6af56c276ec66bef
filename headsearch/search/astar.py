"""A* over sets of removed heads: f(S) = g(S) + h(S), anytime, deterministic.

The declared graph is the lattice of all HeadSets. Its edges are the single removals, which make it
complete, and two kinds of macro moves, which only shorten the way: along the guides' paths, and
those that the surrogate proposes, which may also put heads back and take others. g is the weight
that is saved, by default the number of heads removed; h is a guide's estimate of how much more can
be saved within the budget. All ways
to a state cost the same, so every state is scored once, put on the frontier once and never
reopened. h is no upper limit, so f orders the search and proves nothing: only an exhausted
frontier does.

Moves are decided early: a state that can't meet the threshold any more after a round of examples is
given up there. Its loss and metric are then not known, it goes to the end of the frontier with
h = -g, and is scored to the end before it is expanded. Where a single removal was given up, guides
take it that it changes nothing in the examples that were not scored: these are the ones that are
hardest to change. Rollouts are always scored to the end.

Expansion is partial, as in partial expansion A*: of a state's many moves those are made first that
promise most. The root sends out rollouts, whose guides are re-measured on the way by gradients.
Then a surrogate (see `surrogate`), fitted anew to all that was scored, proposes moves from the most
promising states in rounds, until these lead no further; then, once, it is asked for milder states
where operating points are far from each other; then the first state of the frontier is expanded,
which measures all its single removals and climbs along paths built from what these change; then
the surrogate, which knows more now, is asked again. At the end it is asked for milder states as
long as that finds operating points, then for those of low loss, which are safer on other data.
Rollouts and climbs go in lockstep, so that what can be asked at once is asked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.bound import THOROUGH, Bound
from headsearch.search.climb import Climb
from headsearch.search.frontier import Entry, Frontier
from headsearch.search.guides import (
    Budget,
    Guide,
    Ladder,
    Lookahead,
    Michel,
    Path,
    View,
    furthest,
    paths_of,
)
from headsearch.search.learning import Learner
from headsearch.search.ledger import Ledger, Stop
from headsearch.search.points import feasible_points, gaps, operating_points, safer_points
from headsearch.search.problem import Ask, Node, Oracle, Problem
from headsearch.search.promise import promise, rest_of
from headsearch.search.proposals import by_start
from headsearch.search.rollouts import Rollout, roll_out
from headsearch.search.sharpen import Sharpener
from headsearch.task.metric import CLASSIFICATION, Threshold

# How many of the states that may be expanded next are looked at ahead.
STATES_AHEAD = 3
# So many rounds of proposals in a row without a better incumbent, and an expansion comes first; so
# many rounds of the curve in a row without a new operating point, and it is left as it is.
DRY_ROUNDS = 2


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        rollouts: where the search begins; four backward passes at most at every measurement.
        guides: guides whose paths are climbed in every expansion, on exact effects.
        proposals: states in a round that the surrogate proposes, at least; 0: there are no rounds.
        heads_per_proposal: a round has at least one for so many heads: where there are many,
            further ones are worth more than to begin an expansion, which scores every head left.
        curve: after the first rounds and at the end the surrogate is asked for states between
            operating points, and at the end between those of low loss, so that milder ones can be
            chosen too: where neighbours are further from each other than what the best state saves
            divided by this; 0: it isn't.
        horizon: most heads that h may promise: linear predictions are not trusted further.
        patience: stop after so many expansions in a row without a better incumbent; None: never,
            so that without other budgets every state is scored. That f falls below the incumbent
            is no reason to stop: h is an estimate, and the next expansion corrects it.
        bound_evaluations: how much may be spent, after the search has come to its end, on lowering
            the bound under its assumption; see `sharpen`.
        max_evaluations, max_expansions: budgets over what is committed; None: no limit.
    """

    # Two that have little in common, measured seldom: gradients cost more than scores, and all that
    # the surrogate needs of them is a first idea.
    rollouts: tuple[Rollout, ...] = (Rollout(Michel(), 12), Rollout(Lookahead(0.3), 12))
    guides: tuple[Guide, ...] = (Lookahead(0.0), Lookahead(0.3), Budget())
    horizon: int = 12
    proposals: int = 8
    heads_per_proposal: int = 24
    curve: int = 9
    patience: int | None = 4
    bound_evaluations: int = 0
    max_evaluations: int | None = None
    max_expansions: int | None = None


@dataclass
class Result:
    """What a search found; valid at any moment that it stops.

    Attributes:
        baseline: the full model.
        threshold: the least metric that was allowed.
        best: the feasible state that saves most (ties: lower loss, smaller bitset).
        points: see `operating_points`.
        safer: see `safer_points`.
        candidates: every feasible state, best first.
        bound: an upper limit on what can be saved within the budget, over all HeadSets.
        limits: the same in heads, and a lower one that rests on an assumption, with what speaks
            against it.
        evaluations: HeadSets scored; one that was given up counts by its share of the examples.
        expansions: states expanded.
        gradients: states whose gradients were measured.
        stopped: why the search ended.
    """

    baseline: Node
    threshold: Threshold
    best: Node
    points: list[Node]
    safer: list[Node]
    candidates: list[Node]
    bound: int
    limits: Bound
    evaluations: float
    expansions: int
    gradients: int
    stopped: str


def search(
    problem: Problem,
    oracle: Oracle,
    settings: Settings | None = None,
    *,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
    should_stop: Callable[[], str | None] = lambda: None,
    on_incumbent: Callable[[Node], None] = lambda node: None,
) -> Result:
    """Search until a budget ends or the frontier is exhausted.

    Args:
        problem: shape, objective and budget.
        oracle: what scores HeadSets.
        settings: how to search.
        on_step: called with each committed step, a dict of JSON values without times.
        should_stop: asked before each step; a text ends the search and says why.
        on_incumbent: called with each state that is better than all before it, as soon as all that
            was asked together is answered; not with the full model.
    """
    settings = settings or Settings()
    ledger = Ledger(problem, oracle, settings.max_evaluations, on_step, should_stop, on_incumbent)
    return _Search(ledger, settings).run()


class _Search:
    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger, self.settings = ledger, settings
        self.problem, self.threshold = ledger.problem, ledger.threshold
        self.frontier = Frontier()
        self.learner = Learner(ledger)
        self.sharpener = Sharpener(ledger, settings.bound_evaluations)
        self.expansions = 0
        self.expanded: View | None = None  # of the last expansion
        # Most children have the same path ahead of them.
        self._ladder = lru_cache(maxsize=8)(self._ladder_of)

    def run(self) -> Result:
        ledger, settings = self.ledger, self.settings
        try:
            reach = 0
            if self.problem.gradients:
                reach = roll_out(
                    settings.rollouts, ledger, self.frontier, settings.horizon, self._likely
                )
            self.frontier.push(Entry(ledger.baseline, reach))
            self._propose()
            self._fill_curve()
            stopped = self._expand_all()
            with suppress(Stop):  # the search has come to its end before
                self._refine_curve()
                self.sharpener.run()
        except Stop as stop:
            stopped = str(stop)
        nodes = ledger.known.values()
        limits = ledger.bounds.now(THOROUGH if settings.bound_evaluations else 0)
        return Result(
            baseline=ledger.baseline,
            threshold=ledger.threshold,
            best=ledger.best,
            points=operating_points(nodes),
            safer=safer_points(nodes, self.problem.objective.metric),
            candidates=sorted((n for n in nodes if n.feasible), key=lambda n: n.rank),
            bound=ledger.best.weight
            if stopped == "frontier exhausted"
            else self.problem.weight.most(limits.proved),
            limits=limits,
            evaluations=ledger.evaluations,
            expansions=self.expansions,
            gradients=len(ledger.measured),
            stopped=stopped,
        )

    # Expansion

    def _expand_all(self) -> str:
        settings, since_better = self.settings, 0
        while len(self.frontier):
            if self.ledger.best.weight == self.problem.weight.total:
                return "all that can be saved is saved"
            if settings.patience is not None and since_better >= settings.patience:
                return f"{settings.patience} expansions without a better state"
            if settings.max_expansions is not None and self.expansions >= settings.max_expansions:
                return "expansion budget spent"
            before = self.ledger.best.weight
            entry = self.frontier.pop()
            if not entry.node.whole and self.ledger.is_whole(entry.node.heads):
                continue  # it was given up, and scored to the end since: it is on the frontier anew
            self._expand(entry)
            better = self.ledger.best.weight > before
            # After 0, 1, 2, 4, 8, … in vain: more and more seldom.
            if better or since_better & (since_better - 1) == 0:
                self._propose()
            since_better = 0 if self.ledger.best.weight > before else since_better + 1
        return "frontier exhausted"

    def _propose(self) -> None:
        """Score what the surrogate proposes, in rounds, until that leads no further."""
        ledger, count, dry = self.ledger, self.settings.proposals, 0
        if count:
            count = max(count, self.problem.shape.total // self.settings.heads_per_proposal)
        while count and dry < DRY_ROUNDS and ledger.best.weight < self.problem.weight.total:
            chosen = self.learner.proposals()[:count]
            if not chosen:
                return
            before, metric = ledger.best, self._largest_metric()
            found = ledger.score(by_start(chosen), early=True)
            for child in found:
                self.frontier.push(Entry(child, 0 if child.feasible else -child.weight))
            most = max(proposal.weight for proposal in chosen)
            ledger.commit("proposals", before, most - before.weight, found)
            better = ledger.best.weight > before.weight or self._largest_metric() > metric
            dry = 0 if better else dry + 1
            measurable = self.problem.gradients and ledger.best.heads not in ledger.measured
            if dry == DRY_ROUNDS and measurable:
                ledger.gradients([ledger.best.heads])  # far cheaper than scoring all its children
                dry = 0

    def _refine_curve(self) -> None:
        """Fill the curve again, by metric, then by loss, until that finds no further points."""
        classifies = self.problem.objective.metric in CLASSIFICATION
        for by_loss in (False, True) if classifies else (False,):
            dry, points = 0, self._points(by_loss)
            while dry < DRY_ROUNDS and self._fill_curve(by_loss):
                before, points = points, self._points(by_loss)
                dry = 0 if [p.heads for p in points] != [p.heads for p in before] else dry + 1

    def _fill_curve(self, by_loss: bool = False) -> bool:
        """Score states between operating points that are far from each other, if there are any."""
        ledger, points = self.ledger, self._points(by_loss)
        levels = gaps(points, self.settings.curve)
        chosen = self.learner.between(points, levels, by_loss) if levels else []
        if chosen:
            found = ledger.score(by_start(chosen))
            for child in found:
                self.frontier.push(Entry(child, 0))
            ledger.commit("safer" if by_loss else "curve", ledger.best, 0, found)
        return bool(chosen)

    def _points(self, by_loss: bool = False) -> list[Node]:
        if by_loss:
            return safer_points(self.ledger.known.values(), self.problem.objective.metric)
        return feasible_points(self.ledger.known.values())

    def _largest_metric(self) -> float:
        """Return the largest metric of states that save at least as much as the best."""
        least = self.ledger.best.weight
        nodes = (node for node in self.ledger.known.values() if node.whole)
        return max(node.score.metric for node in nodes if node.weight >= least)

    def _expand(self, entry: Entry) -> None:
        """Score all single removals of a state, then climb along the guides' paths."""
        node, completed = entry.node, list[Node]()
        if not node.whole:  # it was given up half way: now all of it is needed
            completed = self.ledger.score([(node.heads, (node.heads,))])
            (node,) = completed
        heads = [j for j in range(self.problem.shape.total) if j not in node.heads]
        singles = tuple(node.heads.add(j) for j in heads)
        found = self.ledger.score([(node.heads, singles)], early=True, ahead=self._likely)
        if heads:
            effects = np.stack([self.ledger.effect(node, j) for j in heads])
            self.expanded = view = self.ledger.view(node, heads, effects)
            paths = paths_of([(guide, view) for guide in self.settings.guides])
            climbs = [Climb(node.heads, path.heads, path.reach or 0) for path in paths]
            found += self._climb(node, paths, climbs)
            for made in self._entries(found, node, paths):
                self.frontier.push(made)
        self.expansions += 1
        self.ledger.commit("expansion", node, entry.h, completed + found)

    def _climb(self, node: Node, paths: Sequence[Path], climbs: Sequence[Climb]) -> list[Node]:
        """Score macro moves along all paths in lockstep, until every climb has ended."""
        found: list[Node] = []

        def asked(rungs: Callable[[Climb], list[int]]) -> tuple[HeadSet, ...]:
            return tuple(dict.fromkeys(climb.state(k) for climb in climbs for k in rungs(climb)))

        def ahead() -> Iterable[Ask]:
            following = asked(lambda climb: climb.likely(self._feasible(climb)))
            if following:
                yield self.ledger.early(node.heads, following)
            yield from self._likely(self._entries(found, node, paths))

        while states := asked(lambda climb: climb.wanted(self._feasible(climb))):
            found += self.ledger.score([(node.heads, states)], early=True, ahead=ahead)
        return found

    def _feasible(self, climb: Climb) -> Callable[[int], bool | None]:
        def known(rung: int) -> bool | None:
            node = self.ledger.known.get(climb.state(rung))
            return None if node is None else node.feasible

        return known

    def _likely(self, found: Iterable[Entry] = ()) -> Iterable[Ask]:
        """What is likely to be asked next, for workers that would idle."""
        yield from self._next_singles(found)
        yield from self.sharpener.ahead()

    def _next_singles(self, found: Iterable[Entry]) -> Iterable[Ask]:
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
                and (child := entry.node.heads.add(j)) not in self.ledger.known
            )
            if singles:
                yield self.ledger.early(entry.node.heads, singles)

    def _entries(self, found: Iterable[Node], node: Node, paths: Sequence[Path]) -> list[Entry]:
        """Give newly scored states their h: the furthest that any path is predicted to lead.

        It is put off until it is needed, from the exact effects at the state whose paths they are.
        """
        entries, horizon = list[Entry](), self.settings.horizon
        for child in found:
            if child.whole:
                most = self.problem.weight.most(len(child.heads) + horizon) - child.weight

                def promised(child: Node = child) -> int:
                    rests = [rest_of(path, child, horizon) for path in paths]
                    ladders = [
                        (self._ladder(node.heads, rest), self.problem.gains(child.heads, rest))
                        for rest in rests
                    ]
                    gain = furthest(ladders, child.outputs, self.threshold, self.problem.objective)
                    return promise(gain, child)

                entries.append(Entry(child, most, promised))
            else:
                entries.append(Entry(child, promise(None, child)))
        return entries

    def _ladder_of(self, heads: HeadSet, path: tuple[int, ...]) -> Ladder:
        """Return the ladder of a path by the exact effects of its heads at a state."""
        if self.expanded is not None and self.expanded.node.heads == heads:
            return Ladder(self.expanded, path)
        node, removed = self.ledger.known[heads], sorted(path)
        effects = [self.ledger.effect(node, j) for j in removed]
        view = self.ledger.view(
            node, removed, np.stack(effects) if effects else node.outputs[:0, None]
        )
        return Ladder(view, path)
