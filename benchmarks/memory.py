"""Peak memory of the inline engine beyond the model and its data.

    python benchmarks/memory.py ASSETS [OUT.json]     (about three minutes on one core)

ASSETS is what `train_minilm.py` made; our figures are in results/. Fills the parent cache over all
1,746 examples, then does the two kinds of work on the widest batches, where activations are
largest: all single removals of the full model, and gradients.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path
from typing import Any

from minilm import machine

from headsearch.heads import HeadSet
from headsearch.run import engines
from headsearch.run.config import RunConfig
from headsearch.run.prepare import load_task
from headsearch.scoring.evaluator import Evaluator
from headsearch.task.batches import Span


def peak_mb() -> float:
    """Return this process's peak resident memory in MB (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    args = parser.parse_args()
    config = RunConfig(
        model=str(args.assets / "model"),
        data=str(args.assets / "search.csv"),
        engine="inline",
        threads_per_worker=1,
    )
    task = load_task(config)
    report: dict[str, Any] = {"made_with": machine(), "loaded_mb": peak_mb()}
    executor = engines.start(engines.choose(config, task), config, task)
    evaluator: Evaluator = executor._evaluator
    batches, root = len(task.data.batches), HeadSet()
    evaluator.outputs(root, [HeadSet.of([task.shape.total - 1])], Span(0, batches))
    report["cache_filled_mb"] = peak_mb()
    most = max(range(batches), key=lambda i: task.data.batches[i].tokens)
    widest = Span(most, most + 1)
    evaluator.outputs(root, [HeadSet.of([j]) for j in range(task.shape.total)], widest)
    report["single_removals_mb"] = peak_mb()
    evaluator.gradients(root, widest)
    report["gradients_mb"] = peak_mb()
    report["cache_mb"] = evaluator.cache.used_bytes / 1e6
    report["beyond_loaded_mb"] = report["gradients_mb"] - report["loaded_mb"]
    executor.close()
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
