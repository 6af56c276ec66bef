"""What narrow models gain in time: without half and 70 % of their heads.

    python -m benchmarks.latency ASSETS [--threads 1] [--onnx] [--out FILE]

ASSETS is the folder that `benchmarks.train_minilm` made; beside its MiniLM a BERT-base shape is
measured. Heads are removed at random, unevenly over the layers: time does not depend on which they
are. All is measured as `headsearch latency` does, narrow models and the whole one in turn in one
process, for batches of 1 and 32 of 32 and 128 tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.common import provenance
from headsearch.heads import HeadSet
from headsearch.model.checkpoint import load_model, save_pruned
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.run.latency import latency

SHARES = (0.5, 0.7)
BATCHES, TOKENS, REPEATS = (1, 32), (32, 128), 7


def base_shape(tokenizer: Any, folder: Path) -> Path:
    """Write a random classifier of BERT-base's shape."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=tokenizer.vocab_size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def narrow_folders(whole: Path, folder: Path) -> dict[float, Path]:
    """Write narrow copies of a model."""
    model, tokenizer = load_model(str(whole))
    shape, random = head_map(model), np.random.default_rng(0)
    order, found = [int(j) for j in random.permutation(shape.total)], {}
    for share in SHARES:
        removed = HeadSet.of(order[: round(share * shape.total)])
        found[share] = folder / f"{share:g}"
        save_pruned(narrowed(model, removed), found[share], tokenizer)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "latency.json"
    )
    args = parser.parse_args()
    made: dict[str, Any] = {**provenance(), "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        _, tokenizer = load_model(str(args.assets / "model"))
        models = {
            "MiniLM-L6": args.assets / "model",
            "BERT-base shape": base_shape(tokenizer, Path(scratch) / "base"),
        }
        for name, whole in models.items():
            folders = {0.0: whole, **narrow_folders(whole, Path(scratch) / name)}
            measured = latency(
                [str(folder) for folder in folders.values()],
                batches=BATCHES,
                tokens=TOKENS,
                repeats=REPEATS,
                thread_count=args.threads,
                onnx=args.onnx,
            )
            shares = {str(folder): share for share, folder in folders.items()}
            for result in measured["results"]:
                path, _, runtime = result.pop("model").partition(" (")
                result["removed"] = shares[path]
                result["runtime"] = runtime.rstrip(")") or "PyTorch"
                print(
                    f"{name}, {result['runtime']}, batch {result['batch']}, "
                    f"{result['tokens']} tokens, {result['removed']:.0%} removed: "
                    f"{result['milliseconds']['median']:.2f} ms, x{result['ratio']['median']:.3f}",
                    flush=True,
                )
            made["models"][name] = {
                "threads": measured["threads"],
                "repeats": measured["repeats"],
                "results": measured["results"],
            }
    args.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
