"""Searches over hosts with addresses of their own, which come, go and fall silent.

Whatever happens, the transcript is that of an undisturbed inline run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.hosts.hosts import PORT, Host, Network, cluster, kill, wait_for, why_not
from tests.words import save_folder, texts_and_labels, trained_model

pytestmark = pytest.mark.slow

# Twenty steps, half a minute of one CPU: time for things to happen meanwhile.
EXAMPLES = 3000
OPTIONS = ["--threads-per-worker", "1", "--max-drop", "0.03", "--max-evaluations", "200"]
OPTIONS += ["--patience", "0", "--cache-mb", "0"]
# So many steps are early in the search.
EARLY = 4
PATIENCE = 300.0


@dataclass(frozen=True)
class Done:
    code: int
    err: str


@dataclass(frozen=True)
class Search:
    """A model, data, and the transcript they lead to."""

    model: Path
    data: Path
    transcript: str

    def start(self, host: Host, address: str, out: Path, workers: int = 2) -> subprocess.Popen[str]:
        """Start it on a host."""
        engine = ["--engine", "ray", "--ray-address", address, "--workers", workers]
        return host.start(*command("run", self.model, "--data", self.data), *engine, "--out", out)

    def check(self, out: Path) -> None:
        """Compare a run's transcript."""
        assert (out / "transcript.jsonl").read_text() == self.transcript


def command(name: str, *arguments: object) -> list[object]:
    options = ["--quiet", *(OPTIONS if name == "run" else [])]
    return [sys.executable, "-m", "headsearch", name, *arguments, *options]


def address(head: Host) -> str:
    return f"{head.address}:{PORT}"


def end(process: subprocess.Popen[str]) -> Done:
    """Wait for a command to end."""
    _, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, err)


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a search has committed some steps; most are to come then."""

    def met() -> bool:
        assert process.poll() is None, end(process)
        path = run / "transcript.jsonl"
        return path.exists() and path.read_text().count("\n") >= EARLY

    wait_for(f"{EARLY} steps", met)


def wait_for_worker(host: Host, process: subprocess.Popen[str]) -> None:
    """Wait until a search has a worker on a host."""

    def met() -> bool:
        assert process.poll() is None, end(process)
        return any("ScoringActor" in title for title in host.processes().values())

    wait_for(f"a worker on {host.address}", met)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    if reason := why_not():  # no hosts of their own can be made on this machine
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("search")
    model, data, out = folder / "model", folder / "dev.csv", folder / "inline"
    save_folder(model, trained_model())
    texts, labels = texts_and_labels(EXAMPLES, seed=2)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(data, index=False)
    engine = ["--data", data, "--engine", "inline", "--out", out]
    subprocess.run([*map(str, command("run", model, *engine))], check=True, timeout=PATIENCE)
    return Search(model, data, (out / "transcript.jsonl").read_text())


def test_two_hosts(search: Search, tmp_path: Path) -> None:
    with cluster(2) as (head, *hosts):
        process = search.start(head, address(head), tmp_path / "run")
        for host in hosts:
            wait_for_worker(host, process)
        assert end(process) == Done(0, "")
    search.check(tmp_path / "run")


def test_a_host_is_turned_off_and_another_joins(search: Search, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with cluster(2, spare=1) as (head, first, second, spare):
        process = search.start(head, address(head), run)
        for host in (first, second):
            wait_for_worker(host, process)
        wait_for_steps(run, process)
        second.turn_off()
        spare.join(head, cpus=1)
        wait_for_worker(spare, process)
        assert end(process) == Done(0, "")
    search.check(run)


def test_a_hosts_cable_is_pulled(search: Search, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with cluster(2) as (head, *hosts):
        process = search.start(head, address(head), run)
        for host in hosts:
            wait_for_worker(host, process)
        wait_for_steps(run, process)
        hosts[1].pull_cable()
        assert end(process) == Done(0, "")
    search.check(run)


@pytest.mark.parametrize("whole_host", [False, True])
def test_the_search_is_killed_and_resumed_on_another_host(
    search: Search, tmp_path: Path, whole_host: bool
) -> None:
    run = tmp_path / "run"
    with cluster(3) as (head, host, *_):
        process = search.start(host, address(head), run)
        wait_for_steps(run, process)
        if whole_host:
            host.turn_off()
        else:
            kill(process)
        assert end(process).code == -signal.SIGKILL
        assert end(head.start(*command("resume", run))) == Done(0, "")
    search.check(run)


def test_only_the_searchs_own_host_must_see_its_run_folder(search: Search, tmp_path: Path) -> None:
    with cluster(2) as (head, host, _):
        host.hide(tmp_path)
        process = search.start(host, address(head), tmp_path / "run")
        assert end(process) == Done(0, "")
        assert host.check("cat", tmp_path / "run" / "transcript.jsonl") == search.transcript


def test_a_run_folder_that_the_memo_of_all_searches_cannot_see(
    search: Search, tmp_path: Path
) -> None:
    run, hidden = tmp_path / "run", tmp_path / "hidden"
    hidden.mkdir()
    with cluster(2) as (head, host, _):
        host.hide(hidden)
        process = search.start(head, address(head), run)
        wait_for_steps(run, process)
        done = end(search.start(host, address(head), hidden / "run"))
        assert done == Done(
            2,
            f"headsearch: the folder {hidden / 'run'} can't be seen from {head.address}, where the "
            "memo of the cluster's searches runs; put run folders on storage that all machines "
            "share\n",
        )
        assert host.check("ls", "-A", hidden) == "", "nothing is left behind"
        assert end(process) == Done(0, "")
    search.check(run)


def test_an_address_where_no_host_is(search: Search, tmp_path: Path) -> None:
    nobody = "10.77.0.200:6379"
    with Network() as network:
        started = time.monotonic()
        done = end(search.start(network.host(), nobody, tmp_path / "run"))
        assert time.monotonic() - started < 60
    assert done.code == 2
    assert done.err.startswith(f"headsearch: could not reach a Ray cluster at '{nobody}': ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
