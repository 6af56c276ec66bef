"""What this process may use of its machine: a container or a batch system may give it less."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Where Linux tells of control groups, and which of them a process is in (`man 7 cgroups`).
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def machine_cpus(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Return how many CPUs this process may use; a quota of 1.5 counts as 2.

    Args:
        groups, own: see `GROUPS` and `OWN`.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [float(cpus or 1)]
    for folder in _folders(groups, own, "cpu"):
        # Version 2: "QUOTA PERIOD" or "max PERIOD"; version 1: two files, -1 for no quota.
        values = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(values) == 2 and all(value.isdecimal() for value in values) and int(values[1]):
            shares.append(int(values[0]) / int(values[1]))
    return max(1, math.ceil(min(shares)))


def machine_memory(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Return how many bytes of memory this process may use.

    Args:
        groups, own: see `GROUPS` and `OWN`.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _folders(groups, own, "memory"):
        values = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        limits += [int(value) for value in values if value.isdecimal()]
    return min(limits)


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, each within the next.

    In a container the path is often that of the host, and only the last folder is there: it tells
    of the container.
    """
    for line in _lines(own):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / controller if controllers else groups  # version 1, version 2
        place = root / path.lstrip("/")
        yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(root))


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:  # no such limit, or not this system
        return []
