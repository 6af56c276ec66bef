"""Chooses the engine, its workers and shards from what was asked and what there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from headsearch.engine.cutting import MOST_CHILDREN
from headsearch.engine.executor import Plan, Workers
from headsearch.engine.inline import InlineWorkers
from headsearch.engine.worker import independent, with_threads
from headsearch.errors import InputError
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import MemoStore
from headsearch.run.config import RunConfig
from headsearch.run.machine import machine_cpus, machine_memory
from headsearch.run.prepare import Task
from headsearch.scoring.base import DEFAULT_CACHE_BYTES
from headsearch.task.readout import EXAMPLES
from headsearch.task.shards import PIECE_BYTES, lay_out

# Scores of one expansion that a worker should get at least: more workers than that are no use.
SCORES_PER_WORKER = 32
# A worker's memory beside model and cache: the process with torch, and activations of a batch.
WORKER_BYTES = 1 << 30
# An answer is computed, put together and sent.
COPIES = 3


@dataclass(frozen=True)
class Choice:
    """An engine that can be started: inline or not, and its plan."""

    inline: bool
    plan: Plan


def choose(config: RunConfig, task: Task) -> Choice:
    """Choose engine, workers and shards; starts nothing on this machine.

    As many workers as there are GPUs, or CPUs where there is no GPU, as far as memory goes; the
    inline engine where that is one. A shard for every worker, so that each holds the parents'
    layer inputs of its own part of the data only; replicas where workers outnumber batches.

    Raises:
        InputError: more shards than batches, or GPUs where there are not so many.
        EngineError: the Ray cluster can't be reached.
    """
    if config.ray_address is None:
        cpus, gpus, most_gpus = *_machine(), None
    else:
        from headsearch.engine.ray_cluster import capacity  # importing Ray takes seconds

        found = capacity(config.ray_address)
        cpus, gpus, most_gpus = found.cpus, found.gpus, found.most_gpus
    gpus_at_most = max(gpus, most_gpus or 0)
    per_worker = config.gpus_per_worker
    if per_worker is None:
        per_worker = 1.0 if gpus_at_most else 0.0
    if per_worker > 0 and not gpus_at_most:
        raise InputError(f"`gpus_per_worker` is {per_worker:g} but there is no GPU")
    if per_worker > gpus_at_most:
        raise InputError(
            f"`gpus_per_worker` is {per_worker:g} but there are {gpus_at_most} GPUs in all"
        )
    threads = config.threads_per_worker
    useful = max(1, len(task.data.batches) * task.shape.total // SCORES_PER_WORKER)
    workers = 1 if config.engine == "inline" else config.workers
    if workers is None:
        room = _per_gpus(gpus, per_worker) if per_worker else _cpu_workers(config, task, cpus)
        workers = max(1, min(room, useful))
    if per_worker * workers > gpus_at_most:
        raise InputError(
            f"{workers} workers with {per_worker:g} GPUs each need {per_worker * workers:g} GPUs "
            f"but there are {gpus_at_most}"
        )
    if config.ray_address is not None and not per_worker and workers * (threads or 1) > cpus > 0:
        raise InputError(
            f"{workers} {'worker' if workers == 1 else 'workers'} with {threads or 1} threads each "
            f"need {workers * (threads or 1)} CPUs but the cluster has {cpus}"
        )
    inline = config.engine == "inline" or (
        config.engine == "auto" and workers == 1 and config.ray_address is None
    )
    plan = Plan(
        workers=workers,
        # A cluster may grow, up to what was asked for or what the search can use.
        most_workers=max(workers, config.workers or useful) if config.ray_address else workers,
        layout=lay_out(
            task.data,
            config.shards or (1 if inline else min(workers, len(task.data.batches))),
            independent=_independent(task, config, per_worker, inline),
            row_bytes=_row_bytes(task),
        ),
        # Ray's workers share the machine: each gets a thread count of its own. The inline
        # engine has it to itself, and leaves torch's setting as it is.
        threads=_threads(config, inline),
        gpus=per_worker,
        dtype=config.dtype,
        cache_bytes=None if config.cache_mb is None else config.cache_mb << 20,
    )
    return Choice(inline, plan)


def start(choice: Choice, config: RunConfig, task: Task) -> Workers:
    """Start the chosen engine.

    Raises:
        EngineError: Ray can't be started or reached.
    """
    if choice.inline:
        return InlineWorkers(task.bundle, task.data, choice.plan)
    from headsearch.engine.ray_workers import RayWorkers

    return RayWorkers(task.bundle, task.data, choice.plan, config.ray_address)


def open_memo(workers: Workers, path: Path, fingerprint: str) -> MemoStore:
    """Open a run's memo; on a cluster that others may use too, through its memo actor.

    On this machine alone the file itself serves all processes, and an actor would only take time
    from the workers.

    Raises:
        MemoError: the file can't be used, or not be seen from where the actor is.
    """
    if workers.alone:
        return SqliteStore(path, fingerprint)
    from headsearch.engine.ray_memo import RayMemo

    return RayMemo(path, fingerprint)


def _per_gpus(gpus: int, per_worker: float) -> int:
    """How many workers GPUs are enough for; a worker's share is of one GPU."""
    if per_worker < 1:
        return gpus * int(1 / per_worker)
    return int(gpus / per_worker)


def _cpu_workers(config: RunConfig, task: Task, cpus: int) -> int:
    """How many workers CPUs are enough for, and on this machine memory too."""
    by_cpus = cpus // (config.threads_per_worker or 1)
    if config.ray_address is not None:
        return by_cpus
    return min(by_cpus, max(1, machine_memory() // worker_bytes(config, task)))


def _threads(config: RunConfig, inline: bool) -> int | None:
    """Return a worker's CPU threads; None leaves torch's own setting."""
    return config.threads_per_worker if inline else config.threads_per_worker or 1


def _independent(task: Task, config: RunConfig, gpus: float, inline: bool) -> bool:
    """Whether an example's outputs do not depend on those beside it, to the last bit.

    That is tried out on a device like those of the workers, with as many threads as they have.
    """
    if task.data.kind != EXAMPLES:
        return False
    threads = _threads(config, inline)
    if gpus and not torch.cuda.is_available():
        from headsearch.engine.ray_workers import independent_there

        return independent_there(task.bundle, task.data, config.dtype, gpus, threads)
    with with_threads(threads):
        return independent(task.bundle, task.data, config.dtype, gpus)


def _row_bytes(task: Task) -> int:
    """Return the bytes of an example in the largest answer of a job.

    That is of gradients for each head, or of outputs of as many states as a job may have.
    """
    heads = task.shape.total if task.gradients else 0
    return 4 * task.objective.classes * max(heads, MOST_CHILDREN)


def _machine() -> tuple[int, int]:
    """Return (CPUs, GPUs) of this machine."""
    return machine_cpus(), torch.cuda.device_count()


def worker_bytes(config: RunConfig, task: Task) -> int:
    """Return what a worker may take of memory: model, cache, process, activations and answers."""
    model = sum(array.nbytes for array in task.bundle.arrays.values())
    cache = DEFAULT_CACHE_BYTES if config.cache_mb is None else config.cache_mb << 20
    answers = min(PIECE_BYTES, len(task.data.labels) * _row_bytes(task))
    return model + cache + WORKER_BYTES + COPIES * answers
