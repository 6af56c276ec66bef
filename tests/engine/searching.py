"""Plans and searches for whatever data and workers; imports neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Plan, Workers
from headsearch.heads import HeadMap
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import MemoStore
from headsearch.search.astar import Settings, search
from headsearch.search.problem import Problem
from headsearch.task.batches import BatchedData
from headsearch.task.metric import make_objective
from headsearch.task.shards import lay_out

SHAPE = HeadMap((4, 4, 4))
# Without proposals, whose thinking takes as long as all else here; `PROPOSING` is with them.
SETTINGS = Settings(max_evaluations=45, patience=None, proposals=0)
PROPOSING = Settings(max_evaluations=80)


def plan_of(
    data: BatchedData,
    workers: int = 1,
    shards: int = 1,
    independent: bool = True,
    **changes: Any,
) -> Plan:
    values: dict[str, Any] = {
        "workers": workers,
        "most_workers": workers,
        "layout": lay_out(data, shards, independent),
        "threads": 1,
        "gpus": 0,
        "dtype": "float32",
        "cache_bytes": 1 << 20,
    }
    return Plan(**{**values, **changes})


def run_on(
    data: BatchedData,
    workers: Workers,
    memo: MemoStore | None = None,
    max_drop: float = 0.1,
    settings: Settings = SETTINGS,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
) -> tuple[str, Dispatcher]:
    """The transcript of a search as bytes would be written, and its dispatcher."""
    dispatcher = Dispatcher(workers, memo or MemoryStore(), SHAPE)
    objective = make_objective("accuracy", data.labels, 3)
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
