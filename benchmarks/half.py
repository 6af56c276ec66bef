"""How much faster a processor that has products of bfloat16 scores in it than in float32.

    python -m benchmarks.half ASSETS OUT.json [--models MiniLM BERT-base] [--repetitions 5]

ASSETS is what `benchmarks/train_minilm.py` made. Models and snippets are those of
`benchmarks/throughput.py`. On one thread and in turn, each with an empty parent cache: all single
removals of the full model in its first, middle and last layer, a state with half of the heads
removed, and the full model's gradients. Reported are processor seconds in float32 over those in
bfloat16, of each repetition, and how far outputs are apart: by how much of their spread, and how
many answers differ. Of random models answers say nothing, so they are told of MiniLM alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.common import provenance
from benchmarks.throughput import SHAPES, load
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.scoring.cache import ParentCache
from headsearch.scoring.evaluator import DEFAULT_CACHE_BYTES, Evaluator
from headsearch.task.batches import Span

DTYPES = ("float32", "bfloat16")
MODELS = ("MiniLM", "BERT-base")


def asked(shape: HeadMap, span: Span) -> dict[str, Callable[[Evaluator], np.ndarray]]:
    """Return what is computed, by name."""
    layers = (0, shape.layers // 2, shape.layers - 1)
    heads = [
        shape.start(layer) + j for layer in layers for j in range(shape.heads_per_layer[layer])
    ]
    singles = [HeadSet.of([head]) for head in heads]
    half = HeadSet.of(range(0, shape.total, 2))
    return {
        "single removals": lambda evaluator: evaluator.outputs(HeadSet(), singles, span),
        "half removed": lambda evaluator: evaluator.outputs(half, [half], span),
        "gradients": lambda evaluator: evaluator.gradients(HeadSet(), span),
    }


def compare(model: str, assets: Path, repetitions: int) -> dict[str, Any]:
    """Time a model in both dtypes."""
    made, data = load(model, assets)
    parts, span = bundle(made), Span(0, len(data.batches))
    evaluators = {d: Evaluator(rebuild(parts), data.batches, dtype=d) for d in DTYPES}
    row: dict[str, Any] = {
        "model": model,
        "examples": data.examples,
        "independent": {dtype: each.independent for dtype, each in evaluators.items()},
    }
    for name, compute in asked(evaluators["float32"].shape, span).items():
        seconds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
        found = dict[str, np.ndarray]()
        for _ in range(repetitions + 1):  # the first warms up
            for dtype, evaluator in evaluators.items():
                evaluator.cache = ParentCache(DEFAULT_CACHE_BYTES)
                began = process_time()
                found[dtype] = compute(evaluator)
                seconds[dtype].append(process_time() - began)
        ratios = [a / b for a, b in zip(*(seconds[d][1:] for d in DTYPES), strict=True)]
        exact, low = (found[dtype] for dtype in DTYPES)
        row[name] = {
            "seconds": {dtype: median(each[1:]) for dtype, each in seconds.items()},
            "ratios": ratios,
            "ratio": median(ratios),
            "off": float(np.sqrt(np.square(low - exact).mean()) / exact.std()),
        }
        if model == "MiniLM" and name != "gradients":
            answers = exact.argmax(-1)
            row[name]["answers"] = int(answers.size)
            row[name]["answers_that_differ"] = int((low.argmax(-1) != answers).sum())
        print(model, name, row[name], flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="*", choices=list(SHAPES), default=MODELS)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compare(model, args.assets, args.repetitions) for model in args.models]
    args.out.write_text(json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
