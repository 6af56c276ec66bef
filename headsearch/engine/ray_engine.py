"""The Ray engine: actors that load the model once and compute jobs, two in flight for each.

Scoring is pure, so a job whose worker died is simply computed again. A job that was running on
three workers when they died is taken to be what kills them, and fails the run.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import Any

import numpy as np
import ray
import torch
from ray import exceptions as ray_exceptions

from headsearch.engine.executor import Job, Plan, describe
from headsearch.engine.inline import make_evaluator
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.model.bundle import ModelBundle
from headsearch.scoring.item import WorkItem
from headsearch.task.batches import Batch, BatchedData, Span

IN_FLIGHT = 2  # one runs, one waits at the actor, so that it never idles for a round trip
MAX_DEATHS = 3


class ScoringActor:
    """A worker: holds the model and serves jobs. Only numpy arrays, numbers and text reach it."""

    def __init__(self, model: dict[str, Any], data: dict[str, Any], plan: dict[str, Any]) -> None:
        if plan["threads"] is not None:
            torch.set_num_threads(plan["threads"])
        shards = tuple(Span(first, stop) for first, stop in plan.pop("shards"))
        batches = tuple(Batch(arrays) for arrays in data["batches"])
        self._evaluator = make_evaluator(
            ModelBundle(**model),
            BatchedData(batches, data["labels"], data["order"]),
            Plan(shards=shards, **plan),
        )

    def run(
        self, kind: str, parent: bytes, children: list[bytes], first: int, stop: int
    ) -> np.ndarray:
        """Compute one job."""
        item = WorkItem(
            kind, HeadSet.from_bytes(parent), tuple(HeadSet.from_bytes(c) for c in children)
        )
        return self._evaluator.run(item, Span(first, stop))

    def pid(self) -> int:
        """Return this worker's process id."""
        return os.getpid()


class RayExecutor:
    """Keeps Ray actors busy with jobs; starts Ray if it is not running."""

    name = "ray"

    def __init__(
        self, bundle: ModelBundle, data: BatchedData, plan: Plan, address: str | None = None
    ) -> None:
        self.plan = plan
        self._started = connect(address, cpus=plan.workers * (plan.threads or 1))
        # Each is put once; numpy arrays inside are read in place by all actors of a node.
        self._model = ray.put(
            {
                "module": bundle.module,
                "name": bundle.name,
                "config": bundle.config,
                "arrays": bundle.arrays,
            }
        )
        batches = [dict(batch.arrays) for batch in data.batches]
        self._data = ray.put({"batches": batches, "labels": data.labels, "order": data.order})
        # Restarts are ours: calls to an actor that Ray is restarting fail, calls to a new one wait.
        self._kind = ray.remote(ScoringActor).options(
            num_cpus=plan.threads or 1, num_gpus=plan.gpus, max_restarts=0, max_task_retries=0
        )
        self._sent = {
            "workers": plan.workers,
            "shards": [(span.first, span.stop) for span in plan.shards],
            "threads": plan.threads,
            "gpus": plan.gpus,
            "dtype": plan.dtype,
            "cache_bytes": plan.cache_bytes,
        }
        self._actors = [self._start_actor() for _ in range(plan.workers)]
        self._load = [0] * plan.workers  # jobs in flight at each actor
        self._alone = [False] * plan.workers  # whether an actor runs a suspect, by itself
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[Job, int, Any]] = {}  # reference -> (job, slot, actor)
        self._deaths: dict[int, int] = {}  # job number -> workers that died while it was in flight

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._waiting.append(job)
        self._pump()

    def collect(self) -> list[tuple[Job, np.ndarray]]:
        """See `Executor.collect`."""
        done: list[tuple[Job, np.ndarray]] = []
        while not done and (self._running or self._waiting):
            self._pump()
            running = list(self._running)
            ready, rest = ray.wait(running, num_returns=1)
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0) if rest else ([], [])
            for reference in [*ready, *more]:
                job, slot, actor = self._running.pop(reference)
                if actor is self._actors[slot]:  # else it died, and its place was taken
                    self._load[slot] -= 1
                    self._alone[slot] = False
                try:
                    # A copy: what ray.get returns lies in the object store for as long as it lives.
                    done.append((job, np.array(ray.get(reference))))
                except (
                    ray_exceptions.RayActorError,
                    ray_exceptions.WorkerCrashedError,
                    ray_exceptions.ObjectLostError,
                ) as error:
                    self._replace(slot, actor)
                    self._again(job, error)
                except ray_exceptions.RayTaskError as error:
                    cause = getattr(error, "cause", None) or error
                    raise EngineError(f"{job} failed: {type(cause).__name__}: {cause}") from None
            self._pump()
        return done

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`."""
        return describe(self)

    def close(self) -> None:
        """See `Executor.close`."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._waiting = [], deque()
        self._running.clear()
        self._model = self._data = None
        if self._started:
            ray.shutdown()
            self._started = False

    def worker_pids(self) -> list[int]:
        """Return the process id of each worker, once it is up."""
        pids: list[int] = ray.get([actor.pid.remote() for actor in self._actors])
        return pids

    def _start_actor(self) -> Any:
        return self._kind.remote(self._model, self._data, self._sent)

    def _replace(self, slot: int, dead: Any) -> None:
        """Put a new actor in the place of a dead one, once, however many of its jobs say so."""
        if self._actors[slot] is dead:
            ray.kill(dead)
            self._actors[slot] = self._start_actor()
            self._load[slot], self._alone[slot] = 0, False

    def _pump(self) -> None:
        """Hand waiting jobs, oldest first, to the actors with least to do."""
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            suspect = self._deaths.get(job.number, 0) > 0
            free = [
                (self._load[slot], slot)
                for slot in self._serving(job.span)
                if not self._alone[slot] and self._load[slot] < (1 if suspect else IN_FLIGHT)
            ]
            if not free:
                self._waiting.append(job)  # keeps its turn: all are looked at in one round
                continue
            slot = min(free)[1]
            actor = self._actors[slot]
            reference = actor.run.remote(
                job.item.kind,
                job.item.parent.to_bytes(),
                [child.to_bytes() for child in job.item.children],
                job.span.first,
                job.span.stop,
            )
            self._running[reference] = (job, slot, actor)
            self._load[slot] += 1
            self._alone[slot] = suspect

    def _serving(self, span: Span) -> range:
        """The actors that serve a shard: each shard has its own, so that caches stay warm."""
        shards = list(self.plan.shards)
        return range(shards.index(span) % len(self._actors), len(self._actors), len(shards))

    def _again(self, job: Job, error: Exception) -> None:
        deaths = self._deaths[job.number] = self._deaths.get(job.number, 0) + 1
        if deaths >= MAX_DEATHS:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise EngineError(
                f"{job} was in flight at {deaths} workers that died; scores so far are kept; "
                f"the last death: {reason}"
            )
        self._waiting.appendleft(job)


def connect(address: str | None, cpus: int | None = None) -> bool:
    """Connect to Ray, or start it on this machine, and return whether this call did so.

    Args:
        address: of a cluster; None starts Ray on this machine.
        cpus: how many CPUs a Ray started here may use; None: all.

    Raises:
        EngineError: the cluster can't be reached, or Ray can't be started.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without GPUs keeps seeing none in a future Ray too; silences Ray's note on that.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = "start Ray" if address is None else f"reach a Ray cluster at {address!r}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(f"could not {where}: {reason}") from None
    return True


def cluster_size(address: str) -> tuple[int, int]:
    """Return (CPUs, GPUs) of a running cluster; stays connected to it.

    Raises:
        EngineError: the cluster can't be reached.
    """
    connect(address)
    resources = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
