"""How fast HeadSets are scored, against loops of the plain forward.

    python -m benchmarks.throughput ASSETS OUT.json [--models MiniLM …]    (one core, long)

ASSETS is what `benchmarks/train_minilm.py` made. Rotten Tomatoes snippets are scored under all
single removals of a parent with 0, 25 and 50 % of its heads removed already, and along a macro
ladder, three ways in turn, as often as `--repetitions` says, on one thread:

(a) the stock forward under gates, one mask after the other, all padded to 128 tokens;
(b) the same on batches of snippets of similar length;
(c) headsearch's evaluator, on the batches of (b), its parent cache empty at the start.

(a) and (b) cost the same for every mask, so they are timed on a sample of masks, one in each layer,
and (c) on all. Every mask's logits are compared with (b), and the sample's with (a). Reported are
masks a second, ratios, the products' floating point operations of (c) as counted by torch over the
least that there can be, and its share of the speed of a large float32 matrix product. BERT-base and
BERT-large are random models of those shapes.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import provenance
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.checkpoint import load_model
from headsearch.model.families import head_map
from headsearch.model.plain import plain_outputs
from headsearch.run.config import RunConfig
from headsearch.run.prepare import load_data
from headsearch.scoring.cache import ParentCache
from headsearch.scoring.evaluator import DEFAULT_CACHE_BYTES, Evaluator
from headsearch.scoring.products import PackedLinear
from headsearch.task.batches import Batch, BatchedData, Span, tokenise

# Layers, heads, hidden size.
SHAPES = {"MiniLM": (6, 12, 384), "BERT-base": (12, 12, 768), "BERT-large": (24, 16, 1024)}
# Examples in a batch, and how many batches of those that the data is cut into are scored: less
# where a mask takes longer.
SAMPLES = {"MiniLM": (64, 2), "BERT-base": (32, 1), "BERT-large": (8, 1)}
REMOVED = (0.0, 0.25, 0.5)
ROWS = (104, 216, 432, 864, 1728, 3456, 6912)
RUNGS = (1, 2, 3, 5, 8, 12, 18, 26)  # heads removed by the macro ladder beyond its parent
PADDED = 128
SAMPLED = 3  # masks that the plain forward is timed on, or some more
PEAK_SIZE = 2048


def load(model: str, assets: Path) -> tuple[Any, BatchedData]:
    """Return a model and some of the batches that all snippets make, from short to long."""
    config = RunConfig(model=str(assets / "model"), data=str(assets / "search.csv"))
    made, tokenizer = load_model(config.model)
    size, count = SAMPLES[model]
    data = tokenise(load_data(config, made), tokenizer, batch_examples=size)
    ordered = sorted(data.batches, key=lambda batch: (batch.tokens, batch.lengths.sum()))
    picked = tuple(ordered[len(ordered) * (2 * i + 1) // (2 * count)] for i in range(count))
    examples = sum(batch.examples for batch in picked)
    data = BatchedData(picked, np.zeros(examples, np.int64), np.arange(examples))
    if model != "MiniLM":
        torch.manual_seed(0)
        layers, heads, hidden = SHAPES[model]
        made = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                num_hidden_layers=layers,
                num_attention_heads=heads,
                hidden_size=hidden,
                intermediate_size=4 * hidden,
            )
        )
    return made.eval(), data


def padded(batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches with every example padded to `PADDED` tokens."""
    return [
        Batch({k: np.pad(v, ((0, 0), (0, PADDED - v.shape[1]))) for k, v in batch.arrays.items()})
        for batch in batches
    ]


def parent_of(shape: HeadMap, share: float) -> HeadSet:
    """Return a random state with this share of the heads removed."""
    order = np.random.default_rng(0).permutation(shape.total)
    return HeadSet.of(int(j) for j in order[: round(share * shape.total)])


def singles_of(shape: HeadMap, parent: HeadSet) -> list[HeadSet]:
    return [parent.add(j) for j in range(shape.total) if j not in parent]


def ladder_of(shape: HeadMap, parent: HeadSet) -> list[HeadSet]:
    order = np.random.default_rng(1).permutation(shape.total)
    path = [j for j in map(int, order) if j not in parent]
    return [parent | HeadSet.of(path[:rung]) for rung in RUNGS if rung <= len(path)]


def sample_of(shape: HeadMap, parent: HeadSet, children: Sequence[HeadSet]) -> list[int]:
    """Return positions of children, one for each of some layers that they first change."""
    first: dict[int, int] = {}
    for position, child in enumerate(children):
        first.setdefault(shape.first_layer(parent ^ child), position)
    chosen = list(first.values())
    return chosen[:: max(1, len(chosen) // SAMPLED)]


def least(model: Any, shape: HeadMap, batches: Sequence[Batch], states: Sequence[HeadSet]) -> float:
    """Return the least operations of all products but attention's own: 2 for each weight and row.

    Rows are tokens without padding. A layer is computed once for all states that keep the same
    heads of the layers below, each head of it that any of them keeps once, and what comes after
    attention once for each way to keep its heads. In the last layer there is one row for each
    example, but for the weighted means of its input, see `FusedLayer.attend_first`.
    """
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    size = hidden // model.config.num_attention_heads
    kept = [[shape.kept(state, layer) for layer in range(shape.layers)] for state in states]
    rows = sum(int(batch.lengths.sum()) for batch in batches)
    examples = sum(batch.examples for batch in batches)
    total = 0.0
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        heads = {(*path[:layer], head) for path in kept for head in path[layer]}
        # Queries, what they ask of the layer's input, and values; or queries, keys and values.
        total += 2.0 * hidden * size * len(heads) * 3 * (examples if last else rows)
        if last:
            total += 2.0 * hidden * len(heads) * 2 * rows  # scores and weighted means
        for path in {tuple(path[: layer + 1]) for path in kept}:
            after = len(path[layer]) * size + 2 * inner
            total += 2.0 * hidden * after * (examples if last else rows)
    return total + 2.0 * len(states) * examples * hidden * (hidden + model.config.num_labels)


def of_linear(rows: Sequence[int], weight: Sequence[int], *rest: Any, **named: Any) -> int:
    """Return the operations of a linear layer by the shapes of its arguments."""
    return 2 * math.prod(rows) * weight[0]


def operations(counter: FlopCounterMode) -> float:
    """Return the operations counted of all matrix products but attention's own."""
    return float(
        sum(
            count
            for operation, count in counter.get_flop_counts()["Global"].items()
            if "attention" not in str(operation)
        )
    )


def peak() -> float:
    """Return the operations a second of a large float32 matrix product."""
    left, right = torch.rand(PEAK_SIZE, PEAK_SIZE), torch.rand(PEAK_SIZE, PEAK_SIZE)
    left @ right
    seconds = min(timed(lambda: left @ right)[0] for _ in range(3))
    return 2.0 * PEAK_SIZE**3 / seconds


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = perf_counter()
    result = run()
    return perf_counter() - began, result


def by_rows(hidden: int) -> dict[int, float]:
    """Return the operations a second of a feed-forward block by the rows that it takes at once.

    Were it to rise on beyond the rows of a batch, siblings should be stacked into larger products.
    """
    first, second = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
    block = nn.Sequential(PackedLinear(first, gelu=True), PackedLinear(second))
    found = {}
    with torch.inference_mode():
        for rows in ROWS:
            some = torch.randn(rows, hidden)
            block(some)
            seconds = statistics.median(timed(lambda x=some: block(x))[0] for _ in range(9))
            found[rows] = 2.0 * rows * hidden * 8 * hidden / seconds
    return found


def compare(
    model: Any, data: BatchedData, parent: HeadSet, children: list[HeadSet], repetitions: int
) -> dict[str, Any]:
    """Time the three ways of scoring a parent's children."""
    evaluator = Evaluator(rebuild(bundle(model)), data.batches)
    shape, wide, span = evaluator.shape, padded(data.batches), Span(0, len(data.batches))
    picked = sample_of(shape, parent, children)
    times: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    peaks = []

    def score() -> np.ndarray:
        evaluator.cache = ParentCache(DEFAULT_CACHE_BYTES)
        return evaluator.outputs(parent, children, span)

    onednn: Any = torch.ops.mkldnn._linear_pointwise
    counter = FlopCounterMode(display=False, custom_mapping={onednn: of_linear})
    with counter:  # and warms up
        found = score()
    every = [plain_outputs(model, data.batches, child) for child in children]
    for _ in range(repetitions):
        peaks.append(peak())
        seconds, plain = timed(lambda: [plain_outputs(model, wide, children[i]) for i in picked])
        times["a"].append(seconds / len(picked))
        seconds, short = timed(
            lambda: [plain_outputs(model, data.batches, children[i]) for i in picked]
        )
        times["b"].append(seconds / len(picked))
        seconds, again = timed(score)
        times["c"].append(seconds / len(children))
        assert (again == found).all()
    worst = max(
        float(np.abs(found - np.stack(every)).max()),
        float(np.abs(found[picked] - np.stack(plain)).max()),
        float(np.abs(found[picked] - np.stack(short)).max()),
    )
    same = bool(
        (found.argmax(-1) == np.stack(every).argmax(-1)).all()
        and (found[picked].argmax(-1) == np.stack(plain).argmax(-1)).all()
    )
    effect = float(np.abs(found - evaluator.outputs(parent, [parent], span)).max())
    assert worst <= 1e-5, worst
    assert same
    assert effect > 1e-3, effect
    done = operations(counter)
    needed = least(model, shape, data.batches, children)

    def ratio(other: str) -> float:
        return statistics.median(x / c for x, c in zip(times[other], times["c"], strict=True))

    each = [done / len(children) / seconds for seconds in times["c"]]
    return {
        "children": len(children),
        "removed": len(parent),
        "seconds_a_mask": times,
        "masks_a_second": {way: 1 / statistics.median(times[way]) for way in times},
        "over_a": ratio("a"),
        "over_b": ratio("b"),
        "operations_over_least": done / needed,
        "share_of_peak": statistics.median(x / y for x, y in zip(each, peaks, strict=True)),
        "peak_gigaflops": statistics.median(peaks) / 1e9,
        "largest_difference": worst,
        "largest_effect": effect,
        "cache_mb": evaluator.cache.used_bytes / 1e6,
        "process_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--removed", type=float, nargs="*", default=REMOVED)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--rows-only", action="store_true", help="only the speed of products by their rows"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.rows_only:
        speeds = {name: by_rows(SHAPES[name][2]) for name in options.models}
        print(json.dumps(speeds))
        options.out.write_text(json.dumps({**provenance(), "speeds": speeds}, indent=1) + "\n")
        return
    rows: list[dict[str, Any]] = []
    for name in options.models:
        model, data = load(name, options.assets)
        tokens = sum(int(batch.arrays["attention_mask"].sum()) for batch in data.batches)
        shape = head_map(model)
        for share in options.removed:
            parent = parent_of(shape, share)
            for work, children in (
                ("single removals", singles_of(shape, parent)),
                ("macro ladder", ladder_of(shape, parent)),
            ):
                row = {
                    "model": name,
                    "work": work,
                    "share_removed": share,
                    "examples": data.examples,
                    "tokens": tokens,
                    "padding": data.padding_waste,
                    "padding_at_128": 1 - tokens / (PADDED * data.examples),
                    **compare(model, data, parent, children, options.repetitions),
                }
                rows.append(row)
                print(
                    json.dumps({k: v for k, v in row.items() if k != "seconds_a_mask"}), flush=True
                )
                options.out.write_text(json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
