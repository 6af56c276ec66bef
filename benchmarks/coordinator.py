"""The coordinator alone: null workers on Ray, so that all time is its own and Ray's.

    python benchmarks/coordinator.py OUT.json               (about five minutes on two cores)

For 1 to 64 actors it asks for all single removals of one parent after another, as an expansion
does: 384 heads (BERT-large), data of 9,815 or 872 examples in batches of 64, two classes, a memo on
disk behind the memo actor. The actors give back zeros at once. Reports items and HeadSets a
second, milliseconds a scored HeadSet (of wall time, which on a small machine is that of the actors
too, of the coordinator's processor time, and of its own thread's), and how the coordinator's memory
grows with the HeadSets scored, whose outputs it does not keep here.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.common import provenance
from headsearch.engine import dispatch
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Job, Plan
from headsearch.engine.ray_cluster import connect
from headsearch.engine.ray_memo import RayMemo, pack
from headsearch.engine.ray_workers import RayWorkers
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import Block
from headsearch.model.bundle import ModelBundle
from headsearch.search.problem import OUTPUTS, Ask
from headsearch.task.batches import Batch, BatchedData
from headsearch.task.shards import lay_out

SHAPE = HeadMap((16,) * 24)
CLASSES = 2


def rows_per_batch(examples: int) -> list[int]:
    return [min(64, examples - start) for start in range(0, examples, 64)]


class Null:
    """An actor that gives back zeros. Needs neither torch nor headsearch."""

    def __init__(self, name: str, model: Any, data: Any, plan: Any) -> None:
        self._rows = data["labels"]

    def up(self) -> int:
        return 0

    def run(self, jobs: list[Any]) -> Any:
        import numpy

        arrays = [
            numpy.zeros((len(children), int(self._rows[first:stop].sum()), 2), numpy.float32)
            for _, _, children, first, stop, _ in jobs
        ]
        return 1e-6, arrays


class NullWorkers(RayWorkers):
    actor = Null
    calls = 0

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        self.calls += 1
        super().send(slot, call, jobs)


def expansions(parents: int) -> Iterator[Ask]:
    """All single removals of so many states of two heads."""
    for number in range(parents):
        parent = HeadSet.of([number, number + 70])
        singles = tuple(parent.add(j) for j in range(SHAPE.total) if j not in parent)
        yield Ask(OUTPUTS, parent, singles)


def measure(actors: int, examples: int, parents: int, children: int | None) -> dict[str, Any]:
    if children is not None:
        dispatch.ITEM_CHILDREN = dispatch.MOST_CHILDREN = children
    rows = rows_per_batch(examples)
    batches = tuple(Batch({"input_ids": np.zeros((n, 40), np.int64)}) for n in rows)
    data = BatchedData(batches, np.zeros(examples, np.int64), np.arange(examples))
    sent = BatchedData((), np.array(rows), np.zeros(0))  # what the actors get
    shards = min(actors, len(rows))
    plan = Plan(
        workers=actors,
        most_workers=actors,
        layout=lay_out(data, shards),
        threads=1,
        gpus=0,
        dtype="float32",
        cache_bytes=0,
    )
    connect(None, cpus=actors)
    workers = NullWorkers(ModelBundle("", "", "", {}), sent, plan)
    with tempfile.TemporaryDirectory() as folder:
        memo = RayMemo(Path(folder) / "memo.sqlite", "null")
        dispatcher = Dispatcher(workers, memo, SHAPE)
        dispatcher.ask([Ask(OUTPUTS, HeadSet(), (HeadSet(),))])  # until the actors are up
        for number in itertools.count(1):  # every time another state: none is in the memo
            if dispatcher.scheduler.live_workers == actors:
                break
            time.sleep(0.2)
            dispatcher.ask([Ask(OUTPUTS, HeadSet(), (HeadSet(number << 300),))])
        jobs, calls, seconds = dispatcher.cutter.made, workers.calls, 0.0
        processor = thread = 0.0
        scored = 0
        memory: list[tuple[int, int]] = []
        for ask in expansions(parents):
            began, used, own = time.perf_counter(), time.process_time(), time.thread_time()
            dispatcher.ask([ask])
            seconds += time.perf_counter() - began
            processor += time.process_time() - used
            thread += time.thread_time() - own
            scored += len(ask.states)
            memo.count()  # waits until everything is stored: what is on its way is no growth
            gc.collect()
            memory.append((scored, resident()))
        memo.close()
        jobs, calls = dispatcher.cutter.made - jobs, workers.calls - calls
        workers.close()
    ray.shutdown()
    simulated = simulate(plan, parents)
    # The slope of a line through the second half; at first, Python's and Ray's pools still fill.
    half = np.array(memory[len(memory) // 2 :], dtype=float)
    growth = np.polyfit(half[:, 0], half[:, 1], 1)[0]
    return {
        "actors": actors,
        "examples": examples,
        "most_children_of_an_item": dispatch.MOST_CHILDREN,
        "shards": shards,
        "pieces": len(plan.layout.pieces),
        "head_sets": scored,
        "items": jobs,
        "calls": calls,
        "seconds": round(seconds, 3),
        "items_per_second": round(jobs / seconds, 1),
        "head_sets_per_second": round(scored / seconds, 1),
        "milliseconds_per_head_set": round(1000 * seconds / scored, 4),
        "processor_milliseconds_per_head_set": round(1000 * processor / scored, 4),
        "own_thread_milliseconds_per_head_set": round(1000 * thread / scored, 4),
        "simulated_milliseconds_per_head_set": round(1000 * simulated / scored, 4),
        "milliseconds_per_call_beside_it": round(1000 * (thread - simulated) / calls, 4),
        "memory_growth_bytes_per_head_set": round(growth, 1),
    }


class NullMemo(MemoryStore):
    """Takes all, keeps nothing; packs it as for the memo actor."""

    def add(self, blocks: Sequence[Block]) -> None:
        pack(blocks)


def simulate(plan: Plan, parents: int) -> float:
    """Return the coordinator's seconds for the same questions over simulated null workers.

    What it needs more on Ray is what `benchmarks/scaling.py` adds for each call of a simulation.
    """
    layout = plan.layout
    zeros = {
        piece: np.zeros((layout.rows_of(piece.span), 2), np.float32) for piece in layout.pieces
    }
    workers = SimulatedWorkers(
        plan,
        Costs(lambda job, cached: 1e-6),
        lambda job: np.stack([zeros[job.piece]] * len(job.item.states)),
    )
    dispatcher = Dispatcher(workers, NullMemo(), SHAPE)
    dispatcher.ask([Ask(OUTPUTS, HeadSet(), (HeadSet(),))])
    began = time.thread_time()
    for ask in expansions(parents):
        dispatcher.ask([ask])
    return time.thread_time() - began


def resident() -> int:
    """Private resident bytes: pages shared with Ray's object store are the store's."""
    with open("/proc/self/statm") as file:
        _, all_pages, shared = file.read().split()[:3]
        return (int(all_pages) - int(shared)) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--examples", type=int, nargs="*", default=[872, 9815])
    parser.add_argument("--parents", type=int, default=20)
    parser.add_argument(
        "--children", type=int, help="most children of an item; by default, as in a search"
    )
    options = parser.parse_args()
    found = []
    for examples in options.examples:
        for actors in options.actors:
            found.append(measure(actors, examples, options.parents, options.children))
            print(json.dumps(found[-1]), flush=True)
            options.out.write_text(json.dumps({**provenance(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
