"""A small task and searches over it, for all engine tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Job, Plan, Workers
from headsearch.engine.inline import InlineWorkers
from headsearch.engine.scheduler import Scheduler
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.engine.worker import make_evaluator, run_job
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import MemoStore
from headsearch.model.bundle import bundle
from headsearch.scoring.item import OUTPUTS, WorkItem
from headsearch.search.astar import Settings, search
from headsearch.search.problem import Problem
from headsearch.task.metric import make_objective
from headsearch.task.shards import Piece, lay_out
from tests.tiny import learnt, tiny_data, tiny_model

SHAPE = HeadMap((4, 4, 4))
MODEL = tiny_model("BERT")
DATA = learnt(MODEL, tiny_data(MODEL, examples=60, per_batch=7))
# Without proposals, whose thinking takes as long as all else here; `PROPOSING` is with them.
SETTINGS = Settings(max_evaluations=45, patience=None, proposals=0)
PROPOSING = Settings(max_evaluations=80)
BUNDLE = bundle(MODEL)


def plan(workers: int = 1, shards: int = 1, independent: bool = True, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "workers": workers,
        "most_workers": workers,
        "layout": lay_out(DATA, shards, independent),
        "threads": 1,
        "gpus": 0,
        "dtype": "float32",
        "cache_bytes": 1 << 20,
    }
    return Plan(**{**values, **changes})


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


def run(
    workers: Workers,
    memo: MemoStore | None = None,
    max_drop: float = 0.1,
    settings: Settings = SETTINGS,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
) -> tuple[str, Dispatcher]:
    """The transcript of a search as bytes would be written, and its dispatcher."""
    dispatcher = Dispatcher(workers, memo or MemoryStore(), SHAPE)
    objective = make_objective("accuracy", DATA.labels, 3)
    problem = Problem(SHAPE, objective, max_drop, workers.plan.layout.independent)
    steps: list[dict[str, Any]] = []

    def step(record: dict[str, Any]) -> None:
        steps.append(record)
        on_step(record)

    try:
        search(problem, dispatcher, settings, on_step=step)
    finally:
        workers.close()
    return "\n".join(json.dumps(record) for record in steps), dispatcher


def job(number: int, piece: Piece, *heads: int, kind: str = OUTPUTS, cost: float = 1.0) -> Job:
    children = tuple(HeadSet.of([head]) for head in heads)
    return Job(number, WorkItem(kind, HeadSet(), children), piece, cost)


def drain(scheduler: Scheduler) -> list[tuple[Job, Any]]:
    done = []
    while some := scheduler.collect():
        done += some
    return done
