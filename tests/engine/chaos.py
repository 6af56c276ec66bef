"""Searches on clusters of several nodes on this machine: `python -m tests.engine.chaos CASE …`.

A process of its own for every case, since a process can be in one cluster only. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from headsearch.engine import ray_workers, scheduler
from headsearch.engine.executor import Done
from headsearch.engine.ray_cluster import connect
from headsearch.engine.ray_memo import RayMemo
from headsearch.engine.ray_workers import RayWorkers, ScoringActor
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.memo.codec import unpack_array
from headsearch.memo.sqlite import SqliteStore
from headsearch.task.batches import Span
from tests.engine.tasks import BUNDLE, DATA, plan, run

SHARDS = 3
# Answers between two strikes: with fewer, a slow machine does little but start workers again.
SOME = 4


class Slow(ScoringActor):
    """Takes its time, so that something can happen to it."""

    seconds = 0.02

    def run(self, jobs: list[Any]) -> Any:
        time.sleep(self.seconds * len(jobs))
        return super().run(jobs)


class Slower(Slow):
    seconds = 0.07


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
            initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False
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
    """Every few seconds something is killed, goes away or joins; a round has one of each kind."""
    SlowWorkers.actor = Slower
    nodes, chance, over = Nodes(3), random.Random(int(seed)), threading.Event()
    workers = SlowWorkers(BUNDLE, DATA, plan(3, SHARDS), nodes.cluster.address)
    happened: list[str] = []

    kinds = ["worker", "raylet", "graceful", "memo", "node"]
    plans = [what for _ in range(int(rounds)) for what in chance.sample(kinds, len(kinds))]

    def disturb() -> None:
        before = 0
        while plans and not over.wait(chance.uniform(1.0, 3.0)):
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
    SlowWorkers.actor = Slowest
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


def two_searches(path: Path) -> dict[str, Any]:
    """A second search, with another budget, from another process while the first one runs."""
    SlowWorkers.actor = Slowest
    nodes = Nodes(2)
    workers = SlowWorkers(BUNDLE, DATA, plan(1, SHARDS), nodes.cluster.address)
    other = path.with_name("other.sqlite")
    process: list[subprocess.Popen[str]] = []

    def step(record: dict[str, Any]) -> None:
        if record["step"] == 4:
            command = [sys.executable, "-m", "tests.engine.chaos", "guest", str(other)]
            process.append(
                subprocess.Popen(
                    [*command, nodes.cluster.address], stdout=subprocess.PIPE, text=True
                )
            )

    try:
        first = search(workers, path, on_step=step)
        out, _ = process[0].communicate(timeout=120)
    finally:
        nodes.close()
    return {"first": first, "second": json.loads(out.splitlines()[-1])}


def guest(path: Path, address: str) -> dict[str, Any]:
    connect(address)
    try:
        workers = SlowWorkers(BUNDLE, DATA, plan(1, SHARDS), address)
        return search(workers, path, max_drop=0.2)
    finally:
        ray.shutdown()


def poison(path: Path) -> dict[str, Any]:
    """One state kills every worker that it is sent to."""
    victim = HeadSet.of([5]).to_bytes()

    class Fragile(Slow):
        def run(self, jobs: list[Any]) -> Any:
            if any(victim in children for _, _, children, *_ in jobs):
                os._exit(1)
            return super().run(jobs)

    nodes = Nodes(2)
    workers = SlowWorkers(BUNDLE, DATA, plan(2, 2), nodes.cluster.address)
    workers.close()
    SlowWorkers.actor = Fragile
    workers = SlowWorkers(BUNDLE, DATA, plan(2, 2), nodes.cluster.address)
    memo = RayMemo(path, "f")
    try:
        run(workers, memo)
    except EngineError as error:
        return {"error": str(error), "kept": memo.count()}
    finally:
        memo.close()
        nodes.close()
    return {"error": None}


def doomed(path: Path, starts: str, dies_from: str) -> dict[str, Any]:
    """All workers die in some step, and so do so many of those that take their places."""
    log = path.with_name("starts")
    log.touch()
    first, last = int(dies_from), int(dies_from) + int(starts)

    class Doomed(Slow):
        def __init__(self, *arguments: Any) -> None:
            with log.open("a") as file:
                number = file.tell()
                file.write("x")
            if first <= number < last:
                os._exit(1)
            super().__init__(*arguments)

    ray_workers.RESTART_SECONDS = 0.2
    nodes = Nodes(2)
    SlowWorkers.actor = Doomed
    workers = SlowWorkers(BUNDLE, DATA, plan(2, 2), nodes.cluster.address)

    def step(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            for pid in actor_pids("Doomed"):
                kill(pid)

    try:
        return {**search(workers, path, on_step=step), "starts": log.stat().st_size}
    except EngineError as error:
        return {"error": str(error), "starts": log.stat().st_size}
    finally:
        nodes.close()


def slow(path: Path) -> dict[str, Any]:
    """One worker hangs for a minute in its first calls."""

    class Hangs(Slow):
        def run(self, jobs: list[Any]) -> Any:
            if "worker 1," in repr(self) and jobs[0][0] == "outputs" and jobs[0][1]:
                time.sleep(60)
            return super().run(jobs)

    scheduler.SLOW_SECONDS = 1.0
    nodes = Nodes(2)
    SlowWorkers.actor = Hangs
    workers = SlowWorkers(BUNDLE, DATA, plan(2, 2), nodes.cluster.address)
    started = time.monotonic()
    try:
        found = search(workers, path)
    finally:
        nodes.close()
    return {**found, "seconds": time.monotonic() - started}


def lost(path: Path) -> dict[str, Any]:
    """Answers get lost on the way, with their workers alive."""
    from ray.exceptions import ObjectLostError

    chance, get = random.Random(0), ray_workers.ray.get

    def losing(reference: Any, **options: Any) -> Any:
        if not isinstance(reference, list) and chance.random() < 0.05:
            raise ObjectLostError("0" * 56, None, "")
        return get(reference, **options)

    nodes = Nodes(2)
    workers = SlowWorkers(BUNDLE, DATA, plan(2, 2), nodes.cluster.address)
    take = workers._take_result

    def sometimes(reference: Any) -> Any:
        ray_workers.ray.get = losing
        try:
            return take(reference)
        finally:
            ray_workers.ray.get = get

    workers._take_result = sometimes
    try:
        return search(workers, path)
    finally:
        nodes.close()


CASES = {f.__name__: f for f in (chaos, join, two_searches, guest, poison, doomed, slow, lost)}

if __name__ == "__main__":
    case, path, *rest = sys.argv[1:]
    print(json.dumps(CASES[case](Path(path), *rest)), flush=True)
