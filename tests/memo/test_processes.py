"""What a writer reported as committed is there, whoever dies and whoever else writes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from headsearch.memo.sqlite import SqliteStore
from tests.memo.writer import states, value

MORE_THAN_IT_GETS_DONE = 100_000


def start(path: Path, name: str, batches: int) -> subprocess.Popen[str]:
    """Return a writer that waits for a line before it opens the memo."""
    writer = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("writer.py")), str(path), name, str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


def run_and_kill(writer: subprocess.Popen[str], after: float) -> list[int]:
    """Let it write for some seconds, kill it, and return the batches that it reported."""
    go(writer)
    time.sleep(after)
    writer.send_signal(signal.SIGKILL)
    printed, _ = writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    whole_lines = printed.split("\n")[:-1]
    return [int(line.split()[0]) for line in whole_lines]


def batches_in(path: Path, upto: int) -> set[int]:
    """Return the batches in the memo; all of each is there, with the right bytes."""
    with closing(SqliteStore(path, "fingerprint")) as store:
        found = store.find("outputs", [state for batch in range(upto) for state in states(batch)])
    for state, (record,) in found.items():
        assert record.value == value("writer", state)
    there = {batch for batch in range(upto) if states(batch)[0] in found}
    assert set(found) == {state for batch in there for state in states(batch)}
    return there


def test_a_killed_writer_loses_nothing_that_it_had_reported(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    moments = random.Random(20)
    reported: set[int] = set()
    for _ in range(8):  # always the same file, as of a run that is resumed again and again
        writer = start(path, "writer", MORE_THAN_IT_GETS_DONE)
        reported |= set(run_and_kill(writer, moments.uniform(0.02, 0.25)))
        last = max(reported, default=0)
        there = batches_in(path, last + 3)
        assert reported <= there
        # At most one batch was committed and not yet reported.
        assert len(there - reported) <= 1
        reported = there
    assert len(reported) > 20


def test_a_memo_killed_while_it_is_made_opens(tmp_path: Path) -> None:
    moments = random.Random(21)
    for attempt in range(8):
        path = tmp_path / f"{attempt}.sqlite"
        reported = run_and_kill(start(path, "writer", 3), moments.uniform(0, 0.008))
        assert set(reported) <= batches_in(path, 3)


def test_two_processes_share_a_file_and_agree_on_what_stands(tmp_path: Path) -> None:
    path = tmp_path / "memo.sqlite"
    writers = {name: start(path, name, 150) for name in ("one", "two")}
    for writer in writers.values():
        go(writer)
    printed = {name: writer.communicate()[0] for name, writer in writers.items()}
    assert [writer.returncode for writer in writers.values()] == [0, 0]
    assert printed["one"] == printed["two"]
    assert len(printed["one"].splitlines()) == 150
    with closing(SqliteStore(path, "fingerprint")) as store:
        for line in printed["one"].splitlines():
            batch, *winners = line.split()
            found = store.find("outputs", states(int(batch)))
            for winner, state in zip(winners, states(int(batch)), strict=True):
                assert [r.value for r in found[state]] == [value(winner, state)]
        assert store.count() == 150 * 3


# Opens a new memo at agreed times, so that several processes make it at the same moment.
MAKER = """
import sys, time
from pathlib import Path
from headsearch.memo.sqlite import SqliteStore
print("ready", flush=True)
start = float(sys.stdin.readline())
for attempt in range(120):
    time.sleep(max(0, start + attempt * 0.01 - time.time()))
    SqliteStore(Path(sys.argv[1]) / f"{attempt}.sqlite", "fingerprint").close()
"""


def test_processes_that_make_the_same_memo_at_once_all_get_it(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    when = f"{time.time() + 0.05}\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(when)
        maker.stdin.flush()
    assert [maker.communicate()[1] for maker in makers] == ["", "", ""]


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_sees_what_the_first_has_not_closed(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / "memo.sqlite"
    writer = start(path, "writer", MORE_THAN_IT_GETS_DONE)
    go(writer)
    assert writer.stdout is not None
    first = writer.stdout.readline()
    if killed:
        writer.kill()
        writer.wait()
    assert first.startswith("0 ")
    assert 0 in batches_in(path, 1)
    writer.kill()
    writer.communicate()
