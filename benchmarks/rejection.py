"""How soon states that can't meet the threshold are given up.

    python -m benchmarks.rejection ASSETS OUT.json [--examples 600]    (one core, some ten minutes)

ASSETS is what `benchmarks/train_minilm.py` made. A search for MiniLM's heads that may go at a drop
of one point on Rotten Tomatoes snippets; then every state that was given up is scored to the end.
Reported are, of these states, the examples scored before they were given up, the share that their
parent gets wrong, and what would have been scored in the data's own order; and whether each of them
really misses the threshold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.common import provenance
from headsearch.engine.dispatch import Dispatcher
from headsearch.heads import HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.run.config import RunConfig
from headsearch.run.engines import choose, start
from headsearch.run.prepare import load_task
from headsearch.search.astar import Settings, search
from headsearch.search.problem import OUTPUTS, Ask, Problem, Ready


class Watched:
    """An oracle that notes which states were given up, under which parent, and after how many."""

    def __init__(self, inner: Dispatcher, examples: int) -> None:
        self._inner, self._examples = inner, examples
        self.given_up: list[tuple[HeadSet, HeadSet, int]] = []
        self.decided = 0

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        answers = self._inner.ask(asks, ahead, ready)
        for ask, found in zip(asks, answers, strict=True):
            if ask.decide is None:
                continue
            self.decided += len(found)
            for state, outputs in zip(ask.states, found, strict=True):
                if len(outputs) < self._examples:
                    self.given_up.append((ask.parent, state, len(outputs)))
        return answers


def measure(assets: Path, examples: int, max_drop: float) -> dict[str, Any]:
    config = RunConfig(
        model=str(assets / "model"),
        data=str(assets / "search.csv"),
        engine="inline",
        threads_per_worker=1,
        max_examples=examples,
    )
    task = load_task(config)
    workers = start(choose(config, task), config, task)
    layout, objective, total = workers.plan.layout, task.objective, task.data.examples
    assert layout.independent, "this processor's products do not allow for another order"
    dispatcher = Dispatcher(workers, MemoryStore(), task.shape)
    watched = Watched(dispatcher, total)
    began = perf_counter()
    result = search(
        Problem(task.shape, objective, max_drop, hardest_first=True), watched, Settings()
    )
    seconds = perf_counter() - began
    ends = [layout.offsets[span.stop] for span in layout.rounds]
    children = []
    for parent, state, scored in watched.given_up:
        ((above, outputs),) = dispatcher.ask([Ask(OUTPUTS, parent, (parent, state))])
        score = objective.score(outputs)
        assert not result.threshold.feasible(score), "a decision was wrong"
        own_order = next(
            end
            for end in ends
            if not objective.in_reach(outputs[:end], np.arange(end), result.threshold)
        )
        children.append(
            {
                "heads_removed": len(state),
                "correct": score.correct,
                "scored": scored / total,
                "parent_wrong": 1 - objective.score(above).correct / total,
                "scored_in_own_order": own_order / total,
            }
        )
    workers.close()

    def mean(name: str) -> float:
        return float(np.mean([child[name] for child in children]))

    return {
        "examples": total,
        "baseline": result.baseline.score.correct,
        "threshold": result.threshold.correct,
        "heads_removed": result.best.weight,
        "evaluations": result.evaluations,
        "seconds": seconds,
        "decided_early": watched.decided,
        "given_up": len(children),
        "scored": mean("scored"),
        "parent_wrong": mean("parent_wrong"),
        "ratio": mean("scored") / mean("parent_wrong"),
        "scored_in_own_order": mean("scored_in_own_order"),
        "children": children,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--max-drop", type=float, default=0.01)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.assets, options.examples, options.max_drop)
    print(json.dumps({k: v for k, v in found.items() if k != "children"}))
    options.out.write_text(json.dumps({**provenance(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
