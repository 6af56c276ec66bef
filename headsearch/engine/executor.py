"""What an engine is made of: jobs, the plan, and workers that jobs are sent to.

The scheduler decides which worker gets which job; workers only compute and report. So the inline
engine, Ray's actors and the simulated cluster share every decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headsearch.scoring.item import WorkItem
from headsearch.task.shards import Layout, Piece


@dataclass(frozen=True)
class Job:
    """One work item on one piece of the data.

    Attributes:
        number: counts jobs.
        item: what to compute.
        piece: on which examples.
        cost: work, in tokens times forward passes; only ratios count.
        speculative: whether nobody asked for it yet; then it must not push anything out of caches.
    """

    number: int
    item: WorkItem
    piece: Piece
    cost: float = 0.0
    speculative: bool = False

    def __str__(self) -> str:
        heads = sorted({len(state) for state in self.item.states})
        span = self.piece.span
        where = f"batches {span.first} to {span.stop - 1}"
        if self.piece.rows is not None:
            where = f"{span.stop} examples of round {self.piece.round + 1}"
        return (
            f"job {self.number} ({self.item.kind} of {len(self.item.states)} states with "
            f"{heads} heads removed, {where})"
        )


@dataclass(frozen=True)
class Plan:
    """How an engine computes; part of what makes results reproducible.

    Attributes:
        workers: how many there are at the start.
        most_workers: how many there may be later, where a cluster grows.
        layout: how the data are cut.
        threads: CPU threads of each worker; None leaves torch's own setting.
        gpus: GPUs of each worker, a fraction is allowed; 0: CPU.
        dtype: see `scoring.evaluator.DTYPES`.
        cache_bytes: limit of each worker's parent cache; None: what suits its device.
    """

    workers: int
    most_workers: int
    layout: Layout
    threads: int | None
    gpus: float
    dtype: str
    cache_bytes: int | None

    @property
    def replicas(self) -> int:
        """Workers for each shard, on average, rounded down; heavy ones have more."""
        return max(1, self.workers // self.layout.shards)


@dataclass(frozen=True)
class Up:
    """A worker has come up, in a slot that had none."""

    slot: int


@dataclass(frozen=True)
class Died:
    """A worker is gone, and all that was sent to it."""

    slot: int
    reason: str


@dataclass(frozen=True)
class Done:
    """A call was answered.

    Attributes:
        call: its number.
        arrays: a result for each of its jobs.
        seconds: how long the worker computed.
    """

    call: int
    arrays: Sequence[np.ndarray]
    seconds: float


@dataclass(frozen=True)
class Lost:
    """A call's answer was lost on the way; its worker lives."""

    call: int
    reason: str


@dataclass(frozen=True)
class Failed:
    """A call's job at a place can't be computed; it would fail everywhere."""

    call: int
    place: int
    reason: str


Event = Up | Died | Done | Lost | Failed


class Workers(Protocol):
    """Workers in numbered slots. A job's result is a function of the job alone."""

    name: str
    plan: Plan
    depth: int  # calls that a worker may have in flight
    alone: bool  # whether no other search can be on the same cluster

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        """Have the worker in a slot compute jobs, one after the other; returns at once."""
        ...

    def poll(self, timeout: float) -> list[Event]:
        """Return what happened, waiting up to `timeout` seconds for something to happen."""
        ...

    def now(self) -> float:
        """Return seconds on the clock that the workers live by; for scheduling alone."""
        ...

    def show(self, figures: Mapping[str, float]) -> None:
        """Show live figures where the engine's own tools look for them, if it has any."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what `result.json` says of the engine."""
        ...

    def close(self) -> None:
        """Stop workers and free what they hold. May be called twice."""
        ...


def describe(workers: Workers) -> dict[str, Any]:
    """Return what all engines say of themselves."""
    plan = workers.plan
    return {
        "name": workers.name,
        "workers": plan.workers,
        "shards": plan.layout.shards,
        "replicas": plan.replicas,
        "threads_per_worker": plan.threads,
        "gpus_per_worker": plan.gpus,
        "dtype": plan.dtype,
    }
