"""What a container leaves of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsearch.run.machine import machine_cpus, machine_memory

MIB = 1 << 20


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "fs").mkdir()
    return tmp_path / "fs"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def own(groups: Path, text: str) -> Path:
    file = groups.parent / "own"
    file.write_text(text)
    return file


def test_a_container_sees_its_own_group(groups: Path) -> None:
    write(groups, cpu__max="50000 100000", memory__max=str(512 * MIB))
    file = own(groups, "0::/\n")
    assert machine_cpus(groups, file) == 1
    assert machine_memory(groups, file) == 512 * MIB


def test_a_job_may_not_have_more_than_any_group_around_it(groups: Path) -> None:
    write(groups / "slurm" / "job" / "step", cpu__max="max 100000", memory__max="max")
    write(groups / "slurm" / "job", memory__max=str(300 * MIB))
    write(groups / "slurm", memory__max=str(400 * MIB), cpu__max="1000 100000")
    file = own(groups, "0::/slurm/job/step\n")
    assert machine_memory(groups, file) == 300 * MIB
    assert machine_cpus(groups, file) == 1


def test_the_first_version_has_a_tree_for_each_kind(groups: Path) -> None:
    write(groups / "memory" / "docker" / "ab", memory__limit_in_bytes=str(200 * MIB))
    write(groups / "memory", memory__limit_in_bytes="9223372036854771712")
    write(groups / "cpu,cpuacct", cpu__cfs_quota_us="1", cpu__cfs_period_us="100000")
    write(groups / "cpu" / "docker" / "ab", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    lines = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/docker/ab\n"
    file = own(groups, lines)
    assert machine_memory(groups, file) == 200 * MIB
    assert machine_cpus(groups, file) == machine_cpus(groups, groups / "none")
    write(groups / "cpu" / "docker" / "ab", cpu__cfs_quota_us="100000")
    assert machine_cpus(groups, file) == 1


def test_without_groups_it_is_all_of_the_machine(groups: Path) -> None:
    none = groups / "none"
    assert machine_cpus(groups, none) >= 1
    assert machine_memory(groups, none) > 256 * MIB
    unlimited = own(groups, "0::/\nnonsense\n")
    write(groups, cpu__max="max 100000", memory__max="max")
    assert machine_memory(groups, unlimited) == machine_memory(groups, none)
    assert machine_cpus(groups, unlimited) == machine_cpus(groups, none)
