"""Whatever happens to a cluster, the transcript is that of an undisturbed inline run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ObjectLostError

from headsearch.engine import ray_workers, scheduler, worker
from headsearch.engine.ray_memo import RayMemo
from headsearch.engine.worker import make_evaluator, run_job
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.scoring.item import OUTPUTS, WorkItem
from headsearch.task.batches import Span
from tests.engine import chaos, tables
from tests.engine.tasks import BUNDLE, DATA

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> str:
    return tables.run(tables.undisturbed())[0]


def begin(name: str, memo: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.engine.chaos", name, memo, *arguments]
    return subprocess.Popen(
        [str(each) for each in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def case(name: str, tmp_path: Path, *arguments: object) -> Any:
    return end(begin(name, tmp_path / "memo.sqlite", *arguments))


def check_chaos(seed: int, rounds: int, tmp_path: Path, reference: str) -> None:
    found = case("chaos", tmp_path, seed, rounds)
    assert found["transcript"] == reference
    assert found["missing"] == 0, "every score that was committed is in the file"
    assert len(found["happened"]) > 2


def test_chaos(tmp_path: Path, reference: str) -> None:
    check_chaos(0, 1, tmp_path, reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_more_chaos(seed: int, tmp_path: Path, reference: str) -> None:
    check_chaos(seed, 2, tmp_path, reference)


def test_nodes_that_join_get_work_within_seconds(tmp_path: Path, reference: str) -> None:
    found = case("join", tmp_path)
    assert found["transcript"] == reference
    assert found["most_live"] == 3
    assert found["seconds"] is not None


@pytest.fixture
def address(ray_cluster: None) -> str:
    """The tests' own Ray, as a cluster that someone else has started."""
    return str(ray.get_runtime_context().gcs_address)


def test_two_searches_share_scores_while_both_run(
    address: str, tmp_path: Path, reference: str
) -> None:
    """The second one has another budget, and is of another process."""
    guests = []

    def step(record: dict[str, Any]) -> None:
        if record["step"] == 10:
            guests.append(begin("guest", tmp_path / "other.sqlite", address))

    first = chaos.search(
        tables.on_ray(1, 2, address, chaos.Slowest), tmp_path / "memo.sqlite", on_step=step
    )
    second = end(guests[0])
    assert first["transcript"] == reference
    other, _ = tables.run(tables.undisturbed(), max_drop=0.2)
    assert second["transcript"] == other
    assert second["counts"]["reused"] > 5
    assert first["missing"] == second["missing"] == 0


def test_what_kills_three_workers_fails_the_run_and_scores_are_kept(
    address: str, tmp_path: Path, reference: str
) -> None:
    """A state kills every worker that it is sent to."""
    steps = [json.loads(line) for line in reference.splitlines()]
    victim = next(s["scored"][0][0] for s in steps if s["kind"] == "expansion")
    deadly = HeadSet(int(victim, 16)).to_bytes()

    class Fragile(chaos.Slow):
        def run(self, jobs: list[Any]) -> Any:
            if any(deadly in children for _, _, children, *_ in jobs):
                os._exit(1)
            return super().run(jobs)

    memo = RayMemo(tmp_path / "memo.sqlite", "f")
    try:
        with pytest.raises(EngineError, match=r"in flight at 3 workers that died; scores so far"):
            tables.run(tables.on_ray(2, 2, address, Fragile), memo)
        assert memo.count() > 0
    finally:
        memo.close()


def doomed(log: Path, first: int, last: int) -> type:
    """Workers of which those from the first to before the last die as they start."""
    log.touch()

    class Doomed(chaos.Slow):
        def __init__(self, *arguments: Any) -> None:
            with log.open("a") as file:
                number = file.tell()
                file.write("x")
            if first <= number < last:
                os._exit(1)
            super().__init__(*arguments)

    return Doomed


def test_starts_that_fail_after_some_worker_was_up_are_repeated(
    address: str, tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "RESTART_SECONDS", 0.2)

    def step(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            for pid in chaos.actor_pids("Doomed"):
                chaos.kill(pid)

    workers = tables.on_ray(2, 2, address, doomed(tmp_path / "starts", 2, 6))
    found = chaos.search(workers, tmp_path / "memo.sqlite", on_step=step)
    assert (tmp_path / "starts").stat().st_size >= 2 + 4 + 1
    assert found["transcript"] == reference
    assert found["missing"] == 0


def test_workers_that_never_come_up_end_the_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_workers, "RESTART_SECONDS", 0.2)
    workers = tables.on_ray(2, 2, address, doomed(tmp_path / "starts", 0, 100))
    with pytest.raises(EngineError, match="workers died before they were up; scores so far are"):
        tables.run(workers)
    assert 0 < (tmp_path / "starts").stat().st_size <= 2 * ray_workers.MOST_FAILED_STARTS


def test_a_slow_workers_jobs_are_given_to_another(
    address: str, tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker hangs for a minute in its first calls."""

    class Hangs(chaos.Slow):
        def run(self, jobs: list[Any]) -> Any:
            if "worker 1," in repr(self) and jobs[0][0] == "outputs" and jobs[0][1]:
                time.sleep(60)
            return super().run(jobs)

    monkeypatch.setattr(scheduler, "SLOW_SECONDS", 1.0)
    found = chaos.search(tables.on_ray(2, 2, address, Hangs), tmp_path / "memo.sqlite")
    assert found["transcript"] == reference
    assert found["sent_twice"] > 0


def test_lost_answers_are_computed_again(
    address: str, tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers get lost on the way, with their workers alive."""
    chance, get, lost = random.Random(0), ray.get, list[Any]()

    def losing(reference: Any, **options: Any) -> Any:
        if not isinstance(reference, list) and chance.random() < 0.05:
            lost.append(reference)
            raise ObjectLostError("0" * 56, None, "")
        return get(reference, **options)

    workers = tables.on_ray(2, 2, address, chaos.Slow)
    take = workers._take_result

    def sometimes(reference: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(ray, "get", losing)
            return take(reference)

    monkeypatch.setattr(workers, "_take_result", sometimes)
    found = chaos.search(workers, tmp_path / "memo.sqlite")
    assert lost
    assert found["transcript"] == reference
    assert found["missing"] == 0


class Full:
    """An evaluator on a device whose memory runs out so many times."""

    def __init__(self, times: int) -> None:
        self.inner = make_evaluator(BUNDLE, DATA, dtype="float32", gpus=0, cache_bytes=1 << 20)
        self.cache, self.times = self.inner.cache, times

    def run(self, item: WorkItem, span: Span) -> Any:
        if self.times:
            self.times -= 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.inner.run(item, span)


def test_out_of_memory_once_gives_the_same_result_with_less_cache(
    caplog: pytest.LogCaptureFixture,
) -> None:
    item = WorkItem(OUTPUTS, HeadSet(), (HeadSet.of([1]), HeadSet.of([2, 7])))
    span = Span(0, 9)
    plain, full = Full(0), Full(1)
    expected = run_job(plain, item, span, False)
    for _ in range(2):  # the second time its parent is cached
        found = run_job(full, item, span, False)
        assert (found == expected).all()
    (said,) = caplog.messages
    assert said == "memory ran out: the parent cache is emptied, and from now on at most 0 MiB"
    assert 0 < full.cache.used_bytes <= 1 << 19 < plain.cache.used_bytes or (
        full.cache.used_bytes <= 1 << 19
    )


@pytest.mark.parametrize("tf32", [True, False])
def test_jobs_are_computed_with_float32_convolutions(
    tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    seen: list[bool] = []

    class Looking(Full):
        def run(self, item: WorkItem, span: Span) -> Any:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().run(item, span)

    item = WorkItem(OUTPUTS, HeadSet(), (HeadSet.of([1]),))
    run_job(Looking(1), item, Span(0, 1), False)  # memory runs out once
    with pytest.raises(EngineError):
        run_job(Looking(2), item, Span(0, 1), False)
    assert seen == [False] * 4
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_out_of_memory_twice_is_one_clear_error() -> None:
    item = WorkItem(OUTPUTS, HeadSet(), (HeadSet.of([1]),))
    with pytest.raises(EngineError, match=r"^out of memory, even with an empty parent cache; use"):
        run_job(Full(2), item, Span(0, 1), False)


def test_other_errors_are_not_taken_for_it() -> None:
    item = WorkItem("unheard of", HeadSet(), (HeadSet.of([1]),))
    with pytest.raises(ValueError, match="unknown kind"):
        run_job(Full(0), item, Span(0, 1), False)


def test_a_model_that_does_not_fit_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 1.30 GiB")

    monkeypatch.setattr(worker, "evaluator_for", full)
    with pytest.raises(EngineError, match=r"^the model \(0\.0 GiB\) does not fit the memory of"):
        make_evaluator(BUNDLE, DATA, dtype="float32", gpus=0, cache_bytes=0)
