"""Heads removed within a budget: headsearch against every baseline, on the same evaluator and memo.

    python -m benchmarks.quality PAIRS PAIR SEED [--budget 0.01] [--method NAME …] [--examples N]
        [--evaluations N]

PAIRS is the folder where `python -m benchmarks.pairs PAIR PAIRS` made the pair, SEED deals its
splits. headsearch runs first; every baseline may spend as many evaluations as it did, and gradients
without limit. A method named `NAME-whole` is that baseline without a limit. What is there already
in `results/quality/PAIR-SEED.json` is not run again, so the benchmark can be stopped and gone on
with; every entry says on which machine and commit it was made, and in seconds what it took beyond
what the memo had. `--examples` searches on the first few of the search split, for methods that cost
too much on all; that goes to `PAIR-SEED-of-N.json` in `results/quality_few`. `--evaluations` ends
headsearch's search after so many.

All methods search on the search split. Of the state that each hands back, metric and loss are also
taken on the certify and test splits, which nothing chose by; and of headsearch's mildest safer
point (see `headsearch.search.points`) of at least as many heads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import provenance
from benchmarks.pairs.splits import splits
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.inline import InlineWorkers
from headsearch.heads import HeadSet
from headsearch.memo.sqlite import SqliteStore
from headsearch.run.config import RunConfig
from headsearch.run.engines import choose
from headsearch.run.prepare import Task, load_task
from headsearch.scoring.evaluator import Evaluator
from headsearch.search.astar import Settings, search
from headsearch.search.baselines import BASELINES, run_baseline
from headsearch.search.ledger import finite
from headsearch.search.points import feasible_points
from headsearch.search.problem import GRADIENTS, Ask, Node, Oracle, Problem, Ready
from headsearch.task.batches import Span
from headsearch.task.metric import Objective

RESULTS = Path(__file__).parent / "results" / "quality"
FEW = RESULTS.with_name("quality_few")
OURS = "headsearch"
WHOLE = "-whole"
DRAWS = 400  # of the bootstrap
BUDGETS = (0.0, 0.005, 0.01, 0.02)
# Of the cheap ones first, so that a benchmark that is stopped has most of them.
ORDER = (
    "michel",
    "fisher",
    "bertology",
    "michel-10-steps",
    "random",
    "michel-18-steps",
    "evolution-from-michel",
    "evolution",
    "beam-8",
    "budget-rule",
    "loss-greedy",
    "metric-greedy",
    "michel-every-head",
)


WHOLES = tuple(f"{name}{WHOLE}" for name in ORDER)


class Remembering:
    """An oracle whose gradients are computed once for all methods; each is counted for each.

    Scores are in the memo; gradients are kept in a folder, as the benchmark may be gone on with.
    """

    def __init__(self, inner: Oracle, folder: Path) -> None:
        self._inner, self._folder = inner, folder
        self.gradients = 0  # asked for since the method began
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, ask: Ask) -> Path:
        return self._folder / f"{ask.parent.bits:x}.npy"

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        """See `Oracle.ask`; looks at nothing ahead, as all work is done here."""
        self.gradients += sum(ask.kind == GRADIENTS for ask in asks)
        found: list[list[np.ndarray] | None] = [
            [np.load(self._file(a))] if a.kind == GRADIENTS and self._file(a).exists() else None
            for a in asks
        ]
        new = [place for place, answer in enumerate(found) if answer is None]
        answers = self._inner.ask([asks[place] for place in new], tuple, ready) if new else []
        for place, answer in zip(new, answers, strict=True):
            found[place] = answer
            if asks[place].kind == GRADIENTS:
                aside = self._folder / f"aside-{os.getpid()}.npy"
                np.save(aside, answer[0])
                aside.rename(self._file(asks[place]))
        return [answer for answer in found if answer is not None]


@dataclass
class Arena:
    """A pair under one deal of its splits."""

    task: Task
    oracle: Remembering
    others: dict[str, tuple[Task, Evaluator]]
    groups: dict[str, np.ndarray]  # (examples,) of the others: numbers of films, texts, threads, …
    hardest_first: bool
    outputs: dict[str, np.ndarray] = field(default_factory=dict)  # of the full model, elsewhere

    def problem(self, budget: float) -> Problem:
        """The problem at one budget."""
        return Problem(self.task.shape, self.task.objective, budget, self.hardest_first)

    def elsewhere(self, heads: HeadSet) -> dict[str, dict[str, float | None]]:
        """Metric and loss of a state on the splits that no method saw.

        With the standard error of the metric's fall from the full model's, and the number of
        groups that it takes for independent draws.
        """
        scores = {}
        for name, (task, evaluator) in self.others.items():
            every = Span(0, len(task.data.batches))
            if name not in self.outputs:
                (self.outputs[name],) = evaluator.outputs(HeadSet(), [HeadSet()], every)
            (outputs,) = evaluator.outputs(HeadSet(), [heads], every)
            score, groups = task.objective.score(outputs), self.groups[name]
            scores[name] = {
                "metric": score.metric,
                "loss": finite(score.loss),
                "error": standard_error(task.objective, self.outputs[name], outputs, groups),
                "groups": int(groups.max()) + 1,
            }
        return scores


def arena(
    pairs: Path, pair: str, seed: int, memos: Path, examples: int | None = None
) -> tuple[Arena, InlineWorkers]:
    """Load a pair; every split is written to a table of its own, as a user's data would be."""
    stem = deal(pair, seed, examples)
    about = json.loads((pairs / pair / "pair.json").read_text())
    configs, tasks, groups = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip(
            ("search", "certify", "test"), splits(pairs / pair, seed), strict=True
        ):
            file = Path(folder) / f"{name}.csv"
            rows.iloc[: examples if name == "search" else None].to_csv(file, index=False)
            config = RunConfig(
                model=str(pairs / pair / "model"),
                data=str(file),
                metric=about["metric"],
                max_length=about["max_length"],
                engine="inline",
            )
            configs.append(config)
            tasks.append(load_task(config))
            keys = rows["group"] if "group" in rows else pd.Series(rows.index)
            groups.append(pd.factorize(keys)[0][tasks[-1].data.order])
    task = tasks[0]
    plan = choose(configs[0], task).plan
    workers = InlineWorkers(task.bundle, task.data, plan)
    memos.mkdir(parents=True, exist_ok=True)
    memo = SqliteStore(memos / f"{stem}.sqlite", task.fingerprint)
    gradients = memos / f"{stem}-gradients-{task.fingerprint[:16]}"
    oracle = Remembering(Dispatcher(workers, memo, task.shape), gradients)
    device = "cuda" if plan.gpus else "cpu"
    others = {
        name: (other, Evaluator(other.model, other.data.batches, device=device))
        for name, other in zip(("certify", "test"), tasks[1:], strict=True)
    }
    of_others = dict(zip(others, groups[1:], strict=True))
    return Arena(task, oracle, others, of_others, plan.layout.independent), workers


def standard_error(
    objective: Objective, before: np.ndarray, after: np.ndarray, groups: np.ndarray
) -> float:
    """Return the standard error of how far a metric falls, by a paired bootstrap over groups.

    Examples of a film or a thread fall together, so that single ones are no independent draws.

    Args:
        objective: metric and labels.
        before, after: outputs of the same examples, (examples, classes).
        groups: the number of each example's group, (examples,).
    """
    members = [np.flatnonzero(groups == number) for number in range(int(groups.max()) + 1)]
    random, falls = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = np.concatenate(
            [members[n] for n in random.integers(len(members), size=len(members))]
        )
        of_these = replace(objective, labels=objective.labels[drawn])
        falls.append(of_these.score(before[drawn]).metric - of_these.score(after[drawn]).metric)
    return round(float(np.std(falls)), 5)


def deal(pair: str, seed: int, examples: int | None) -> str:
    """What a deal of a pair is called in file names."""
    return f"{pair}-{seed}" + (f"-of-{examples}" if examples else "")


def on_search(of: Arena, node: Node, baseline: Node) -> dict[str, Any]:
    """What is said of a state on the search split."""
    return {
        "heads": node.weight,
        "removed": of.task.shape.pairs(node.heads),
        "search": {"metric": node.score.metric, "loss": finite(node.score.loss)},
        "drop": baseline.score.metric - node.score.metric,
    }


def state(of: Arena, node: Node, baseline: Node) -> dict[str, Any]:
    """What is said of a state on all splits."""
    return {**on_search(of, node, baseline), **of.elsewhere(node.heads)}


def ours_at(methods: dict[str, dict[str, Any]], heads: int) -> dict[str, Any]:
    """Return headsearch's mildest safer point of at least so many heads, or its best state."""
    best = methods[OURS]
    # Searches of before there were safer points have operating points alone.
    points = [p for p in best.get("safer", best["points"]) if p["heads"] >= heads]
    mildest = min(points, key=lambda point: point["heads"], default=best)
    return best if mildest["heads"] == best["heads"] else mildest


def complete(of: Arena, methods: dict[str, Any]) -> None:
    """Take metric and loss of headsearch's points beside baselines on the other splits too."""
    for entry in methods.values():
        for point in (entry, ours_at(methods, entry["heads"])):
            if "groups" not in point.get("test", {}):
                point |= of.elsewhere(of.task.shape.from_pairs(point["removed"]))


def ours(of: Arena, budget: float, evaluations: int | None) -> dict[str, Any]:
    """Run headsearch as it is by default, or within so many evaluations."""
    steps = Steps(of.oracle)
    started = time.monotonic()
    result = search(
        of.problem(budget), of.oracle, Settings(max_evaluations=evaluations), on_step=steps.note
    )
    seconds = time.monotonic() - started
    return {
        **state(of, result.best, result.baseline),
        "total": of.task.shape.total,
        "baseline": state(of, result.baseline, result.baseline),
        "evaluations": result.evaluations,
        "gradients": result.gradients,
        "seconds": round(seconds, 1),
        "stopped": result.stopped,
        "growth": steps.growth(of.task.data.examples),
        "points": [on_search(of, node, result.baseline) for node in result.points if node.feasible],
        "safer": [on_search(of, node, result.baseline) for node in result.safer],
    }


class Steps:
    """Notes how a method went."""

    def __init__(self, oracle: Remembering) -> None:
        self._steps: list[tuple[dict[str, Any], int]] = []
        self._oracle, oracle.gradients = oracle, 0

    def note(self, step: dict[str, Any]) -> None:
        """Note a committed step, and how many gradients were measured until then."""
        self._steps.append((step, self._oracle.gradients))

    def growth(self, examples: int) -> list[tuple[int, float, int]]:
        """Return when each number of heads was first removed within the budget.

        After how many evaluations and how many gradients. States count one by one in the order in
        which they were committed, as if none had been scored at the same time; the full model is
        one of them.
        """
        found, most, rows = list[tuple[int, float, int]](), -1, dict[str, int]()
        for step, gradients in self._steps:
            for bits, _, _, feasible, scored in step["scored"]:
                rows[bits] = scored
                heads = int(bits, 16).bit_count()
                if feasible and heads > most:
                    most = heads
                    found.append((heads, round(sum(rows.values()) / examples, 3), gradients))
        return found


def theirs(of: Arena, name: str, budget: float, evaluations: int | None) -> dict[str, Any]:
    """Run a baseline within so many evaluations."""
    steps = Steps(of.oracle)
    started = time.monotonic()
    outcome = run_baseline(
        BASELINES[name], of.problem(budget), of.oracle, evaluations, on_step=steps.note
    )
    ledger, seconds = outcome.ledger, time.monotonic() - started
    feasible = feasible_points(ledger.known.values())
    return {
        **state(of, ledger.best, ledger.baseline),
        "evaluations": ledger.evaluations,
        "gradients": len(ledger.measured),
        "seconds": round(seconds, 1),
        "stopped": outcome.stopped,
        "growth": steps.growth(of.task.data.examples),
        "points": [[node.weight, node.score.metric] for node in feasible],
    }


def table(done: dict[str, Any]) -> pd.DataFrame:
    """Heads removed, of all methods and budgets that were run."""
    return pd.DataFrame(
        {
            budget: {name: entry["heads"] for name, entry in methods.items()}
            for budget, methods in done.items()
        }
    )


def write(file: Path, done: dict[str, Any]) -> None:
    """Write all results of a deal, aside first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps(done) + "\n")
    aside.rename(file)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("pair")
    parser.add_argument("seed", type=int)
    parser.add_argument("--budget", type=float, action="append", choices=BUDGETS)
    parser.add_argument("--method", action="append", choices=(OURS, *ORDER, *WHOLES))
    parser.add_argument("--examples", type=int, help="search on so many of the search split")
    parser.add_argument("--evaluations", type=int, help="of headsearch's own search, at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for option, value in (("--examples", args.examples), ("--evaluations", args.evaluations)):
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1 but got {value}")
    out = args.out or (FEW if args.examples else RESULTS)
    file = out / f"{deal(args.pair, args.seed, args.examples)}.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    memos = args.pairs / "memos"
    of, workers = arena(args.pairs, args.pair, args.seed, memos, args.examples)
    for budget in args.budget or BUDGETS:
        methods = done.setdefault(str(budget), {})
        for name in dict.fromkeys((OURS, *(args.method or ORDER))):
            if "growth" in methods.get(name, {}):
                continue
            if name == OURS:
                entry = ours(of, budget, args.evaluations)
            else:
                limit = math.ceil(methods[OURS]["evaluations"])
                whole = name.endswith(WHOLE)
                entry = theirs(of, name.removesuffix(WHOLE), budget, None if whole else limit)
            methods[name] = {**entry, "made": provenance()}
            complete(of, methods)
            write(file, done)
            print(
                f"{args.pair} {args.seed} {budget:g} {name}: {entry['heads']} heads, "
                f"{entry['evaluations']:g} evaluations, {entry['gradients']} gradients, "
                f"{entry['seconds']:g} s",
                flush=True,
            )
        complete(of, methods)  # where entries of before have less
        write(file, done)
    print(table(done).to_string())
    workers.close()


if __name__ == "__main__":
    main()
