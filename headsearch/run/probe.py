"""Measures how fast this machine scores: a few real HeadSets, by a worker's own evaluator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headsearch.engine.executor import Plan
from headsearch.engine.worker import make_evaluator, with_threads
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.run.prepare import Task
from headsearch.search.ledger import BrokenBaseline, check_baseline
from headsearch.task.batches import Batch, BatchedData, Span
from headsearch.task.metric import finite_rows

# Heads by which a macro move or a proposal differs from its parent, about, and how many of these
# are scored for each single removal; in real searches there are about four.
MACRO = 4
MACROS = 3
# Batches are taken in steps of this share of them, which meets all lengths evenly.
GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Speed:
    """What a worker takes, in seconds, over all search examples.

    Attributes:
        evaluation: for one HeadSet.
        gradient: for the gradients of one state; about 0 where a search measures none.
        plain: for one HeadSet by the plain path, on this machine.
        share: of the search examples' tokens that it was measured on.
        seconds: that measuring took.
    """

    evaluation: float
    gradient: float
    plain: float
    share: float
    seconds: float


def probe(task: Task, plan: Plan, seconds: float) -> Speed:
    """Score HeadSets such as a search asks for, on batches of all lengths, for some seconds.

    A quarter of them are single removals, the others macro moves, from a state with half of the
    heads removed, as costs lie between those of the full model and of what a search comes to.

    Args:
        task: model and data.
        plan: threads, device, dtype and cache of a worker.
        seconds: how long; at least one batch is measured.

    Raises:
        EngineError: the model doesn't fit the device.
        ModelError: the full model's outputs, as far as they were seen, are none to compare with.
    """
    parent, children = _asked(task.shape)
    costs, tokens, began = list[np.ndarray](), 0, time.monotonic()
    full = dict[int, np.ndarray]()  # the full model's outputs, by batch
    with with_threads(plan.threads):
        evaluator = make_evaluator(
            task.bundle, task.data, dtype=plan.dtype, gpus=plan.gpus, cache_bytes=plan.cache_bytes
        )
        first, *order = _spread(task.data)
        evaluator.outputs(parent, children[:1], Span(first, first + 1))  # libraries warm up
        plain_outputs(task.model, task.data.batches[first : first + 1], parent)
        start = time.monotonic()
        for place in [first, *order]:
            span = Span(place, place + 1)
            marks = [time.perf_counter()]
            evaluator.outputs(parent, children, span)
            marks.append(time.perf_counter())
            if task.gradients:
                evaluator.gradients(parent, span)
            marks.append(time.perf_counter())
            full[place] = plain_outputs(task.model, task.data.batches[place : place + 1], HeadSet())
            marks.append(time.perf_counter())
            costs.append(np.diff(marks) / _tokens(task.data.batches[place]))
            tokens += _tokens(task.data.batches[place])
            if time.monotonic() - start >= seconds:
                break
    _check(task, full)
    every = sum(_tokens(batch) for batch in task.data.batches)
    # The median of the batches: other programs come and go.
    outputs, gradient, plain = (every * np.median(costs, axis=0)).tolist()
    return Speed(
        evaluation=outputs / len(children),
        gradient=gradient,
        plain=plain,
        share=tokens / every,
        seconds=time.monotonic() - began,
    )


def _check(task: Task, full: Mapping[int, np.ndarray]) -> None:
    """Refuse what a search would: of some batches alone it is known whether they are finite."""
    outputs = np.concatenate([full[place] for place in sorted(full)])
    if len(full) == len(task.data.batches):
        check_baseline(task.objective, outputs)
    elif len(broken := np.flatnonzero(~finite_rows(outputs))):
        raise BrokenBaseline(broken, len(outputs))


def _asked(shape: HeadMap) -> tuple[HeadSet, list[HeadSet]]:
    """Return a parent and children of it: a single removal and macro moves for each layer."""
    dice = np.random.default_rng(0)
    parent = HeadSet.of(dice.permutation(shape.total)[: shape.total // 2].tolist())
    children = []
    for layer in range(shape.layers):
        kept = [shape.index(layer, head) for head in shape.kept(parent, layer)]
        if kept:
            children.append(parent.add(kept[0]))
        size = min(MACRO, shape.total)
        for _ in range(MACROS):
            children.append(parent ^ HeadSet.of(dice.choice(shape.total, size, False).tolist()))
    return parent, list(dict.fromkeys(children))


def _spread(data: BatchedData) -> list[int]:
    """Return all batches' places in an order whose beginnings hold all lengths evenly."""
    count = len(data.batches)
    ranks = np.argsort((np.arange(count) * GOLDEN) % 1.0, kind="stable").argsort()
    return [int(rank) for rank in ranks]


def _tokens(batch: Batch) -> int:
    return int(batch.lengths.sum())
