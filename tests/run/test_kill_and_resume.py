"""`kill -9` at any moment, then `resume`: as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from headsearch.memo.codec import unpack_array
from headsearch.memo.store import Block
from tests.forks import finish, start

OPTIONS = ["--engine", "inline", "--threads-per-worker", "1", "--max-drop", "0.03"]
OPTIONS += ["--max-evaluations", "80", "--patience", "0", "--cache-mb", "0"]


def result_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    for of_the_process in ("wall_seconds", "memo_hits"):
        del found[of_the_process]
    return found


def states_in(memo: Path) -> float:
    """HeadSets whose outputs are in the memo, parts by their share of the 150 examples."""
    if not memo.exists():
        return 0
    connection = sqlite3.connect(f"file:{memo}?mode=ro", uri=True)
    try:
        blocks = connection.execute("SELECT content FROM blocks").fetchall()
    except sqlite3.OperationalError:  # killed before the table was made
        return 0
    finally:
        connection.close()
    made = [Block(*msgpack.unpackb(content)[1:]) for (content,) in blocks]
    rows = [
        len(block.states) * unpack_array(block.record(0).value)[1][0]
        for block in made
        if block.kind == "outputs"
    ]
    return sum(rows) / 150


@pytest.fixture(scope="module")
def unbroken(assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    what = ["run", assets.model, "--data", assets.data, "--out", out, "--quiet", *OPTIONS]
    assert finish(start(out.with_name("err"), *what)) == 0
    return out


# A case takes half a minute, and differs from the others by its moment alone.
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))]
)
def test_kill_9_then_resume(unbroken: Path, assets: Any, tmp_path: Path, seed: int) -> None:
    run, err, chance = tmp_path / "run", tmp_path / "err", random.Random(seed)
    what = ["run", assets.model, "--data", assets.data, "--out", run, "--quiet", *OPTIONS]
    process = start(err, *what)
    # From the first scores on, at a random moment of the search.
    enough, deadline = chance.randrange(1, 65), time.monotonic() + 120
    while states_in(run / "memo.sqlite") < enough and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert finish(process) == -signal.SIGKILL
    kept = states_in(run / "memo.sqlite")
    assert finish(start(err, "resume", run, "--quiet")) == 0
    assert (run / "transcript.jsonl").read_bytes() == (unbroken / "transcript.jsonl").read_bytes()
    assert result_of(run) == result_of(unbroken)
    assert (run / "mask.json").read_bytes() == (unbroken / "mask.json").read_bytes()
    progress = json.loads((run / "progress.json").read_text())
    assert progress["reused"] == pytest.approx(kept, abs=2e-3), "every score that was kept is used"
    assert json.loads((run / "result.json").read_text())["memo_hits"] == progress["reused"]
    computed = result_of(run)["evaluations"] - kept
    assert progress["computed"] == pytest.approx(computed, abs=2e-3)
    assert kept >= min(enough, progress["evaluations"])


def test_interrupt_says_how_to_go_on(assets: Any, tmp_path: Path, unbroken: Path) -> None:
    run, err = tmp_path / "run", tmp_path / "err"
    # With a budget that lasts for much longer than it takes to interrupt it.
    options = [*OPTIONS, "--max-evaluations", "4000"]
    process = start(err, "run", assets.model, "--data", assets.data, "--out", run, *options)
    while states_in(run / "memo.sqlite") < 5:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, 60) == 130
    said = err.read_text()
    assert f"headsearch resume {run}" in said
    assert "Traceback" not in said
    assert json.loads((run / "progress.json").read_text())["state"] == "interrupted"
    assert finish(start(err, "resume", run, "--quiet", "--max-evaluations", "80")) == 0
    assert result_of(run) == result_of(unbroken)
