"""How the engine scales: measured on this machine, and simulated for up to 1,024 GPUs.

    python -m benchmarks.scaling real ASSETS OUT.json      (some 12 minutes a repetition)
    python -m benchmarks.scaling simulated OUT.json        (five minutes; needs 3 GB)
    python -m benchmarks.scaling plot SIMULATED.json OUT.svg          (needs matplotlib)

The coordinator alone is measured by `benchmarks/coordinator.py`.

`real` runs MiniLM (ASSETS is what `benchmarks/train_minilm.py` made) and a random model of
BERT-base's shape, on one thread a worker. In each repetition, one after the other: Ray with one
worker; one inline process, and two at once that know nothing of each other, whose rate is what the
machine can give; Ray with two workers, and with two on twice the data. Each is timed from its first
committed step to its last. The calls of each Ray run are recorded and a cost model is fitted
to them; the questions recorded in that run are asked again in simulation, over the same number of
workers, and compared with what it took. Two workers share this machine's memory and cores with
each other and all of Ray, so jobs take longer there than beside one worker; `simulated 2 from 1`
is what the costs of the one-worker run say of two, which leaves that out.

`simulated` records the questions of a search once for each model and data, answered by a surrogate
(every head changes each example's logits by a fixed amount), then asks them of the real dispatcher
and scheduler over simulated GPUs. The coordinator's own time, of search and dispatch, is real.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import provenance
from benchmarks.replay import CostModel, Log, Recorder, Watched, fit, replay
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Plan
from headsearch.heads import HeadMap, HeadSet
from headsearch.search.astar import Settings, search
from headsearch.search.guides import Michel
from headsearch.search.problem import GRADIENTS, Ask, Problem, Ready
from headsearch.search.rollouts import Rollout
from headsearch.task.batches import Batch, BatchedData, _cuts, round_of
from headsearch.task.metric import make_objective
from headsearch.task.shards import lay_out

# Real runs

REAL = {
    "MiniLM": Settings(rollouts=(Rollout(Michel(), 12),), patience=None, max_evaluations=90),
    "BERT-base": Settings(rollouts=(Rollout(Michel(), 12),), patience=None, max_evaluations=170),
}
# Examples of one worker's run. `--examples` and `--evaluations` give others: with few, an ask lasts
# a second or less, and what is lost at the end of each counts for more than in a real search.
SIZES = {"MiniLM": 160, "BERT-base": 12}


def task_of(model: str, assets: Path, examples: int) -> tuple[Any, BatchedData, HeadMap, Problem]:
    """Return bundle, data, shape and problem."""
    from headsearch.model.bundle import bundle

    if model == "MiniLM":
        from headsearch.model.checkpoint import load_model
        from headsearch.run.config import RunConfig
        from headsearch.run.prepare import load_data
        from headsearch.task.batches import tokenise

        config = RunConfig(
            model=str(assets / "model"), data=str(assets / "search.csv"), max_examples=examples
        )
        made, tokenizer = load_model(config.model)
        data = tokenise(load_data(config, made), tokenizer, batch_examples=8)
        shape = HeadMap((12,) * 6)
        objective = make_objective("accuracy", data.labels, 2)
        return bundle(made), data, shape, Problem(shape, objective, 0.05)
    import torch
    import transformers

    from headsearch.model.plain import plain_outputs

    torch.manual_seed(0)
    # A little wider than usual: with .02, all heads together hardly change a random model.
    shape_of = transformers.BertConfig(vocab_size=1000, initializer_range=0.03)
    made = transformers.BertForSequenceClassification(shape_of)
    lengths = np.sort(lognormal_lengths(examples, 24))
    data = batched(lengths, 2, tokens=True)
    outputs = plain_outputs(made.eval(), data.batches, HeadSet())
    # Its own answers are the labels, the classes equally many, so that heads matter.
    margin = outputs[:, 1] - outputs[:, 0]
    with torch.no_grad():
        made.classifier.bias[1] -= float(np.median(margin))
    labels = (margin > np.median(margin)).astype(np.int64)
    data = BatchedData(data.batches, labels, data.order)
    shape = HeadMap((12,) * 12)
    problem = Problem(shape, make_objective("accuracy", data.labels, 2), 0.1)
    return bundle(made), data, shape, problem


def one(
    model: str, assets: Path, engine: str, workers: int, examples: int, evaluations: int | None
) -> dict[str, Any]:
    """One timed search, in a process of its own."""
    import torch

    from headsearch.engine.inline import InlineWorkers
    from headsearch.run.engines import open_memo

    torch.set_num_threads(1)
    bundle, data, shape, problem = task_of(model, assets, examples)
    settings = REAL[model]
    if evaluations is not None:
        settings = replace(settings, max_evaluations=evaluations)
    plan = Plan(
        workers=workers,
        most_workers=workers,
        layout=lay_out(data, workers),
        threads=1,
        gpus=0,
        dtype="float32",
        cache_bytes=1 << 30,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memo.sqlite"
        if engine == "inline":
            inner: Any = InlineWorkers(bundle, data, plan)
        else:
            from headsearch.engine.ray_workers import RayWorkers

            inner = RayWorkers(bundle, data, plan)
        memo = open_memo(inner, path, "f")
        watched = Watched(inner)
        dispatcher = Dispatcher(watched, memo, shape)
        # Until all workers are up: what is asked here is asked by no search.
        number = 0
        while dispatcher.scheduler.live_workers < workers or number == 0:
            number += 1
            states = (HeadSet.of(range(shape.total - number, shape.total)),)
            dispatcher.ask([Ask("outputs", HeadSet(), states)])
        log = Log(shape, 2)
        recorder = Recorder(dispatcher, log)
        digest, began = hashlib.sha256(), 0.0

        def step(record: dict[str, Any]) -> None:
            nonlocal began
            began = began or time.perf_counter()
            digest.update(json.dumps(record).encode())

        result = search(problem, recorder, settings, on_step=step)
        seconds = time.perf_counter() - began
        recorder.end()
        memo.close()
        inner.close()
    found = {
        "engine": engine,
        "workers": workers,
        "examples": data.examples,
        "seconds": seconds,
        "evaluations": result.evaluations,
        "gradients": result.gradients,
        "computed_ahead": dispatcher.counts.speculative,
        "computed_ahead_and_used": dispatcher.counts.used,
        "busy_seconds": sum(call[2] for call in watched.calls),
        "think_seconds": log.think,
        "transcript": digest.hexdigest()[:16],
    }
    if engine == "ray":
        config = json.loads(bundle.config)
        trace = 8 * config["num_hidden_layers"] * config["hidden_size"]
        model_of_costs = fit(watched.calls, plan, trace)
        overhead = seconds - found["busy_seconds"] - log.think
        found["cost_model"] = asdict(model_of_costs)
        found["simulated"] = {}
        for count in {workers, 2}:
            other = Plan(**{**vars(plan), "workers": count, "layout": lay_out(data, count)})
            simulated = replay(log, other, model_of_costs, trace, send=RAY_SEND, latency=RAY_CALL)
            found["simulated"][str(count)] = simulated.seconds
        found["overhead_seconds"] = overhead
    return found


def real(
    assets: Path,
    out: Path,
    repetitions: int,
    models: Sequence[str],
    examples: int | None,
    evaluations: int | None,
    strong_only: bool,
) -> None:
    rows: list[dict[str, Any]] = []
    for repetition in range(repetitions):
        for model in models:
            size = examples or SIZES[model]

            def start(
                engine: str, workers: int, scale: int = 1, model: str = model, size: int = size
            ) -> Any:
                arguments = [model, str(assets), engine, str(workers), str(size * scale)]
                if evaluations is not None:
                    arguments += ["--evaluations", str(evaluations)]
                return subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.scaling", "one", *arguments],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                )

            def result(process: Any) -> dict[str, Any]:
                text, _ = process.communicate()
                if process.returncode:
                    raise SystemExit(process.returncode)
                return dict(json.loads(text.splitlines()[-1]))

            # A machine's speed drifts, so what is compared follows at once: one worker and one
            # process, two workers and two processes; every other time in the opposite order.
            found, both = dict[str, dict[str, Any]](), list[dict[str, Any]]()
            order = ["ray 1", "inline", "two inline", "ray 2"]
            for what in order if repetition % 2 == 0 else reversed(order):
                if what == "two inline":
                    both = [result(each) for each in [start("inline", 1), start("inline", 1)]]
                else:
                    found[what] = result(start(what.split()[0], 2 if what == "ray 2" else 1))
            if not strong_only:
                found["ray 2, twice the data"] = result(start("ray", 2, 2))
            assert len({found[key]["transcript"] for key in ("ray 1", "ray 2", "inline")}) == 1
            ceiling = sum(found["inline"]["seconds"] / each["seconds"] for each in both)
            speed_up = found["ray 1"]["seconds"] / found["ray 2"]["seconds"]
            rates = [
                found[key]["examples"]
                * (found[key]["evaluations"] + 4 * found[key]["gradients"])
                / found[key]["seconds"]
                for key in ("ray 1", "ray 2, twice the data")
                if key in found
            ]
            simulated = {key: found[key]["simulated"] for key in ("ray 1", "ray 2")}
            row = {
                "model": model,
                "repetition": repetition,
                "speed_up": speed_up,
                "machine_speed_up": ceiling,
                "share_of_the_machines": speed_up / ceiling,
                "weak_efficiency": None if strong_only else rates[1] / rates[0] / 2,
                "simulated_over_real_1": simulated["ray 1"]["1"] / found["ray 1"]["seconds"],
                "simulated_over_real_2": simulated["ray 2"]["2"] / found["ray 2"]["seconds"],
                "simulated_2_from_1_over_real_2": simulated["ray 1"]["2"]
                / found["ray 2"]["seconds"],
                "runs": {**found, "two inline": both},
            }
            rows.append(row)
            print({key: value for key, value in row.items() if key != "runs"}, flush=True)
            report = {**provenance(), "together": together(rows), "rows": rows}
            out.write_text(json.dumps(report, indent=1) + "\n")
    print(together(rows))


def together(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratios of all repetitions' seconds together, by model and examples."""
    found = []
    for model, size in sorted({(r["model"], r["runs"]["ray 1"]["examples"]) for r in rows}):
        runs = [
            r["runs"] for r in rows if (r["model"], r["runs"]["ray 1"]["examples"]) == (model, size)
        ]
        one, two, alone = (
            sum(run[what]["seconds"] for run in runs) for what in ("ray 1", "ray 2", "inline")
        )
        beside = sum(each["seconds"] for run in runs for each in run["two inline"])
        speed_up, ceiling = one / two, 4 * alone / beside
        found.append(
            {
                "model": model,
                "examples": size,
                "repetitions": len(runs),
                "speed_up": speed_up,
                "machine_speed_up": ceiling,
                "share_of_the_machines": speed_up / ceiling,
            }
        )
    return found


# Simulated clusters

# The coordinator's time for a call on Ray beside what the simulation measures, and the round trip.
# `benchmarks/coordinator.py` finds .29 (9,815 examples) and .47 milliseconds (872) with 64 actors.
RAY_SEND = 0.0004
RAY_CALL = 0.001


@dataclass(frozen=True)
class Shape:
    layers: int
    heads: int
    hidden: int

    @property
    def flops(self) -> float:
        """Of a position and a pass: the layers' matrix products, 24 hidden² for each."""
        return 24.0 * self.hidden**2 * self.layers

    @property
    def trace_bytes(self) -> int:
        """What the parent cache holds of a position: each layer's input and context, float32."""
        return 8 * self.layers * self.hidden


MODELS = {"BERT-base": Shape(12, 12, 768), "BERT-large": Shape(24, 16, 1024)}
# Examples, classes and median tokens: the validation sets of SST-2, MNLI and QQP.
DATA = {872: (2, 24), 9815: (3, 36), 40430: (2, 28)}
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
# Sustained floating point operations a second.
SPEED = 14e12  # about what an A100 sustains in float32 with TF32 off, or a T4 in half precision
OTHER_SPEEDS = (5e12, 60e12)
# Gradients are one forward pass and a backward pass for each class but one. Those need no gradients
# of weights: in the real runs one took .7 (BERT-base's shape) to 1.4 (MiniLM) forward passes.
BACKWARD = 1.4
CACHE_BYTES = 8 << 30  # `--cache-mb 8192`
SIMULATED = Settings(patience=None, max_expansions=4)


def lognormal_lengths(examples: int, median: int) -> np.ndarray:
    """Token counts like those of sentences."""
    drawn = np.random.default_rng(0).lognormal(np.log(median), 0.45, examples)
    return np.clip(drawn, 5, 128).astype(int)


def batched(lengths: np.ndarray, per_batch: int, tokens: bool = False) -> BatchedData:
    """Batches of inputs of these ascending lengths, in a task's order."""
    random = np.random.default_rng(1)
    groups = _cuts(lengths, per_batch, 4096)
    groups = [groups[i] for i in sorted(range(len(groups)), key=lambda i: (round_of(i), i))]
    batches = []
    for first, stop in groups:
        mask = np.arange(lengths[stop - 1]) < lengths[first:stop, None]
        ids = random.integers(5, 1000, mask.shape) if tokens else np.zeros(mask.shape, np.int64)
        batches.append(
            Batch({"input_ids": np.where(mask, ids, 0), "attention_mask": mask.astype(np.int64)})
        )
    labels = np.zeros(len(lengths), np.int64)
    return BatchedData(tuple(batches), labels, np.arange(len(lengths)))


class Surrogate:
    """An oracle whose logits are linear in the removed heads: what a search asks is plausible."""

    def __init__(
        self, shape: HeadMap, examples: int, classes: int, data: BatchedData, seed: int = 2
    ) -> None:
        random = np.random.default_rng(seed)
        self._base = random.normal(0, 3, (examples, classes)).astype(np.float32)
        strength = random.lognormal(-4.0, 1.2, shape.total).astype(np.float32)
        self._effects = random.normal(0, 1, (shape.total, examples, classes)).astype(np.float32)
        self._effects *= strength[:, None, None]
        labels = self._base.argmax(axis=1)
        wrong = random.random(examples) < 0.1
        self.labels = np.where(wrong, (labels + 1) % classes, labels)
        # A head helps, on the whole.
        self._effects[:, np.arange(examples), self.labels] -= 0.5 * strength[:, None]
        self._offsets, self._rounds = data.offsets, lay_out(data, 1).rounds

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        answers = [[self._answer(ask, state) for state in ask.states] for ask in asks]
        for ask, answer in zip(asks, answers, strict=True):
            for state, array in zip(ask.states, answer, strict=True):
                ready(state, array)
        return answers

    def _answer(self, ask: Ask, state: HeadSet) -> np.ndarray:
        if ask.kind == GRADIENTS:
            slopes = -self._effects.transpose(1, 2, 0)
            kept = np.array([j not in state for j in range(len(self._effects))])
            return np.ascontiguousarray(slopes * kept)
        outputs = self._base + self._effects[list(state)].sum(axis=0)
        for span in self._rounds[: -1 if ask.decide else 0]:
            assert ask.decide is not None
            part = outputs[: self._offsets[span.stop]]
            if not ask.decide(part, np.arange(len(part))):
                return part
        return np.asarray(outputs)


def record(model: str, examples: int) -> tuple[Log, BatchedData]:
    shape = HeadMap((MODELS[model].heads,) * MODELS[model].layers)
    classes, median = DATA[examples]
    data = batched(np.sort(lognormal_lengths(examples, median)), 64)
    surrogate = Surrogate(shape, examples, classes, data)
    recorder = Recorder(surrogate, Log(shape, classes))
    problem = Problem(shape, make_objective("accuracy", surrogate.labels, classes), 0.01)
    result = search(problem, recorder, SIMULATED)
    recorder.end()
    print(
        f"{model}, {examples} examples: {result.evaluations:.0f} evaluations, "
        f"{result.gradients} gradients, {result.best.weight} heads, "
        f"the search itself {recorder.log.think:.0f} s",
        flush=True,
    )
    return recorder.log, data


def simulated(out: Path, only: Sequence[str], examples_of: Sequence[int]) -> None:
    rows: list[dict[str, Any]] = []
    for model in only or MODELS:
        shape = MODELS[model]
        for examples in examples_of or DATA:
            log, data = record(model, examples)
            batches, heads = len(data.batches), log.shape.total
            speeds = [SPEED]
            if (model, examples) == ("BERT-large", 9815):
                speeds += OTHER_SPEEDS
            for speed in speeds:
                unit = shape.flops / speed
                costs = CostModel(unit, unit, (1 + BACKWARD * (log.classes - 1)) * unit)
                for gpus in GPUS:
                    plan = Plan(
                        workers=gpus,
                        most_workers=gpus,
                        layout=lay_out(data, min(gpus, batches)),
                        threads=1,
                        gpus=1,
                        dtype="float32",
                        cache_bytes=CACHE_BYTES,
                    )
                    took = replay(
                        log, plan, costs, shape.trace_bytes, send=RAY_SEND, latency=RAY_CALL
                    )
                    row = {
                        "model": model,
                        "examples": examples,
                        "teraflops": speed / 1e12,
                        "gpus": gpus,
                        "shards": plan.layout.shards,
                        "pieces": len(plan.layout.pieces),
                        "efficiency": took.ideal / (gpus * took.total),
                        "busy": took.busy / (gpus * took.total),
                        "useful": bool(gpus <= batches * heads // 32),
                        **asdict(took),
                        "think": log.think,
                    }
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    out.write_text(json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")


def plot(source: Path, out: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = json.loads(source.read_text())["rows"]
    pyplot.rcParams.update({"svg.hashsalt": "headsearch", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        for examples in DATA:
            line = [
                (row["gpus"], row["efficiency"])
                for row in rows
                if row["model"] == model
                and row["examples"] == examples
                and row["teraflops"] == SPEED / 1e12
            ]
            if line:
                gpus, efficiency = zip(*line, strict=True)
                axis.plot(gpus, efficiency, marker="o", ms=3, label=f"{examples:,} examples")
        axis.set(xscale="log", xlabel="GPUs", title=model, ylim=(0, 1.05))
        axis.set_xticks(GPUS, [str(n) for n in GPUS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("efficiency")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    command = commands.add_parser("real")
    command.add_argument("assets", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--repetitions", type=int, default=3)
    command.add_argument("--models", nargs="*", choices=list(SIZES), default=list(SIZES))
    command.add_argument("--examples", type=int)
    command.add_argument("--evaluations", type=int)
    command.add_argument("--strong-only", action="store_true", help="no run on twice the data")
    command = commands.add_parser("one")
    for name, kind in (("model", str), ("assets", Path), ("engine", str)):
        command.add_argument(name, type=kind)
    command.add_argument("workers", type=int)
    command.add_argument("examples", type=int)
    command.add_argument("--evaluations", type=int)
    command = commands.add_parser("simulated")
    command.add_argument("out", type=Path)
    command.add_argument("--models", nargs="*", default=[])
    command.add_argument("--examples", nargs="*", type=int, default=[])
    command = commands.add_parser("plot")
    command.add_argument("source", type=Path)
    command.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "real":
        real(
            options.assets,
            options.out,
            options.repetitions,
            options.models,
            options.examples,
            options.evaluations,
            options.strong_only,
        )
    elif options.command == "one":
        found = one(
            options.model,
            options.assets,
            options.engine,
            options.workers,
            options.examples,
            options.evaluations,
        )
        print(json.dumps(found))
    elif options.command == "simulated":
        simulated(options.out, options.models, options.examples)
    else:
        plot(options.source, options.out)


if __name__ == "__main__":
    main()
