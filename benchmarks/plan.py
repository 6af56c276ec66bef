"""How far `headsearch plan` is from what the search then takes.

    python -m benchmarks.plan PAIRS OUT [--pair rt …]

`PAIRS` is where `python -m benchmarks.pairs PAIR PAIRS` made pairs of a model and a task. Plans a
search of each, runs it, and writes both to the JSON file OUT: expected evaluations and seconds with
their range, and what it took. The aim is that the time is within a factor of 2. Other programs
beside it may slow the one and not the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import provenance
from headsearch.report.console import Progress
from headsearch.run.command import resume, start
from headsearch.run.config import RunConfig
from headsearch.run.folder import RunFolder
from headsearch.run.plan import make_plan

# Searches that end by themselves, on one worker and on two.
INLINE = {"engine": "inline", "threads_per_worker": 1}
RAY = {"engine": "ray", "workers": 2, "threads_per_worker": 1}
CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "rt": ({**INLINE, "max_examples": 200}, {**RAY, "max_examples": 300}),
    "vader": ({**INLINE, "max_examples": 300},),
    "rxnfp": ({**INLINE, "max_examples": 200},),
    "news": ({**INLINE, "max_examples": 200},),
    "antiberty": ({**INLINE, "max_examples": 100},),
}


def compare(config: RunConfig, out: Path) -> dict[str, Any]:
    """Plan a search, run it in a new folder, and return what was expected and what it took."""
    plan = make_plan(config, out)
    (expected,) = (row["seconds"] for row in plan["times"] if row["workers"] == plan["workers"])
    with Progress(Console(stderr=True)) as progress:
        result = start(config, out, progress).result
        replayed = resume(RunFolder.open(out), {}, progress).result
    asked = config.to_json().items()
    return {
        "asked": {k: v for k, v in asked if v != getattr(RunConfig, k, v)},  # but model and data
        "heads": plan["heads"],
        "examples": plan["examples"],
        "probe": plan["probe"],
        "evaluations": {**plan["evaluations"], "taken": result["evaluations"]},
        "gradient_passes": result["gradient_passes"],
        "seconds": {**expected, "taken": result["wall_seconds"]},
        # All scores are known: thinking, and the checks by the plain path.
        "seconds_replayed": replayed["wall_seconds"],
        "taken_over_expected": round(result["wall_seconds"] / expected["expected"], 3),
        "stopped": result["stopped"],
    }


def main() -> None:
    """Compare every case and write the raw result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pair", action="append", choices=CASES)
    args = parser.parse_args()
    made, rows = provenance(), []
    for pair in args.pair or CASES:
        about = json.loads((args.pairs / pair / "pair.json").read_text())
        for case in CASES[pair]:
            config = RunConfig(
                model=str(args.pairs / pair / "model"),
                data=str(args.pairs / pair / "pool.csv"),
                metric=about["metric"],
                max_length=about["max_length"],
                **case,
            )
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"pair": pair, **compare(config, Path(folder) / "run")})
            print(json.dumps(rows[-1]), flush=True)
            args.out.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
