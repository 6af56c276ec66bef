"""The end-to-end benchmark: MiniLM-L6 fully fine-tuned on Rotten Tomatoes, budget 1 point.

    python benchmarks/train_minilm.py ASSETS                 (about ten minutes on one core)
    python benchmarks/minilm.py ASSETS OUT.json              (about half an hour on two cores)

Runs `headsearch run` as a user would, `headsearch verify` on the search split and on films that it
never saw, the same run with another budget on the same memo, and re-scored Michel (Michel, Levy
and Neubig 2019: gradients measured anew after every 4 heads, every prefix scored, going on to the
end) on the same data. Writes all figures with hardware, versions and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from headsearch.engine.dispatch import Dispatcher
from headsearch.heads import HeadSet
from headsearch.run import engines
from headsearch.run.config import RunConfig
from headsearch.run.prepare import load_task
from headsearch.run.session import environment
from headsearch.search.guides import Michel, View
from headsearch.search.problem import GRADIENTS, OUTPUTS, Ask, Node, Problem

REMEASURE = 4


def command(*args: object) -> dict[str, Any]:
    """Call headsearch, let its progress through, and return the JSON that it prints."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "headsearch", *map(str, args), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):  # 1: `verify` found less than was asked, which is a result
        raise SystemExit(f"headsearch {args[0]} ended with exit code {done.returncode}")
    return {**json.loads(done.stdout), "process_seconds": round(time.monotonic() - began, 1)}


def michel(config: RunConfig, memo: Path) -> dict[str, Any]:
    """Re-scored Michel on the same evaluator and memo: every prefix of its path."""
    task = load_task(config)
    choice = engines.choose(config, task)
    workers = engines.start(choice, config, task)
    store = engines.open_memo(workers, memo, task.fingerprint)
    oracle = Dispatcher(workers, store, task.shape)
    objective = task.objective
    problem = Problem(task.shape, objective, config.max_drop)
    root = HeadSet()
    ((outputs,),) = oracle.ask([Ask(OUTPUTS, root, (root,))])
    base = objective.score(outputs)
    threshold = objective.threshold(base, config.max_drop)
    state, path, gradient_passes = root, [], 0
    while len(state) < task.shape.total:
        ((outputs,),) = oracle.ask([Ask(OUTPUTS, state, (state,))])
        heads = np.array([j for j in range(task.shape.total) if j not in state])
        ((slopes,),) = oracle.ask([Ask(GRADIENTS, state, (state,))])
        effects = -slopes[:, :, heads].transpose(2, 0, 1)
        gradient_passes += 1
        node = Node(state, len(state), outputs, objective.score(outputs), True)
        view = View(problem, threshold, node, heads, np.ascontiguousarray(effects))
        step = Michel().path(view).heads[:REMEASURE]
        rungs = [state | HeadSet.of(step[: k + 1]) for k in range(len(step))]
        (answers,) = oracle.ask([Ask(OUTPUTS, state, tuple(rungs))])
        for rung, found in zip(rungs, answers, strict=True):
            score = objective.score(found)
            path.append([len(rung), score.correct, score.loss])
        state = rungs[-1]
    store.close()
    workers.close()
    feasible = [heads for heads, correct, _ in path if correct >= (threshold.correct or 0)]
    return {
        "remeasured_every": REMEASURE,
        "most_heads_feasible": max(feasible, default=0),
        "gradient_passes": gradient_passes,
        "evaluations": len(path) + 1,
        "path": path,
    }


def machine() -> dict[str, Any]:
    """Hardware, versions and commit."""
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((r.split(":")[1].strip() for r in rows if r.startswith("model name")), model)
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "commit": commit.stdout.strip(),
        "uncommitted_changes": bool(dirty.stdout.strip()),
        **environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="where to keep the run folders")
    args = parser.parse_args()
    runs = args.runs or Path(tempfile.mkdtemp(prefix="headsearch-benchmark-"))
    report: dict[str, Any] = {"made_with": machine()}

    def save() -> None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")

    model, data = args.assets / "model", args.assets / "search.csv"
    engine = ("--engine", "ray", "--workers", args.workers, "--threads-per-worker", 1)
    first = runs / "one-point"
    asked = ("run", model, "--data", data, *engine, "--max-evaluations", 1000)
    report["run"] = command(*asked, "--max-drop", 0.01, "--out", first)
    report["progress"] = json.loads((first / "progress.json").read_text())
    report["verify_search"] = command("verify", first)
    report["verify_held_out"] = command("verify", first, "--data", args.assets / "held_out.csv")
    save()
    config = RunConfig(
        model=str(model), data=str(data), engine="ray", workers=args.workers, threads_per_worker=1
    )
    report["michel"] = michel(config, first / "memo.sqlite")
    save()
    second = runs / "half-point"
    memo = ("--memo", first / "memo.sqlite")
    report["other_budget"] = command(*asked, "--max-drop", 0.005, *memo, "--out", second)
    report["other_budget_progress"] = json.loads((second / "progress.json").read_text())
    save()
    best, rescored = report["run"]["best"], report["michel"]
    print(f"headsearch: {best['heads_removed']} heads, {report['run']['evaluations']} evaluations")
    print(f"re-scored Michel: {rescored['most_heads_feasible']} heads")


if __name__ == "__main__":
    main()
