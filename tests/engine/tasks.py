"""A small task and searches over it, for all engine tests."""

from __future__ import annotations

from functools import partial
from typing import Any

from headsearch.engine.executor import Job
from headsearch.engine.inline import InlineWorkers
from headsearch.engine.scheduler import Scheduler
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.engine.worker import make_evaluator, run_job
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle
from headsearch.scoring.item import OUTPUTS, WorkItem
from headsearch.task.shards import Piece
from tests.engine.searching import PROPOSING, SHAPE, plan_of, run_on
from tests.tiny import learnt, tiny_data, tiny_model

__all__ = ["PROPOSING", "SHAPE"]

MODEL = tiny_model("BERT")
DATA = learnt(MODEL, tiny_data(MODEL, examples=60, per_batch=7))
BUNDLE = bundle(MODEL)


plan, run = partial(plan_of, DATA), partial(run_on, DATA)


def inline(shards: int = 1, independent: bool = True) -> InlineWorkers:
    return InlineWorkers(BUNDLE, DATA, plan(1, shards, independent))


def simulated(workers: int, shards: int) -> SimulatedWorkers:
    """Workers that compute, in virtual time: what they are sent is the same at every run."""
    made = plan(workers, shards)
    evaluator = make_evaluator(
        BUNDLE, DATA, dtype="float32", gpus=0.0, cache_bytes=made.cache_bytes
    )
    return SimulatedWorkers(
        made,
        Costs(lambda job, cached: job.cost),
        lambda job: run_job(evaluator, job.item, job.piece.where, job.speculative),
        coordinator=False,
    )


def job(number: int, piece: Piece, *heads: int, kind: str = OUTPUTS, cost: float = 1.0) -> Job:
    children = tuple(HeadSet.of([head]) for head in heads)
    return Job(number, WorkItem(kind, HeadSet(), children), piece, cost)


def drain(scheduler: Scheduler) -> list[tuple[Job, Any]]:
    done = []
    while some := scheduler.collect():
        done += some
    return done
