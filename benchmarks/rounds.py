"""How many proposals a round should have where there are many heads.

    python -m benchmarks.rounds OUT.json [--seeds 2 3 4 5] [--rounds 8 16]   (two minutes a search)

Searches BERT-large's 384 heads on 872 examples, where answers are those of the surrogate in
`benchmarks/scaling.py`, within 200 evaluations. No model is computed: what differs between them is
the search alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import provenance
from benchmarks.scaling import DATA, MODELS, Surrogate, batched, lognormal_lengths
from headsearch.heads import HeadMap
from headsearch.search.astar import Settings, search
from headsearch.search.problem import Problem
from headsearch.task.metric import make_objective

MODEL, EXAMPLES, EVALUATIONS = "BERT-large", 872, 200


def one(seed: int, proposals: int) -> dict[str, Any]:
    """Search once; return heads removed by evaluations."""
    shape = HeadMap((MODELS[MODEL].heads,) * MODELS[MODEL].layers)
    classes, median = DATA[EXAMPLES]
    data = batched(np.sort(lognormal_lengths(EXAMPLES, median)), 64)
    surrogate = Surrogate(shape, EXAMPLES, classes, data, seed)
    problem = Problem(shape, make_objective("accuracy", surrogate.labels, classes), 0.01)
    steps: list[dict[str, Any]] = []
    began = time.process_time()
    settings = Settings(
        heads_per_proposal=shape.total // proposals,
        patience=None,
        max_expansions=1,
        max_evaluations=EVALUATIONS,
    )
    result = search(problem, surrogate, settings, on_step=steps.append)
    growth: list[tuple[int, float]] = []
    for step in steps:
        if not growth or step["best"][0] > growth[-1][0]:
            growth.append((step["best"][0], step["evaluations"]))
    return {
        "seed": seed,
        "proposals": proposals,
        "heads": result.best.weight,
        "evaluations": result.evaluations,
        "processor_seconds": round(time.process_time() - began, 1),
        "growth": growth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="*", type=int, default=[2, 3, 4, 5])
    parser.add_argument("--rounds", nargs="*", type=int, default=[8, 16])
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        for proposals in options.rounds:
            rows.append(one(seed, proposals))
            print(json.dumps(rows[-1]), flush=True)
            options.out.write_text(json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
