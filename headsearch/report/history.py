"""What a run's transcript tells about its heads: every score, and what each head by itself did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import betaincinv

from headsearch.heads import HeadMap, HeadSet


@dataclass(frozen=True)
class Scored:
    """A state that was scored on all search examples.

    Attributes:
        heads: how many are removed.
        metric, loss: on the search split; None where it is infinite.
    """

    heads: int
    metric: float
    loss: float | None


@dataclass(frozen=True)
class Effect:
    """What removing one head changed, on average over the pairs of scored sets that it separates.

    Attributes:
        metric, loss: mean change.
        pairs: over how many pairs of sets.
    """

    metric: float
    loss: float
    pairs: int


def scored_states(steps: Iterable[Mapping[str, Any]]) -> dict[int, Scored]:
    """Return the states that the steps of a transcript scored to the end, by their bits."""
    found = {}
    for step in steps:
        for bits, metric, loss, *_ in step["scored"]:
            if metric is not None:  # of a state that was given up it is not known
                state = int(bits, 16)
                found[state] = Scored(state.bit_count(), metric, loss)
    return found


def effects(states: Mapping[int, Scored]) -> dict[int, Effect]:
    """Return what removing each head changed, where two scored sets differ by that head alone.

    Args:
        states: by their bits. Costs a look-up for each head of each state.

    Returns:
        By head index; heads that no two sets tell apart are left out.
    """
    sums: dict[int, list[float]] = {}
    for bits, after in states.items():
        for head in HeadSet(bits):
            before = states.get(bits ^ (1 << head))
            if before is None or before.loss is None or after.loss is None:
                continue
            total = sums.setdefault(head, [0.0, 0.0, 0])
            total[0] += after.metric - before.metric
            total[1] += after.loss - before.loss
            total[2] += 1
    return {h: Effect(m / n, loss / n, int(n)) for h, (m, loss, n) in sorted(sums.items())}


def removal_order(
    point: Mapping[str, Any], points: Iterable[Mapping[str, Any]], shape: HeadMap
) -> dict[int, int]:
    """Return from which operating point on each head of a point is removed.

    Operating points need not contain each other. A head counts from the mildest of them from which
    on it is removed in every further one, up to the point itself.

    Args:
        point: the heads to put in order.
        points: all operating points, in any order.
        shape: the model's heads.

    Returns:
        By head index, the number of heads that are removed at that point.
    """
    order = {}
    milder = [each for each in points if each["heads_removed"] < point["heads_removed"]]
    way = [point, *sorted(milder, key=lambda each: -each["heads_removed"])]
    sets = [(each["heads_removed"], shape.from_pairs(each["removed"])) for each in way]
    for head in sets[0][1]:
        for count, heads in sets:
            if head not in heads:
                break
            order[head] = count
    return order


def exact_interval(correct: int, examples: int, confidence: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share: it holds in finite samples.

    It is for one state by itself, on examples that had no part in picking it.

    Args:
        correct, examples: right answers, of so many independent draws.
        confidence: of the interval, both sides together.

    Returns:
        Lower and upper limit. Source: Clopper and Pearson, Biometrika 26, 1934, p. 404.
    """
    tail = (1 - confidence) / 2
    wrong = examples - correct
    low = float(betaincinv(correct, wrong + 1, tail)) if correct else 0.0
    high = float(betaincinv(correct + 1, wrong, 1 - tail)) if wrong else 1.0
    return low, high


def cloud(states: Iterable[Scored]) -> list[tuple[int, float]]:
    """Return the distinct (heads removed, metric) pairs, sorted: many states share theirs."""
    return sorted({(state.heads, state.metric) for state in states})


def intervals(
    points: Sequence[Mapping[str, Any]], examples: int, confidence: float
) -> list[tuple[float, float]] | None:
    """Return the exact interval of every point; None unless right answers were counted."""
    if any(point.get("correct") is None for point in points):
        return None
    return [exact_interval(point["correct"], examples, confidence) for point in points]
