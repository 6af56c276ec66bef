"""Searches to which things happen; on several nodes by `python -m tests.engine.chaos CASE …`.

A process of its own for every such case, since a process can be in one cluster only. Prints JSON.
Workers read their scores off a table: one that dies is replaced in a second or two, not in ten.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from headsearch.engine.executor import Done
from headsearch.engine.ray_cluster import connect
from headsearch.engine.ray_memo import RayMemo
from headsearch.engine.ray_workers import RayWorkers
from headsearch.heads import HeadSet
from headsearch.memo.codec import unpack_array
from headsearch.memo.sqlite import SqliteStore
from headsearch.task.batches import Span
from tests.engine.tables import BUNDLE, DATA, TableActor, plan, run

SHARDS = 3
# Answers between two strikes: with fewer, a slow machine does little but start workers again.
SOME = 4


class Slow(TableActor):
    """Takes its time, so that something can happen to it."""

    seconds = 0.02

    def run(self, jobs: list[Any]) -> Any:
        time.sleep(self.seconds * len(jobs))
        return super().run(jobs)


class Slower(Slow):
    seconds = 0.15


class Slowest(Slow):
    seconds = 0.25


class SlowWorkers(RayWorkers):
    """Counts the answers that arrived."""

    actor = Slow
    arrived = 0

    def _take_result(self, reference: Any) -> list[Any]:
        events = super()._take_result(reference)
        self.arrived += sum(isinstance(event, Done) for event in events)
        return events


class Nodes:
    """A head without CPUs and worker nodes with one CPU each."""

    def __init__(self, workers: int) -> None:
        # Without hooks, as those can only be set by the main thread; `close` does the same.
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False},
            shutdown_at_exit=False,
        )
        self.workers = [self.add() for _ in range(workers)]
        self.cluster.wait_for_nodes()
        connect(self.cluster.address)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1)

    def replace(self, number: int, graceful: bool) -> None:
        """A node goes, and another joins."""
        self.cluster.remove_node(self.workers[number], allow_graceful=graceful)
        self.workers[number] = self.add()

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def actor_pids(name: str) -> list[int]:
    """Processes of this cluster's actors: Ray writes their class or their own name there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
            if title.startswith("ray::") and name in title:
                found.append(int(entry.name))
    return sorted(found)


def facts(transcript: str, dispatcher: Any, workers: RayWorkers, path: Path) -> dict[str, Any]:
    """What a test looks at, with how many of the committed states are whole in the memo file."""
    steps = [json.loads(line) for line in transcript.split("\n")]
    store, layout = SqliteStore(path, "f"), plan().layout
    missing = 0
    for step in steps:
        for bits, _, _, _, rows in step["scored"]:
            key = HeadSet(int(bits, 16)).to_bytes()
            held = 0
            for record in store.find("outputs", [key]).get(key, []):
                span = Span(record.first, record.stop)
                held |= layout.where(span, unpack_array(record.value)[2])[0]
            missing += held.bit_count() < rows
    store.close()
    return {
        "transcript": transcript,
        "missing": missing,
        "most_live": workers.most_live,
        "counts": vars(dispatcher.counts),
        "sent_twice": dispatcher.scheduler.sent_twice,
    }


def search(workers: RayWorkers, path: Path, **options: Any) -> dict[str, Any]:
    memo = RayMemo(path, "f")
    transcript, dispatcher = run(workers, memo, **options)
    memo.close()
    return facts(transcript, dispatcher, workers, path)


def chaos(path: Path, seed: str, rounds: str) -> dict[str, Any]:
    """Every second or so something is killed, goes away or joins; a round has one of each kind."""
    SlowWorkers.actor = Slower
    nodes, chance, over = Nodes(3), random.Random(int(seed)), threading.Event()
    workers = SlowWorkers(BUNDLE, DATA, plan(3, SHARDS), nodes.cluster.address)
    happened: list[str] = []

    kinds = ["worker", "raylet", "graceful", "memo", "node"]
    plans = [what for _ in range(int(rounds)) for what in chance.sample(kinds, len(kinds))]

    def disturb() -> None:
        before = 0
        while plans and not over.wait(chance.uniform(0.5, 1.5)):
            if workers.arrived < before + SOME:
                continue
            before = workers.arrived
            what = plans.pop()
            number = chance.randrange(len(nodes.workers))
            if what == "worker":
                pids = actor_pids("Slower")
                if pids:
                    kill(chance.choice(pids))
            elif what == "memo":
                for pid in actor_pids("MemoActor"):
                    kill(pid)
            elif what == "node":
                nodes.workers.append(nodes.add())
            elif what in ("raylet", "graceful"):
                nodes.replace(number, what == "graceful")
            happened.append(f"{what} {number}")

    thread = threading.Thread(target=disturb)

    def started(step: dict[str, Any]) -> None:
        if step["step"] == 0:
            thread.start()

    try:
        found = search(workers, path, on_step=started)
    finally:
        over.set()
        thread.join()
        nodes.close()
    return {**found, "happened": happened}


def join(path: Path) -> dict[str, Any]:
    """Two nodes join a search that began with one, and that lasts longer than their start."""
    SlowWorkers.actor = Slower
    nodes = Nodes(1)
    workers = SlowWorkers(BUNDLE, DATA, plan(1, SHARDS, most_workers=3), nodes.cluster.address)
    seconds: list[float] = []

    def step(record: dict[str, Any]) -> None:
        if record["step"] == 1:
            for _ in range(2):
                nodes.add()
            seconds.append(time.monotonic())
        if len(seconds) == 1 and workers.most_live == 3:
            seconds.append(time.monotonic())

    try:
        found = search(workers, path, on_step=step)
    finally:
        nodes.close()
    return {**found, "seconds": float(np.diff(seconds)[0]) if len(seconds) == 2 else None}


def guest(path: Path, address: str) -> dict[str, Any]:
    """A search with another budget on a cluster that is there."""
    connect(address)
    try:
        workers = SlowWorkers(BUNDLE, DATA, plan(1, SHARDS), address)
        return search(workers, path, max_drop=0.2)
    finally:
        ray.shutdown()


CASES = {f.__name__: f for f in (chaos, join, guest)}

if __name__ == "__main__":
    case, path, *rest = sys.argv[1:]
    print(json.dumps(CASES[case](Path(path), *rest)), flush=True)
