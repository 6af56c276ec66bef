"""Whatever happens to a cluster, the transcript is that of an undisturbed inline run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headsearch.engine import ray_workers, worker
from headsearch.engine.worker import make_evaluator, run_job
from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.scoring.item import OUTPUTS, WorkItem
from headsearch.task.batches import Span
from tests.engine.tasks import BUNDLE, DATA, inline, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> str:
    return run(inline())[0]


def case(name: str, tmp_path: Path, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.chaos", name, str(tmp_path / "memo.sqlite")]
        + [str(each) for each in arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


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


def test_two_searches_share_scores_while_both_run(tmp_path: Path, reference: str) -> None:
    found = case("two_searches", tmp_path)
    assert found["first"]["transcript"] == reference
    other, _ = run(inline(), max_drop=0.2)
    assert found["second"]["transcript"] == other
    assert found["second"]["counts"]["reused"] > 5
    assert found["first"]["missing"] == found["second"]["missing"] == 0


def test_what_kills_three_workers_fails_the_run_and_scores_are_kept(tmp_path: Path) -> None:
    found = case("poison", tmp_path)
    assert "in flight at 3 workers that died; scores so far are kept" in found["error"]
    assert found["kept"] > 0


@pytest.mark.slow
def test_starts_that_fail_after_some_worker_was_up_are_repeated(
    tmp_path: Path, reference: str
) -> None:
    found = case("doomed", tmp_path, 4, 2)
    assert found["starts"] >= 2 + 4 + 1
    assert found["transcript"] == reference
    assert found["missing"] == 0


def test_workers_that_never_come_up_end_the_run(tmp_path: Path) -> None:
    found = case("doomed", tmp_path, 100, 0)
    assert found["starts"] <= 2 * ray_workers.MOST_FAILED_STARTS
    assert "workers died before they were up; scores so far are kept" in found["error"]


def test_a_slow_workers_jobs_are_given_to_another(tmp_path: Path, reference: str) -> None:
    found = case("slow", tmp_path)
    assert found["transcript"] == reference
    assert found["sent_twice"] > 0


def test_lost_answers_are_computed_again(tmp_path: Path, reference: str) -> None:
    found = case("lost", tmp_path)
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
