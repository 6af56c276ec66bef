"""Ray actors as workers: each loads the model once and computes calls.

Restarts are ours: calls to an actor that Ray is restarting fail, calls to a new one wait.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import exceptions as ray_exceptions

from headsearch.engine.executor import (
    Died,
    Done,
    Event,
    Failed,
    Job,
    Lost,
    Plan,
    Up,
    describe,
)
from headsearch.engine.ray_cluster import ask_for, connect
from headsearch.engine.ray_metrics import Gauges
from headsearch.engine.scheduler import MAX_DEATHS, PATIENCE_SECONDS
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.scoring.item import WorkItem
from headsearch.task.batches import Batch, BatchedData, Span
from headsearch.task.readout import Readout
from headsearch.task.shards import places_of

if TYPE_CHECKING:
    from headsearch.model.bundle import ModelBundle
    from headsearch.scoring.base import Scorer

# How often a cluster is looked at for room for more workers.
GROW_SECONDS = 2.0
# So many workers in a row that die before they are up: none ever will be.
MOST_FAILED_STARTS = 6

# After a failed start the slot is tried again so much later.
RESTART_SECONDS = 5.0

_LOST = (ray_exceptions.ObjectLostError, ray_exceptions.GetTimeoutError)

RunJob = Callable[["Scorer", WorkItem, Span | np.ndarray, bool], np.ndarray]
SentJob = tuple[str, bytes, list[bytes], int, int, bytes | None, bool]


class ScoringActor:
    """A worker: holds the model and serves calls. Only numpy arrays, numbers and text reach it."""

    def __init__(
        self, name: str, model: dict[str, Any], data: dict[str, Any], plan: dict[str, Any]
    ) -> None:
        self._name = name
        batches = tuple(
            Batch(arrays, Readout(*readout))
            for arrays, readout in zip(data["batches"], data["readouts"], strict=True)
        )
        shared = BatchedData(batches, data["labels"], data["order"])
        self._evaluator, self._run_job = self._prepare(model, shared, plan)
        print(f"{name} is up", flush=True)

    def _prepare(
        self, model: dict[str, Any], data: BatchedData, plan: dict[str, Any]
    ) -> tuple[Scorer, RunJob]:
        """Return what scores here and what runs a job on it.

        Torch and transformers are imported here: they take seconds, and whoever only starts
        workers needs neither.
        """
        import torch

        from headsearch.engine.worker import make_evaluator, run_job
        from headsearch.model.bundle import ModelBundle

        if plan["threads"] is not None:
            torch.set_num_threads(plan["threads"])
        evaluator = make_evaluator(
            ModelBundle(**model),
            data,
            dtype=plan["dtype"],
            gpus=plan["gpus"],
            cache_bytes=plan["cache_bytes"],
        )
        return evaluator, run_job

    def __repr__(self) -> str:
        return self._name  # before each line of its log

    def up(self) -> int:
        """Return this worker's process id."""
        return os.getpid()

    def independent(self) -> bool:
        """Return `Scorer.independent`, as it is on this worker's device."""
        return self._evaluator.independent

    def run(self, jobs: list[SentJob]) -> tuple[float, list[np.ndarray] | tuple[int, str]]:
        """Compute jobs; return seconds and results, or the place of a job that fails and why."""
        started, arrays = perf_counter(), []
        for place, (kind, parent, children, first, stop, rows, speculative) in enumerate(jobs):
            states = tuple(HeadSet.from_bytes(child) for child in children)
            item = WorkItem(kind, HeadSet.from_bytes(parent), states)
            try:
                where = Span(first, stop) if rows is None else places_of(rows)
                arrays.append(self._run_job(self._evaluator, item, where, speculative))
            except Exception as error:
                if "CUDA error" in str(error):  # this process can use its GPU no more
                    print(f"{self._name} ends: {error}", flush=True)
                    os._exit(1)
                line = str(error) if isinstance(error, EngineError) else f"{error!r}"
                return perf_counter() - started, (place, line)
        return perf_counter() - started, arrays


def _put(bundle: ModelBundle, data: BatchedData) -> tuple[Any, Any]:
    """Share model and data with workers: numpy arrays inside are read in place on each node."""
    batches = [dict(batch.arrays) for batch in data.batches]
    readouts = [(b.readout.kind, b.readout.places, b.readout.labels) for b in data.batches]
    model = {
        "module": bundle.module,
        "name": bundle.name,
        "config": bundle.config,
        "family": bundle.family,
        "arrays": bundle.arrays,
    }
    shared = {
        "batches": batches,
        "readouts": readouts,
        "labels": data.labels,
        "order": data.order,
    }
    return ray.put(model), ray.put(shared)


def independent_there(
    bundle: ModelBundle, data: BatchedData, dtype: str, gpus: float, threads: int | None
) -> bool:
    """Return `Scorer.independent` of a worker on the cluster that this process is connected to.

    Waits until the cluster has a GPU, as long as the search would, and tries another where a worker
    dies with its machine.

    Raises:
        EngineError: the worker can't be started, or there was no GPU for too long.
    """
    model, shared = _put(bundle, data)
    plan = {"threads": threads, "gpus": gpus, "dtype": dtype, "cache_bytes": 0}
    worker = ray.remote(ScoringActor).options(num_cpus=1, num_gpus=gpus)
    for left in reversed(range(MAX_DEATHS)):
        actor = worker.remote("headsearch tries out a device", model, shared, plan)
        try:
            return bool(ray.get(actor.independent.remote(), timeout=PATIENCE_SECONDS))
        except ray_exceptions.GetTimeoutError:
            raise EngineError(
                f"no worker was up for {PATIENCE_SECONDS / 60:.0f} minutes to try out its device"
            ) from None
        except ray_exceptions.RayError as error:
            lost = isinstance(error, ray_exceptions.RayActorError) and not error.actor_init_failed
            if not left or not lost:
                raise EngineError(f"could not try out a worker's device: {_line(error)}") from None
        finally:
            ray.kill(actor)
    raise AssertionError("unreachable")


class RayWorkers:
    """Starts actors, replaces dead ones, and takes more where a cluster grows."""

    name = "ray"
    actor: type = ScoringActor
    depth = 2  # one call runs, one waits at the actor, so that it never idles for a round trip

    def __init__(
        self, bundle: ModelBundle, data: BatchedData, plan: Plan, address: str | None = None
    ) -> None:
        self.plan = plan
        self.alone = self._started_ray = connect(address, cpus=plan.workers * (plan.threads or 1))
        try:
            self._model, self._data = _put(bundle, data)
        except ray_exceptions.RayError as error:
            raise EngineError(f"could not share the model with workers: {_line(error)}") from None
        self._needs: dict[str, float] = {"CPU": plan.threads or 1}
        if plan.gpus:
            self._needs["GPU"] = plan.gpus
        self._grows = address is not None and plan.most_workers > plan.workers
        self._asked = address is not None
        self._looked = monotonic()
        self._actors: dict[int, Any] = {}  # by slot
        self._starting: dict[Any, int] = {}  # reference -> slot
        self._running: dict[Any, tuple[int, int]] = {}  # reference -> (call, slot)
        self._gauges = Gauges()
        self._name = secrets.token_hex(4)  # actors of other searches have names too
        self._starts = 0
        self._failed_starts = 0
        self.most_live = 0
        self._again: list[tuple[float, int]] = []  # when to start a worker in which slot again
        self._class = ray.remote(self.actor)
        try:
            if self._asked:
                ask_for(plan.most_workers, self._needs)
            for slot in range(plan.workers):
                self._start(slot)
        except BaseException:
            self.close()
            raise

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        """See `Workers.send`."""
        sent = [
            (
                *job.item.packed,
                job.piece.span.first,
                job.piece.span.stop,
                job.piece.rows,
                job.speculative,
            )
            for job in jobs
        ]
        self._running[self._actors[slot].run.remote(sent)] = (call, slot)

    def poll(self, timeout: float) -> list[Event]:
        """See `Workers.poll`.

        Raises:
            EngineError: no worker can be started.
        """
        if self._grows and monotonic() - self._looked >= GROW_SECONDS:
            self._grow()
        while self._again and self._again[0][0] <= monotonic():
            self._start(self._again.pop(0)[1])
        references = [*self._running, *self._starting]
        if not references:
            sleep(min(timeout, 0.1))
            return []
        ready, rest = ray.wait(references, num_returns=1, timeout=timeout)
        if ready and rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        events: list[Event] = []
        results = [reference for reference in ready if reference in self._running]
        if len(results) > 1:  # one look into the object store for all, unless something is wrong
            try:
                answers = ray.get(results)
            except ray_exceptions.RayError:
                answers = []
            for reference, (seconds, result) in zip(results, answers, strict=False):
                events.append(_answered(self._running.pop(reference)[0], seconds, result))
        for reference in ready:
            if reference in self._starting:
                events += self._take_start(reference)
            elif reference in self._running:
                events += self._take_result(reference)
        self.most_live = max(self.most_live, self._live)
        return events

    def now(self) -> float:
        """See `Workers.now`."""
        return monotonic()

    def show(self, figures: Mapping[str, float]) -> None:
        """See `Workers.show`: in Ray's dashboard."""
        self._gauges.show(figures)

    def describe(self) -> dict[str, Any]:
        """See `Workers.describe`."""
        return {**describe(self), "most_workers_seen": self.most_live}

    def close(self) -> None:
        """See `Workers.close`."""
        if self._asked:
            self._asked = False
            ask_for(0, self._needs)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._starting, self._running = {}, {}, {}
        self._model = self._data = None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def worker_pids(self) -> list[int]:
        """Return the process id of each worker, once it is up."""
        pids: list[int] = ray.get([actor.up.remote() for actor in self._actors.values()])
        return pids

    def _start(self, slot: int) -> None:
        layout = self.plan.layout
        name = f"headsearch worker {slot}, shard {layout.home(slot)} of {layout.shards}"
        sent = {
            "threads": self.plan.threads,
            "gpus": self.plan.gpus,
            "dtype": self.plan.dtype,
            "cache_bytes": self.plan.cache_bytes,
        }
        self._starts += 1
        actor = self._class.options(
            name=f"{name}, {self._name}-{self._starts}",
            num_cpus=self._needs["CPU"],
            num_gpus=self.plan.gpus,
            max_restarts=0,
            max_task_retries=0,
        ).remote(name, self._model, self._data, sent)
        self._actors[slot] = actor
        self._starting[actor.up.remote()] = slot

    def _take_start(self, reference: Any) -> list[Event]:
        slot = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray_exceptions.RayError as error:
            self._failed_starts += 1
            ray.kill(self._actors.pop(slot))
            if self._none_will_come_up():
                if "EngineError" in str(error):  # a clear one, from the worker itself
                    text = str(error).split("EngineError:")[-1].strip().splitlines()[0]
                    raise EngineError(text) from None
                raise EngineError(
                    f"{self._failed_starts} workers died before they were up; scores so far are "
                    f"kept; the last: {_line(error)}"
                ) from None
            self._again.append((monotonic() + RESTART_SECONDS, slot))
            return []
        self._failed_starts = 0
        return [Up(slot)]

    @property
    def _live(self) -> int:
        return len(self._actors) - len(self._starting)

    def _none_will_come_up(self) -> bool:
        """Whether there is no hope after a failed start.

        Where one was up before, what kills them now is not the model: the scheduler waits longer.
        """
        tried = not self._starting or self._failed_starts >= MOST_FAILED_STARTS
        return not max(self.most_live, self._live) and tried

    def _take_result(self, reference: Any) -> list[Event]:
        if reference not in self._running:  # its worker died, and this was void with it
            return []
        call, slot = self._running.pop(reference)
        try:
            seconds, result = ray.get(reference)
        except ray_exceptions.RayTaskError as error:
            return [Failed(call, 0, _line(error.cause))]
        except _LOST as error:
            return [Lost(call, _line(error))]
        except (
            ray_exceptions.RayError
        ) as error:  # of many kinds: the worker, its node or its raylet
            for other in [r for r, (_, s) in self._running.items() if s == slot]:
                del self._running[other]
            ray.kill(self._actors[slot])
            self._start(slot)
            return [Died(slot, _line(error))]
        return [_answered(call, seconds, result)]

    def _grow(self) -> None:
        """Start workers where nodes have joined; not while others still wait for room."""
        self._looked = monotonic()
        if self._starting:
            return
        free = ray.available_resources()
        room = min(int(free.get(name, 0) / need) for name, need in self._needs.items())
        slots = len(self._actors) + len(self._again)  # all that there are, without gaps
        for slot in range(slots, min(slots + room, self.plan.most_workers)):
            self._start(slot)


def _answered(call: int, seconds: float, result: list[np.ndarray] | tuple[int, str]) -> Event:
    if isinstance(result, tuple):
        return Failed(call, *result)
    return Done(call, result, seconds)


def _line(error: BaseException) -> str:
    """What an error says in its last line: Ray's first is often a general one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
