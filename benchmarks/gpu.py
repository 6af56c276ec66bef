"""How fast a GPU scores HeadSets of a model of BERT-large's shape, and a whole search there.

    python -m benchmarks.gpu OUT.json [--parts products scoring search …]       (some minutes)

The model is random, of BERT-large's shape, its weights are spread so that heads matter; the
data are 9,815 random sequences of 40 tokens on average, as many as
MNLI's validation set has. Parts:

products: the speed of a layer's products by their rows, against that of a product of 8,192-cubed
    bfloat16 matrices; which of them sum alike; what each step of a layer takes.
scoring: single removals and macro moves, from the full model and from one with half of its heads
    removed: seconds, and the share of that peak, by the least arithmetic there can be; beside them
    loops of the stock forward in the same dtype, over batches of similar length and padded to 128
    tokens. Checked: in float32 all logits are the stock forward's; scores don't depend, to the last
    bit, on parents, siblings or the examples beside them; removed heads have an effect.
search: a search to the end with a budget of 1 point. Right answers are the model's own, but for
    every tenth example. Its best state is verified by the stock forward in float32.
reckoned: where there is no time for that, or the random model is of no use: a search whose answers
    come from a surrogate (`benchmarks/scaling.py`, two classes), with the coordinator's own time as
    it is on this machine, and that of the GPU as `--costs` says it was measured: each state costs
    what a macro move from the full model does, and its share of that where it is given up early.

Needs neither ray nor datasets, but for the last part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.common import commit, processor, provenance
from benchmarks.throughput import least, padded, parent_of, singles_of
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Done, Event, Plan, Up
from headsearch.engine.inline import InlineWorkers
from headsearch.engine.worker import independent, make_evaluator
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.model.bundle import ModelBundle, bundle, rebuild
from headsearch.model.families import head_map
from headsearch.model.plain import plain_outputs
from headsearch.scoring import attention
from headsearch.scoring.base import DTYPES
from headsearch.scoring.cache import ParentCache
from headsearch.scoring.contexts import Contexts
from headsearch.scoring.evaluator import Evaluator
from headsearch.scoring.item import GRADIENTS
from headsearch.scoring.packing import Packing
from headsearch.scoring.wide import SIZES, tried
from headsearch.search.astar import Settings, search
from headsearch.search.problem import Ask, Problem
from headsearch.task.batches import Batch, BatchedData, Span, gather, tokenise
from headsearch.task.data import Examples
from headsearch.task.metric import make_objective
from headsearch.task.shards import lay_out

EXAMPLES, MEAN_TOKENS = 9_815, 40
SPREAD = 0.45  # of the logarithm of lengths: from 10 to 100 tokens
SHAPE = (24, 16, 1024)
SMALL = (4, 4, 64)  # to try the script out
PEAK_SIZE = 8192
BUDGET = 0.01
WRONG = 10  # every so many examples
REPETITIONS = 5
REPEATED = 10
BASELINE_EXAMPLES = 2048
BASELINE_BATCH = 256
CHILDREN = 24  # that are timed


class Ids:
    """A tokenizer whose texts are token ids already."""

    model_max_length, pad_token_id, unk_token_id, is_fast = 512, 0, None, True
    all_special_ids: tuple[int, ...] = ()

    def __call__(self, texts: list[list[int]], **options: Any) -> dict[str, Any]:
        return {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]}


def make_model(shape: tuple[int, int, int]) -> nn.Module:
    """Return a random model; its heads matter more than those of a newly made one."""
    torch.manual_seed(0)
    layers, heads, hidden = shape
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
        )
    )
    with torch.no_grad():
        for block in model.bert.encoder.layer:
            for linear in (block.attention.self.query, block.attention.self.key):
                linear.weight.mul_(2.0)
            block.attention.output.dense.weight.mul_(2.0)
    return model.eval()


def make_data(examples: int) -> BatchedData:
    dice = np.random.default_rng(0)
    lengths = np.exp(dice.normal(0, SPREAD, examples))
    lengths = np.clip(np.rint(lengths * MEAN_TOKENS / lengths.mean()), 5, 128).astype(int)
    texts = [dice.integers(1000, 30_000, length).tolist() for length in lengths]
    return tokenise(Examples(texts, None, np.arange(examples) % 2), Ids())


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str, repetitions: int = REPETITIONS) -> float:
    """Return the median time of something that was done once before."""
    run()
    wait(device)
    taken = []
    for _ in range(repetitions):
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def repeated(run: Callable[[], Any]) -> Callable[[], None]:
    """Return something done so often that waiting for the device hardly counts."""

    def several() -> None:
        for _ in range(REPEATED):
            run()

    return several


def peak(device: str, dtype: torch.dtype, size: int) -> float:
    """Return the operations a second of a large matrix product of random numbers."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return REPEATED * 2.0 * size**3 / seconds(repeated(lambda: left @ right), device)


@torch.inference_mode()
def products(parts: ModelBundle, data: BatchedData, device: str, dtype: str) -> dict[str, Any]:
    """See the module."""
    size = PEAK_SIZE if device == "cuda" else 256
    evaluator = Evaluator(
        rebuild(parts), data.batches, dtype=dtype, device=device, wide=True, cache_bytes=0
    )
    layers = evaluator._layers
    wait(device)
    began = time.perf_counter()
    found = tried(layers)
    wait(device)
    result: dict[str, Any] = {
        "peak_teraflops": peak(device, DTYPES[dtype], size) / 1e12,
        "sizes_that_sum_alike": found.sizes,
        "any_heads": found.any_heads,
        "trying_seconds": time.perf_counter() - began,
        "wide": evaluator._wide,
        "independent": evaluator.independent,
        "varlen": attention.VARLEN is not None,
    }
    layer, hidden = layers[1], layers[1].qkv_weight.shape[-1]
    every = tuple(range(len(layer.qkv_weight)))
    by_rows = {}
    apart = replace(layer, by_head=True)
    for rows in (*SIZES, 2 * max(SIZES)):
        some = torch.randn(rows, hidden, device=device, dtype=DTYPES[dtype])
        context = torch.randn(rows, len(every), layer.head_size, device=device).to(some)
        by_rows[rows] = {
            name: REPEATED
            * size
            * 2.0
            * rows
            * hidden
            * hidden
            / seconds(repeated(run), device)
            / 1e12
            for name, size, run in (
                ("qkv", 3, partial(layer.query_key_value, some, every)),
                ("qkv_head_by_head", 3, partial(apart.query_key_value, some, every)),
                ("output", 1, partial(layer.project, context, every)),
                ("finish", 8, partial(layer.finish, some, some)),
            )
        }
    result["teraflops_by_rows"] = by_rows
    batch = next(gather(data.batches, np.arange(data.examples), (1024, max(SIZES))))
    packing = Packing(batch, evaluator._device, evaluator._filling)
    some = torch.randn(len(packing.examples), hidden, device=device, dtype=DTYPES[dtype])
    query, key, value = layer.query_key_value(some, every).unbind(2)
    contexts = Contexts(every, layer.attend(some, every, packing, None))

    def loop() -> None:
        kept, attention.VARLEN = attention.VARLEN, None
        layer.attend(some, every, packing, None)
        attention.VARLEN = kept

    scale = layer.head_size**-0.5
    result["milliseconds"] = {
        "rows": len(some),
        "tokens": packing.rows,
        "lengths": len(packing.runs),
        "attention": 1e3
        * seconds(lambda: attention.attention(query, key, value, packing, scale=scale), device),
        "attend": 1e3 * seconds(lambda: layer.attend(some, every, packing, None), device),
        "attend_run_by_run": 1e3 * seconds(loop, device),
        "all_contexts": 1e3 * seconds(lambda: contexts.pick(every), device),
        "all_but_one_context": 1e3
        * seconds(lambda: contexts.pick((*every[:3], *every[4:])), device),
        "first_tokens": 1e3
        * seconds(lambda: layer.attend_first_by_keys(some, packing, None), device),
    }
    for name, run in (("finish", layer.finish), ("finish_compiled", torch.compile(layer.finish))):
        began = time.perf_counter()
        try:
            run(some, some)
            wait(device)
        except Exception as error:  # no compiler there
            result["compile_error"] = repr(error)[:300]
            continue
        result[f"{name}_first_seconds"] = time.perf_counter() - began
        taken = seconds(partial(run, some, some), device)
        result["milliseconds"][name] = 1e3 * taken
    if device == "cuda":
        pinned = torch.empty(1 << 28, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(pinned, device=device)
        taken = seconds(lambda: there.copy_(pinned, non_blocking=True), device)
        result["pinned_to_gpu_gb_a_second"] = len(pinned) / taken / 1e9
    return result


def some_children(shape: HeadMap, parent: HeadSet) -> list[HeadSet]:
    """Return as many single removals, evenly from all layers, as are timed."""
    singles = singles_of(shape, parent)
    return [singles[i] for i in np.linspace(0, len(singles) - 1, CHILDREN).astype(int)]


def moves_of(shape: HeadMap, parent: HeadSet) -> list[HeadSet]:
    """Return macro moves as proposals are: some heads of all layers are taken, some put back."""
    dice = np.random.default_rng(2)
    return [
        parent
        ^ HeadSet.of(dice.choice(shape.total, max(1, shape.total // 30), replace=False).tolist())
        for _ in range(8)
    ]


def scoring(
    model: nn.Module, parts: ModelBundle, data: BatchedData, device: str, dtype: str
) -> dict[str, Any]:
    """See the module."""
    evaluator = make_evaluator(
        parts, data, dtype=dtype, gpus=float(device == "cuda"), cache_bytes=None
    )
    assert isinstance(evaluator, Evaluator)
    shape, every = evaluator.shape, Span(0, len(data.batches))
    most = peak(device, DTYPES[dtype], PEAK_SIZE if device == "cuda" else 256)
    result: dict[str, Any] = {"peak_teraflops": most / 1e12, "rows": []}
    for removed in (0.0, 0.5):
        parent = parent_of(shape, removed)
        for name, children in (
            ("the parent", [parent]),
            ("single removals", some_children(shape, parent)),
            ("macro moves", moves_of(shape, parent)),
        ):
            evaluator.cache = ParentCache(evaluator.cache.limit_bytes)
            flops = least(model, shape, data.batches, [parent, *children])
            began = time.perf_counter()
            found = evaluator.outputs(parent, children, every)
            first = time.perf_counter() - began
            # Again with the parent's trace there, as far as it was kept.
            began = time.perf_counter()
            again = evaluator.outputs(parent, children, every)
            taken = time.perf_counter() - began
            assert (again == found).all()
            result["rows"].append(
                {
                    "work": name,
                    "removed": removed,
                    "children": len(children),
                    "seconds": first,
                    "seconds_a_child": first / len(children),
                    "seconds_with_the_parent_kept": taken,
                    "share_of_peak": flops / first / most,
                    "cache_gb": evaluator.cache.used_bytes / 1e9,
                }
            )
            print(json.dumps(result["rows"][-1]), flush=True)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        evaluator.cache = ParentCache(evaluator.cache.limit_bytes)
        began = time.perf_counter()
        evaluator.gradients(parent, every)
        result["rows"].append(
            {"work": "gradients", "removed": removed, "seconds": time.perf_counter() - began}
        )
        if device == "cuda":
            result["rows"][-1]["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        print(json.dumps(result["rows"][-1]), flush=True)
    result["independence"] = check_independence(evaluator, data)
    result["baselines"] = baselines(model, evaluator, data, device, dtype)
    return result


def check_independence(evaluator: Evaluator, data: BatchedData) -> dict[str, Any]:
    """Scores must not depend on parents, siblings or examples beside, to the last bit."""
    shape, dice = evaluator.shape, np.random.default_rng(3)
    half = parent_of(shape, 0.5)
    states = [*moves_of(shape, half)[:2], half.add(next(j for j in range(99) if j not in half))]
    whole = evaluator.outputs(half, states, Span(0, len(data.batches)))
    alone = evaluator.outputs(states[0], [states[0]], Span(0, len(data.batches)))
    assert (alone[0] == whole[0]).all()
    assert (evaluator.outputs(HeadSet(), states, Span(0, 3)) == whole[:, : data.offsets[3]]).all()
    if evaluator.independent:
        for count in (1, 30, 500, 2500):
            some = dice.permutation(data.examples)[: min(count, data.examples)]
            lengths = data.lengths[some]
            some = some[np.argsort(lengths, kind="stable")]
            found = evaluator.outputs(half, states, some)
            assert (found == whole[:, some]).all(), count
    return {"states": len(states), "of_examples_too": evaluator.independent}


def baselines(
    model: nn.Module, evaluator: Evaluator, data: BatchedData, device: str, dtype: str
) -> dict[str, Any]:
    """Loops of the stock forward beside the evaluator, on some of the examples."""
    shape = evaluator.shape
    places = np.arange(data.examples)[:: max(1, data.examples // BASELINE_EXAMPLES)]
    places = places[np.argsort(data.lengths[places], kind="stable")]
    batches = list(gather(data.batches, places, (BASELINE_BATCH, 1 << 20)))
    wide: list[Batch] = padded(batches)
    plain = rebuild(bundle(model)).to(device, DTYPES[dtype])
    result: dict[str, Any] = {"examples": len(places)}
    for removed in (0.0, 0.5):
        parent = parent_of(shape, removed)
        children = some_children(shape, parent)
        child = children[len(children) // 2]
        evaluator.outputs(parent, children[:1], places)
        b = seconds(partial(plain_outputs, plain, batches, child), device, 3)
        a = seconds(partial(plain_outputs, plain, wide, child), device, 3)
        c = seconds(partial(evaluator.outputs, parent, children, places), device, 3)
        c /= len(children)
        result[f"{removed}"] = {
            "seconds_a_mask": {"a": a, "b": b, "c": c},
            "over_a": a / c,
            "over_b": b / c,
        }
    # Correctness in float32, and what the dtype changes.
    exact = rebuild(bundle(model)).to(device)
    child = parent_of(shape, 0.3)
    expected = plain_outputs(exact, batches, child)
    found = evaluator.outputs(HeadSet(), [child, HeadSet()], places)
    full = make_evaluator(
        bundle(model), data, dtype="float32", gpus=float(device == "cuda"), cache_bytes=0
    )
    in_float32 = full.outputs(HeadSet(), [child], places)[0]
    difference = float(np.abs(in_float32 - expected).max())
    assert difference < 1e-4, difference
    assert (in_float32.argmax(-1) == expected.argmax(-1)).mean() > 0.999
    assert np.abs(found[1] - found[0]).max() > 1e-3
    return result | {
        "largest_difference_float32": difference,
        "largest_logit": float(np.abs(expected).max()),
        "same_answers_float32": float((in_float32.argmax(-1) == expected.argmax(-1)).mean()),
        "largest_difference_dtype": float(np.abs(found[0] - expected).max()),
        "same_answers_dtype": float((found[0].argmax(-1) == expected.argmax(-1)).mean()),
        "largest_effect": float(np.abs(found[1] - found[0]).max()),
    }


def whole_search(
    model: nn.Module, parts: ModelBundle, data: BatchedData, device: str, dtype: str, limit: float
) -> dict[str, Any]:
    """See the module."""
    began = time.monotonic()
    gpus = float(device == "cuda")
    plain = rebuild(parts).to(device)
    own = plain_outputs(plain, data.batches, HeadSet()).argmax(-1)
    labels = np.where(np.arange(data.examples) % WRONG == 0, 1 - own, own)
    data = BatchedData(data.batches, labels, data.order)
    prepared = time.monotonic()
    plan = Plan(
        workers=1,
        most_workers=1,
        layout=lay_out(data, 1, independent(parts, data, dtype, gpus)),
        threads=None,
        gpus=gpus,
        dtype=dtype,
        cache_bytes=None,
    )
    workers = InlineWorkers(parts, data, plan)
    shape, objective = head_map(model), make_objective("accuracy", data.labels, 2)
    dispatcher = Dispatcher(workers, MemoryStore(), shape)
    problem = Problem(shape, objective, BUDGET, plan.layout.independent)
    computing, run = [0.0], workers.poll

    def poll(timeout: float) -> Any:
        start = time.monotonic()
        events = run(timeout)
        computing[0] += time.monotonic() - start
        return events

    workers.poll = poll  # type: ignore[method-assign]  # to time it

    def step(record: dict[str, Any]) -> None:
        known = {k: record[k] for k in ("best", "evaluations") if k in record}
        print(round(time.monotonic() - began, 1), json.dumps(known), flush=True)

    found = search(
        problem,
        dispatcher,
        Settings(),
        on_step=step,
        should_stop=lambda: "time limit" if time.monotonic() - began > limit else None,
    )
    searched = time.monotonic()
    best = max(found.candidates, key=lambda node: len(node.heads))
    score = objective.score(plain_outputs(plain, data.batches, best.heads))
    baseline = objective.score(plain_outputs(plain, data.batches, HeadSet()))
    wait(device)
    return {
        "heads": shape.total,
        "removed": len(best.heads),
        "metric": best.score.metric,
        "metric_float32": score.metric,
        "baseline_float32": baseline.metric,
        "verified": objective.threshold(baseline, BUDGET).feasible(score),
        "stopped": found.stopped,
        "evaluations": found.evaluations,
        "gradient_passes": found.gradients,
        "independent": plan.layout.independent,
        "seconds": {
            "labels": prepared - began,
            "search": searched - prepared,
            "of_it_computing": computing[0],
            "verification": time.monotonic() - searched,
        },
    }


def reckoned(costs: dict[str, Any], examples: int) -> dict[str, Any]:
    """See the module."""
    from benchmarks.scaling import Surrogate

    layers, heads, _ = SHAPE
    data, shape = make_data(examples), HeadMap((heads,) * layers)
    surrogate = Surrogate(shape, examples, 2, data)
    child = max(r["seconds_a_child"] for r in costs["rows"] if r["work"] == "macro moves")
    gradient = max(r["seconds"] for r in costs["rows"] if r["work"] == "gradients")
    plan = Plan(1, 1, lay_out(data, 1, independent=True), None, 1.0, "bfloat16", 0)
    spent = {"children": 0.0, "gradients": 0.0, "surrogate": 0.0}
    tokens = np.array(plan.layout.lengths)

    class Reckoning(InlineWorkers):
        def __init__(self) -> None:
            self.plan, self._calls, self._is_up, self._threads = plan, deque(), False, 1

        def poll(self, timeout: float) -> list[Event]:
            if not self._is_up:
                self._is_up = True
                return [Up(0)]
            if not self._calls:
                return []
            began = time.monotonic()
            (call, jobs), arrays = self._calls.popleft(), []
            for job in jobs:
                where = job.piece.where
                if isinstance(where, Span):
                    where = np.arange(data.offsets[where.first], data.offsets[where.stop])
                share = float(tokens[where].sum() / tokens.sum())
                ask = Ask(job.item.kind, job.item.parent, job.item.states)
                answers = [surrogate._answer(ask, state)[where] for state in job.item.states]
                arrays.append(np.stack(answers).astype(np.float32))
                kind = "gradients" if job.item.kind == GRADIENTS else "children"
                spent[kind] += share * len(answers) * (gradient if kind == "gradients" else child)
            spent["surrogate"] += time.monotonic() - began
            return [Done(call, arrays, time.monotonic() - began)]

    began = time.monotonic()
    found = search(
        Problem(shape, make_objective("accuracy", surrogate.labels, 2), BUDGET, True),
        Dispatcher(Reckoning(), MemoryStore(), shape),
        Settings(),
        on_step=lambda record: print(
            round(time.monotonic() - began), record["best"][0], record["evaluations"], flush=True
        ),
    )
    thinking = time.monotonic() - began - spent.pop("surrogate")
    return {
        "seconds_a_child": child,
        "seconds_a_gradient": gradient,
        "heads": shape.total,
        "removed": len(found.best.heads),
        "evaluations": found.evaluations,
        "gradient_passes": found.gradients,
        "stopped": found.stopped,
        "seconds": {**spent, "thinking": thinking, "sum": sum(spent.values()) + thinking},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="*", default=["products", "scoring", "search"])
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--small", action="store_true", help="a small model, to try this out")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds of a search at most")
    parser.add_argument("--costs", type=Path, help="reckon by these, an OUT.json of a GPU")
    options = parser.parse_args()
    if options.costs is not None:
        costs = json.loads(options.costs.read_text())
        result = reckoned(costs["scoring"], options.examples)
        print(json.dumps(result))
        options.out.write_text(json.dumps({**provenance(), **result}, indent=1) + "\n")
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, data = make_model(SMALL if options.small else SHAPE), make_data(options.examples)
    parts = bundle(model)
    results: dict[str, Any] = {
        "hardware": {
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "processor": processor(),
            "cores": torch.get_num_threads(),
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "commit": commit(),
        "dtype": options.dtype,
        "shape": SMALL if options.small else SHAPE,
        "examples": data.examples,
        "tokens": int(data.lengths.sum()),
    }
    for part in options.parts:
        began = time.monotonic()
        if part == "products":
            results[part] = products(parts, data, device, options.dtype)
            results["products_float32"] = products(parts, data, device, "float32")
        elif part == "scoring":
            results[part] = scoring(model, parts, data, device, options.dtype)
        else:
            results[part] = whole_search(model, parts, data, device, options.dtype, options.limit)
        print(part, round(time.monotonic() - began, 1), "s", json.dumps(results[part]), flush=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
