"""Runs a search and turns what it found into the contract's results."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from headsearch import __version__
from headsearch.engine.dispatch import Counts, Dispatcher
from headsearch.engine.executor import Workers
from headsearch.errors import ModelError
from headsearch.heads import HeadSet
from headsearch.memo.store import MemoStore
from headsearch.model.families import share_keys
from headsearch.run import source
from headsearch.run.certify import population
from headsearch.run.config import RunConfig
from headsearch.run.prepare import Task
from headsearch.run.settings import settings_of
from headsearch.run.tally import Tally
from headsearch.run.verify import first_verified, on_gpu, plain_score
from headsearch.search.astar import Result, Settings, search
from headsearch.search.ledger import BrokenBaseline, finite
from headsearch.search.points import operating_points, safer_points
from headsearch.search.problem import Node, Problem
from headsearch.search.weight import HEADS, Weight
from headsearch.task.metric import Score, stricter

RESULT_FORMAT = 1
# Seconds between two tellings of live figures.
FIGURES_INTERVAL = 0.5
# Ways for a search to end that were not its own choice.
BUDGETS = ("evaluation budget spent", "expansion budget spent", "time limit reached")


class Watcher(Protocol):
    """Is told how a run goes; decides nothing."""

    def on_progress(self, values: dict[str, Any]) -> None:
        """A step was committed or scores arrived; see `Tally.values`, for every engine the same."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        result: the content of `result.json`.
        mask: the content of `mask.json`.
        stopped_by_budget: whether a budget ended the search before it wanted to.
        certified_mask: the content of `certified_mask.json`; None if no point was certified.
    """

    result: dict[str, Any]
    mask: dict[str, Any]
    stopped_by_budget: bool
    certified_mask: dict[str, Any] | None = None


def run_search(
    task: Task,
    config: RunConfig,
    workers: Workers,
    memo: MemoStore,
    *,
    saves: Weight,
    watcher: Watcher,
    on_step: Callable[[dict[str, Any]], None] = lambda step: None,
    on_incumbent: Callable[[dict[str, Any]], None] = lambda point: None,
    settings: Settings | None = None,
) -> Outcome:
    """Search, verify the best state by the plain path, certify if that is asked, and report.

    Args:
        task: model and data.
        config: what was asked.
        workers: computes; left open.
        memo: scores that are known, and where new ones go; left open.
        saves: what removing heads saves.
        watcher: told of progress.
        on_step: given each committed step, for the transcript.
        on_incumbent: given each state that is better than all before it, as in `result.json`.
        settings: how to search, in place of what the configuration says.
    """
    started = began = time.monotonic()

    tally = Tally(task.shape, config, len(task.data.labels))
    live = {"best_heads_removed": 0.0, "evaluations": 0.0}
    shown = -math.inf
    watcher.on_progress(tally.values())

    def counted(counts: Counts) -> None:
        nonlocal shown
        now, scheduler = time.monotonic(), dispatcher.scheduler
        if now - shown < FIGURES_INTERVAL:
            return
        shown = now
        figures = {
            **live,
            "scores_per_second": counts.computed / max(now - started, 1e-9),
            "queue_depth": scheduler.waiting,
            "in_flight": scheduler.in_flight,
            "workers": scheduler.live_workers,
            "memo_hit_rate": counts.reused / max(counts.reused + counts.computed, 1e-9),
            "speculation_use": counts.used / max(counts.speculative, 1e-9),
        }
        workers.show(figures)
        tally.on_counts(counts.computed, counts.reused, figures)
        watcher.on_progress(tally.values())

    dispatcher = Dispatcher(workers, memo, task.shape, counted)

    def step(record: dict[str, Any]) -> None:
        live.update(
            best_heads_removed=record["best"][0],
            evaluations=record["evaluations"],
        )
        on_step(record)
        tally.on_step(record)
        watcher.on_progress(tally.values())

    def checking(kind: str) -> None:
        tally.on_check(kind)
        watcher.on_progress(tally.values())

    def should_stop() -> str | None:
        nonlocal began
        if not dispatcher.counts.asked_for:
            began = time.monotonic()  # so far all was known: going on begins here
            return None
        limit = config.time_limit
        spent = limit is not None and time.monotonic() - began >= limit
        return "time limit reached" if spent else None

    problem = Problem(
        task.shape,
        task.objective,
        config.max_drop,
        workers.plan.layout.independent,
        saves,
        gradients=task.gradients,
    )
    try:
        found = search(
            problem,
            dispatcher,
            settings or settings_of(config),
            on_step=step,
            should_stop=should_stop,
            on_incumbent=lambda node: on_incumbent(_node_json(task, node)),
        )
    except BrokenBaseline as error:
        raise ModelError(_which(task, config, error)) from None
    shown = -math.inf  # the last figures are shown whenever they come
    counted(dispatcher.counts)
    with on_gpu(task.model, workers.plan.gpus):
        report = _report(task, config, saves, workers, found, checking)
    report["engine"] |= {
        "computed_ahead": round(dispatcher.counts.speculative, 3),
        "computed_ahead_and_used": round(dispatcher.counts.used, 3),
        "jobs_sent_twice": dispatcher.scheduler.sent_twice,
    }
    report["memo_hits"] = round(dispatcher.counts.reused, 3)  # of the evaluations
    report["wall_seconds"] = round(time.monotonic() - started, 1)

    def mask(point: dict[str, Any]) -> dict[str, Any]:
        return task.shape.to_mask(task.shape.from_pairs(point["removed"]))

    certified = report["certificate"]["population"].get("certified")
    return Outcome(
        report,
        mask(report["best"]),
        found.stopped in BUDGETS,
        mask(certified) if certified else None,
    )


def _which(task: Task, config: RunConfig, error: BrokenBaseline) -> str:
    """Return the error with the example that a user should look at."""
    rows = error.rows[np.argsort(task.data.sources[error.rows], kind="stable")]
    example, tokens = task.data.sources[rows[0]], task.data.lengths[rows[0]]
    long = f" (of {tokens} tokens)" if tokens > 1 else ""
    hint = "; float16 holds no more than 65,504: bfloat16 does" if config.dtype == "float16" else ""
    return f"{error}: of those searched, example {example}{long} is the first{hint}"


def _report(
    task: Task,
    config: RunConfig,
    saves: Weight,
    workers: Workers,
    found: Result,
    checking: Callable[[str], None],
) -> dict[str, Any]:
    """Return the content of `result.json`, but for what the end of the run adds.

    `checking` is called before each batch of the checks, with what is checked.
    """

    def score(heads: HeadSet) -> Score:
        tick = partial(checking, "verifying")
        return plain_score(task.model, task.data, task.objective, heads, tick)

    plain_baseline = score(HeadSet())
    threshold = stricter(found.threshold, task.objective.threshold(plain_baseline, config.max_drop))
    heads_of = [node.heads for node in found.candidates]
    verified, refuted = first_verified(score, heads_of, threshold)
    points, safer = _corrected(found, refuted, config.metric)
    # The full model always meets its own threshold, but the search's and the plain path's
    # baselines may differ by a rounded example; then it stands, unverified.
    heads, plain = verified or (HeadSet(), plain_baseline)
    best = next(node for node in found.candidates if node.heads == heads)
    # Else a set may save more than its number of heads says.
    exact = saves.kind == HEADS or not share_keys(task.model)
    return {
        "format": RESULT_FORMAT,
        "headsearch": __version__,
        "metric": config.metric,
        "max_drop": config.max_drop,
        "threshold": threshold.value,
        "examples": task.data.examples,
        "scored": {"kind": task.data.kind, "rows": len(task.data.labels)},
        "layers": task.shape.layers,
        "heads": task.shape.total,
        "weight": {
            "kind": saves.kind,
            "unit": saves.unit,
            "total": saves.total,
            "saved": best.weight,
            "bound": found.bound,
            "exact": exact,
            "optimal": found.bound == best.weight and (exact or best.weight == saves.total),
        },
        "baseline": score_json(found.baseline.score),
        "best": _node_json(task, best),
        "operating_points": [_node_json(task, node) for node in points],
        "safer_points": [_node_json(task, node) for node in safer],
        "certificate": {
            "verified": verified is not None,
            "plain": {"baseline": score_json(plain_baseline), "best": score_json(plain)},
            "bound": found.limits.to_json(len(best.heads)),
            "population": population(
                task,
                config,
                [node for node in points if node.feasible],
                best,
                partial(checking, "certifying"),
            ),
        },
        "stopped": found.stopped,
        "evaluations": found.evaluations,
        "expansions": found.expansions,
        "gradient_passes": found.gradients,
        "engine": workers.describe(),
        "environment": environment(),
    }


def _corrected(
    found: Result, refuted: Mapping[HeadSet, Score], metric: str
) -> tuple[list[Node], list[Node]]:
    """Return operating and safer points by what the plain path says of states that it refuted."""
    pruned = {heads: score for heads, score in refuted.items() if heads.bits}
    if not pruned:
        return found.points, found.safer
    nodes = {node.heads: node for node in (*found.points, *found.candidates)}
    for heads, score in pruned.items():
        nodes[heads] = replace(nodes[heads], score=score, feasible=False)
    return operating_points(nodes.values()), safer_points(nodes.values(), metric)


def score_json(score: Score) -> dict[str, Any]:
    """Return a score as JSON holds it: null in place of what is not finite."""
    values: dict[str, Any] = {"metric": finite(score.metric), "loss": finite(score.loss)}
    if score.correct is not None:
        values["correct"] = score.correct
    return values


def _node_json(task: Task, node: Node) -> dict[str, Any]:
    return {
        "removed": task.shape.pairs(node.heads),
        "heads_removed": len(node.heads),
        "saved": node.weight,
        **score_json(node.score),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # the inline engine needs no ray
        return None


def environment() -> dict[str, Any]:
    """Return the versions, the commit if known, and the machine that a result was made with."""
    names = ("torch", "transformers", "datasets", "numpy", "ray")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version for name in names if (version := _version(name))},
        **({"commit": commit} if (commit := source.commit()) else {}),
    }
