"""What every raw result says of where it comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from headsearch.run.session import environment


def provenance() -> dict[str, Any]:
    """Hardware, versions and commit."""
    return {
        "hardware": {"processor": processor(), "cores": os.cpu_count(), **gpu()},
        "environment": environment(),
        "commit": commit(),
    }


def gpu() -> dict[str, str]:
    """The name of the GPU, if there is one."""
    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def processor() -> str:
    """The processor's name, as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "../headsearch", ".")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
