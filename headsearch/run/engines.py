"""Chooses the engine, its workers and shards from what was asked and what there is."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from headsearch.engine.executor import Executor, Plan
from headsearch.engine.inline import InlineExecutor
from headsearch.errors import InputError
from headsearch.run.config import RunConfig
from headsearch.run.prepare import Task


@dataclass(frozen=True)
class Choice:
    """An engine that can be started: inline or not, and its plan."""

    inline: bool
    plan: Plan


def choose(config: RunConfig, task: Task) -> Choice:
    """Choose engine, workers and shards; starts nothing on this machine.

    `auto` takes as many workers as there are GPUs, or CPUs where there is no GPU, and the inline
    engine where that is one.

    Raises:
        InputError: more shards than batches, or GPUs where there are none.
        EngineError: the Ray cluster can't be reached.
    """
    cpus, gpus = _machine() if config.ray_address is None else _cluster(config.ray_address)
    per_worker = config.gpus_per_worker
    if per_worker is None:
        per_worker = 1.0 if gpus else 0.0
    if per_worker > 0 and not gpus:
        raise InputError(f"`gpus_per_worker` is {per_worker:g} but there is no GPU")
    threads = config.threads_per_worker
    workers = 1 if config.engine == "inline" else config.workers
    if workers is None:
        workers = max(1, int(gpus / per_worker) if per_worker else cpus // (threads or 1))
    inline = config.engine == "inline" or (
        config.engine == "auto" and workers == 1 and config.ray_address is None
    )
    shards = config.shards or (1 if inline else min(workers, len(task.data.batches)))
    plan = Plan(
        workers=workers,
        shards=task.data.shards(shards),
        # Ray's workers share the machine: each gets a thread count of its own. The inline
        # engine has it to itself, and leaves torch's setting as it is.
        threads=threads if inline else threads or 1,
        gpus=per_worker,
        dtype=config.dtype,
        cache_bytes=config.cache_mb << 20,
    )
    return Choice(inline, plan)


def start(choice: Choice, config: RunConfig, task: Task) -> Executor:
    """Start the chosen engine.

    Raises:
        EngineError: Ray can't be started or reached.
    """
    if choice.inline:
        return InlineExecutor(task.bundle, task.data, choice.plan)
    from headsearch.engine.ray_engine import RayExecutor  # importing Ray takes seconds

    return RayExecutor(task.bundle, task.data, choice.plan, config.ray_address)


def _machine() -> tuple[int, int]:
    """Return (CPUs, GPUs) of this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cpus or 1, torch.cuda.device_count()


def _cluster(address: str) -> tuple[int, int]:
    from headsearch.engine.ray_engine import cluster_size

    return cluster_size(address)
