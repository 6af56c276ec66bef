"""Makes one pair: `python -m benchmarks.pairs PAIR OUT`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
from pathlib import Path

import torch

PAIRS = ("rt", "rxnfp", "antiberty", "news", "vader", "mpnet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, help="rt: use this trained model, don't train anew")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target = options.out / options.pair
    if target.exists():
        parser.error(f"{target} exists")
    options.out.mkdir(parents=True, exist_ok=True)
    made = importlib.import_module(f"benchmarks.pairs.{options.pair}").make
    # Made aside and renamed: a pair is there whole or not at all.
    with tempfile.TemporaryDirectory(dir=options.out, prefix=f".{options.pair}-") as scratch:
        staged = Path(scratch) / options.pair
        staged.mkdir()
        about = made(staged, options, lambda line: print(line, flush=True))
        os.replace(staged, target)
    print(json.dumps({name: about[name] for name in ("pair", "rows", "plain", "splits")}))


if __name__ == "__main__":
    main()
