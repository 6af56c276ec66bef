"""What a baseline is, and how one is run: on the search's own ledger, so that costs compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.guides import View
from headsearch.search.ledger import Ledger, Stop
from headsearch.search.problem import Node, Oracle, Problem

# A coarse walk goes by tenths of all heads, as the steps of the sources do.
TENTHS = 10


class Baseline(Protocol):
    """Another way to choose heads. All states that it asks for are scored on every example."""

    @property
    def name(self) -> str:
        """What the method is called in transcripts and tables."""
        ...

    def run(self, ledger: Ledger) -> None:
        """Score states until the method has come to its own end.

        Raises:
            Stop: the ledger's budget is spent.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """What a baseline found.

    Attributes:
        name: the method's.
        ledger: holds all that it scored: `best` is its answer, the feasible state with most heads
            removed of all that it looked at; `evaluations` and `measured` are what it cost.
        stopped: why it ended.
    """

    name: str
    ledger: Ledger
    stopped: str


def run_baseline(
    baseline: Baseline,
    problem: Problem,
    oracle: Oracle,
    max_evaluations: int | None = None,
    *,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
    should_stop: Callable[[], str | None] = lambda: None,
) -> Outcome:
    """Run a baseline to its own end or until the budget is spent.

    Args:
        baseline: the method.
        problem: shape, objective and budget.
        oracle: what scores HeadSets.
        max_evaluations: most HeadSets that are scored; None: no limit. Gradients are counted
            apart, as in the search.
        on_step: called with each step, as in the search.
        should_stop: asked before each step; a text ends the run and says why.
    """
    ledger = Ledger(problem, oracle, max_evaluations, on_step, should_stop)
    try:
        baseline.run(ledger)
    except Stop as stop:
        return Outcome(baseline.name, ledger, str(stop))
    return Outcome(baseline.name, ledger, "came to its end")


def score(
    ledger: Ledger, name: str, wanted: Sequence[tuple[HeadSet, Sequence[HeadSet]]], h: int = 0
) -> list[Node]:
    """Have states scored in one question, as one step, and return all of them in order.

    Args:
        ledger: scores and commits.
        name: the method's.
        wanted: scored states, and those that are to be computed as differences from each; distinct.
        h: what the method expects to be removable beyond the first of the former, for transcripts.
    """
    found = ledger.score([(parent, tuple(states)) for parent, states in wanted])
    ledger.commit(name, ledger.known[wanted[0][0]], h, found)
    return [ledger.known[state] for _, states in wanted for state in states]


def is_tenth(state: HeadSet, total: int) -> bool:
    """Whether a state is the first, as heads go one by one, that lacks a further tenth of them."""
    gone = len(state)
    return gone * TENTHS // total > (gone - 1) * TENTHS // total


def gap(scored: Sequence[Node]) -> range:
    """Return how many heads may be gone between the furthest feasible state and the next one.

    Args:
        scored: the states of a coarse walk.
    """
    furthest = max((len(node.heads) for node in scored if node.feasible), default=0)
    beyond = (len(node.heads) for node in scored if len(node.heads) > furthest)
    return range(furthest + 1, min(beyond, default=furthest))


def score_between(
    ledger: Ledger, name: str, scored: Sequence[Node], left: Sequence[tuple[HeadSet, HeadSet]]
) -> None:
    """Score the states that a first, coarse walk left out.

    First those in the walk's `gap`: so a method has its answer as soon as may be, whatever its
    budget. The others change the answer only where the metric rises again.

    Args:
        ledger, name: see `score`.
        scored: the states of the walk.
        left: states, and for each the scored one that it is computed from.
    """
    between = gap(scored)
    for near in (True, False):
        by_parent: dict[HeadSet, list[HeadSet]] = {}
        for parent, state in left:
            if (len(state) in between) == near:
                by_parent.setdefault(parent, []).append(state)
        if by_parent:
            score(ledger, name, list(by_parent.items()))


def slope_view(ledger: Ledger, node: Node) -> View:
    """Measure the gradients at a state, and return what guides see: minus d outputs / d gates."""
    slopes = ledger.gradients([node.heads])[node.heads]  # (examples, classes, heads)
    heads = remaining(ledger, node.heads)
    return ledger.view(node, heads, -np.ascontiguousarray(slopes.transpose(2, 0, 1)[heads]))


def remaining(ledger: Ledger, state: HeadSet) -> list[int]:
    """Return the heads that a state still has."""
    return [j for j in range(ledger.problem.shape.total) if j not in state]


def prefixes(start: HeadSet, path: Sequence[int]) -> list[HeadSet]:
    """Return the states on the way along a path, without its start."""
    return [start | HeadSet.of(path[: k + 1]) for k in range(len(path))]
