"""Certifies a run's operating points on the certify split, by the plain path alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from headsearch.heads import HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.run.config import CERTIFIABLE, NO_TEST, RunConfig
from headsearch.run.prepare import Task
from headsearch.run.verify import ticking
from headsearch.search import certificate
from headsearch.search.certificate import Flips, Tried
from headsearch.search.problem import Node
from headsearch.task.batches import BatchedData

ASSUMPTION = (
    "the certify examples are independent draws from the population, that neither training nor "
    "search used them, and that no earlier certificate from them led to this one"
)


def population(
    task: Task,
    config: RunConfig,
    points: Iterable[Node],
    best: Node,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return the `population` part of a run's certificate, JSON values.

    Args:
        task: the model and the certify split.
        config: what was asked.
        points: the operating points that are feasible on the search split.
        best: the state that is handed back.
        tick: called before each batch that is scored.
    """
    if config.metric not in CERTIFIABLE:
        return {"offered": False, "reason": NO_TEST.format(config.metric)}
    if task.certify is None:
        return {"offered": False, "reason": "no certify examples were given"}
    split, alpha = task.certify, float(1 - Fraction(str(config.confidence)))
    before = _right(task, split, HeadSet(), tick)
    order = certificate.sequence(points, best)

    def observe(heads: HeadSet) -> Flips:
        return certificate.flips(before, _right(task, split, heads, tick))

    tried = certificate.certify(order, observe, Fraction(str(config.max_drop)), alpha)
    right = int(before.sum())
    passed = [point for point in tried if point.passed]
    found: dict[str, Any] = {
        "offered": True,
        "confidence": config.confidence,
        "alpha": alpha,
        "max_drop": config.max_drop,
        "examples": split.examples,
        "repeated_texts": task.certify_repeats,
        "assumption": ASSUMPTION,
        "test": certificate.TEST,
        "order": "operating points within the budget on the search split, least saved first, "
        "up to the first that fails",
        "points": len(order),
        "baseline": {"metric": right / split.examples, "correct": right},
        "certified": None,
        "tried": [_tried_json(task, point, right) for point in tried],
    }
    if passed:
        bound = certificate.upper_bound(passed[-1].flips, alpha)
        found["certified"] = {
            **_tried_json(task, passed[-1], right),
            # Of this point by itself: it does not count that the point was picked among others.
            "upper_bound_alone": float(bound),
        }
    elif tried:
        found["reason"] = "the first point that was tried did not pass"
    else:
        found["reason"] = "the search found no pruned state within the budget"
    return found


def _right(task: Task, split: BatchedData, heads: HeadSet, tick: Callable[[], None]) -> np.ndarray:
    outputs = plain_outputs(task.model, ticking(split.batches, tick), heads)
    return certificate.right_answers(outputs, split.labels)


def _tried_json(task: Task, point: Tried, right_before: int) -> dict[str, Any]:
    right = right_before - point.flips.worse + point.flips.better
    return {
        "removed": task.shape.pairs(point.heads),
        "heads_removed": len(point.heads),
        "metric": right / point.flips.examples,
        "correct": right,
        "worse": point.flips.worse,
        "better": point.flips.better,
        "p_value": point.p_value,
        "passed": point.passed,
    }
