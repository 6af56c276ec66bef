"""The dry run: checks all that a run needs, probes the speed, and says what it will cost."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headsearch.errors import InputError, ModelError, StorageError
from headsearch.model.narrow import why_not_empty
from headsearch.run import engines
from headsearch.run.config import RunConfig
from headsearch.run.effort import (
    HEADS_PER_GRADIENT,
    RAY_SECONDS,
    Range,
    expected_evaluations,
    search_seconds,
)
from headsearch.run.folder import check_free
from headsearch.run.machine import machine_memory
from headsearch.run.prepare import Task, check_parts, load_task
from headsearch.run.probe import Speed, probe
from headsearch.search.weight import HEADS, Weight

PROBE_SECONDS = 10.0
# Numbers of workers are doubled while half of what they could do is used, and up to 8 in any case.
LEAST_SHOWN, LEAST_EFFICIENCY = 8, 0.5
# What a memo takes beyond the outputs and gradients in it: measured, a tenth.
MEMO_OVERHEAD = 1.15
# What the search itself holds at once beside all outputs, in gradients of one state, which are as
# large as the effects of all single removals: with guides at work on them, 12 were measured.
HELD = 12
# Passes by the plain path: the full model and the best state, on either split.
PLAIN_PASSES = 2


def make_plan(config: RunConfig, out: Path, price: float | None = None) -> dict[str, Any]:
    """Check everything, score for some seconds, and estimate; nothing is written.

    Args:
        config: what would be asked.
        out: the run folder that would be made.
        price: of a worker, for an hour.

    Returns:
        JSON values: what there is, what each worker needs, `evaluations` and, for numbers of
        workers, `seconds` and `cost`, each with `low`, `expected` and `high`, and `warnings`.
        `evaluations` is None, and `times` empty, where only a time limit would end the search.

    Raises:
        HeadsearchError: anything that `headsearch run` would refuse; `price` is negative; or the
            disk has no room for the scores.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise InputError(f"`price_per_hour` must not be negative but got {price}")
    check_free(out)
    parent = _existing_parent(out)
    check_parts(config)
    task = load_task(config)
    unable = why_not_empty(task.model)
    if unable is not None and config.weight != HEADS:  # what goes with all of a layer is measured
        raise ModelError(unable)
    choice = engines.choose(config, task)
    no_gpu = choice.plan.gpus > 0 and not torch.cuda.is_available()  # a cluster's head
    tried = replace(choice.plan, gpus=0, dtype="float32") if no_gpu else choice.plan
    Weight.each(task.shape)  # or there is nothing to search
    speed = probe(task, tried, PROBE_SECONDS)
    evaluations = expected_evaluations(task.shape.total, config)
    each, memory = engines.worker_bytes(config, task), machine_memory()
    disk = _memo_bytes(task, config, choice, speed, evaluations)
    free = shutil.disk_usage(parent).free
    if disk > free:
        raise StorageError(f"the scores may take {_size(disk)} but {parent} has {_size(free)} free")
    times = []
    if evaluations is not None:
        times = _times(task, config, choice, speed, evaluations, price)
    warnings = []
    here = choice.plan.workers if config.ray_address is None and not choice.plan.gpus else 0
    searching, of_workers = _search_bytes(task, evaluations), here * each
    if of_workers > memory:
        warnings.append(
            f"{here} workers may need {of_workers / 2**30:.1f} GiB but this machine has "
            f"{memory / 2**30:.1f} GiB; use fewer `--workers` or a smaller `--cache-mb`"
        )
    elif of_workers + searching > memory:
        beside = f", beside {of_workers / 2**30:.1f} GiB of workers," if here else ""
        warnings.append(
            f"the search itself may need {searching / 2**30:.1f} GiB{beside} but this machine has "
            f"{memory / 2**30:.1f} GiB; use fewer examples (`--max-examples`)"
        )
    if config.ray_address is not None:
        warnings.append("the speed is this machine's, as if the cluster's workers were like it")
    if no_gpu:
        warnings.append("the speed is that of this machine's CPU in float32: it has no GPU")
    if unable is not None:
        warnings.append(
            f"{unable}; what leaves a layer without heads can only be exported as zeroed"
        )
    return {
        "metric": config.metric,
        "max_drop": config.max_drop,
        "layers": task.shape.layers,
        "heads": task.shape.total,
        "examples": task.data.examples,
        "certify_examples": 0 if task.certify is None else task.certify.examples,
        "engine": "inline" if choice.inline else "ray",
        "workers": choice.plan.workers,
        "shards": choice.plan.layout.shards,
        "threads_per_worker": choice.plan.threads,
        "gpus_per_worker": choice.plan.gpus,
        "dtype": config.dtype,
        "bytes_per_worker": each,
        "bytes_of_search": searching,
        "memory_bytes": memory,
        "disk_bytes": disk,
        "disk_free_bytes": free,
        "evaluations": None if evaluations is None else evaluations.to_json(0),
        "probe": {name: round(value, 5) for name, value in vars(speed).items()},
        "time_limit": config.time_limit,
        "price_per_hour": price,
        "times": times,
        "warnings": warnings,
    }


def _times(
    task: Task,
    config: RunConfig,
    choice: engines.Choice,
    speed: Speed,
    evaluations: Range,
    price: float | None,
) -> list[dict[str, Any]]:
    """Return what 1, 2, 4, … workers take, and as many as the run would have."""
    certify = 0 if task.certify is None else task.certify.examples
    plain = PLAIN_PASSES * speed.plain * (1 + certify / task.data.examples)
    starting = 0.0 if choice.inline else RAY_SECONDS

    def seconds(count: float, workers: int) -> float:
        # Gradients come early: a search that ends early has measured most of them.
        scoring = count * speed.evaluation
        work = scoring + _gradients(task) * speed.gradient
        searching = starting + search_seconds(work, count, task.data.examples, workers, scoring)
        limit = config.time_limit
        return (searching if limit is None else min(searching, limit)) + plain

    numbers, count = {1, choice.plan.workers}, 2
    while True:
        alone, shared = (seconds(evaluations.expected, n) for n in (1, count))
        if count > LEAST_SHOWN and alone / (count * shared) < LEAST_EFFICIENCY:
            break
        numbers.add(count)
        count *= 2
    rows = []
    for workers in sorted(numbers):
        took = Range(*(seconds(value, workers) for value in vars(evaluations).values()))
        row: dict[str, Any] = {"workers": workers, "seconds": took.to_json()}
        if price is not None:
            paid = (price * workers * value / 3600 for value in vars(took).values())
            row["cost"] = Range(*paid).to_json(4)
        rows.append(row)
    return rows


def _memo_bytes(
    task: Task,
    config: RunConfig,
    choice: engines.Choice,
    speed: Speed,
    evaluations: Range | None,
) -> int:
    """Return what a memo may grow to: float32 outputs, and gradients of each head beside them.

    No more than workers can score within a time limit; where nothing ends a search, what it may
    come to is not known.
    """
    ends = [] if evaluations is None else [evaluations.high]
    if config.time_limit is not None:
        ends.append(choice.plan.workers * config.time_limit / speed.evaluation)
    count = min(ends, default=0.0)
    values = count + _gradients(task) * task.shape.total
    return int(MEMO_OVERHEAD * 4 * values * len(task.data.labels) * task.objective.classes)


def _search_bytes(task: Task, evaluations: Range | None) -> int:
    """Return what the search may hold of outputs and of what heads do to them; see `HELD`."""
    scored = 0.0 if evaluations is None else evaluations.high
    values = scored + HELD * task.shape.total
    return int(4 * values * len(task.data.labels) * task.objective.classes)


def _gradients(task: Task) -> float:
    """Return of how many states a search measures gradients, about."""
    return task.shape.total / HEADS_PER_GRADIENT if task.gradients else 0.0


def _existing_parent(out: Path) -> Path:
    """Return the folder in which a run folder, and what is missing above it, would be made.

    Raises:
        StorageError: it is no folder, or nothing may be written there.
    """
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(f"could not write {out}: {parent} is not a folder to write in")
    return parent


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e3:,.1f} kB"
