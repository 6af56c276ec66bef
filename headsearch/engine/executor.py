"""The protocol of executors: they compute work items on shards and give back arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headsearch.scoring.item import WorkItem
from headsearch.task.batches import Span


@dataclass(frozen=True)
class Job:
    """One work item on one shard."""

    number: int
    item: WorkItem
    span: Span

    def __str__(self) -> str:
        heads = sorted({len(state) for state in self.item.states})
        return (
            f"job {self.number} ({self.item.kind} of {len(self.item.states)} states with "
            f"{heads} heads removed, batches {self.span.first} to {self.span.stop - 1})"
        )


@dataclass(frozen=True)
class Plan:
    """How an engine computes; part of what makes results reproducible.

    Attributes:
        workers: how many actors.
        shards: spans of batches; jobs are cut along them.
        threads: CPU threads of each worker; None leaves torch's own setting.
        gpus: GPUs of each worker, a fraction is allowed; 0: CPU.
        dtype: see `scoring.evaluator.DTYPES`.
        cache_bytes: limit of each worker's parent cache.
    """

    workers: int
    shards: Sequence[Span]
    threads: int | None
    gpus: float
    dtype: str
    cache_bytes: int


class Executor(Protocol):
    """Computes jobs. Results may come in any order; each job's is a function of the job alone."""

    name: str
    plan: Plan

    def submit(self, job: Job) -> None:
        """Take a job; returns at once."""
        ...

    def collect(self) -> list[tuple[Job, np.ndarray]]:
        """Wait until at least one job is done and return all that are; [] if none is pending.

        Raises:
            EngineError: a job can't be computed.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what `result.json` says of the engine."""
        ...

    def close(self) -> None:
        """Stop workers and free what they hold. May be called twice."""
        ...


def describe(executor: Executor) -> dict[str, Any]:
    """Return what all engines say of themselves."""
    plan = executor.plan
    return {
        "name": executor.name,
        "workers": plan.workers,
        "shards": len(plan.shards),
        "threads_per_worker": plan.threads,
        "gpus_per_worker": plan.gpus,
        "dtype": plan.dtype,
    }
