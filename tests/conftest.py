"""Set before anything is imported: no hub is asked, no usage is reported."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Two OpenMP threads wait for each other wherever another process wants the same cores.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray warns of a future default unless it is chosen.
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

# Folders whose tests start Ray or other processes, with waits that a busy machine makes too long.
ALONE = {"engine", "hosts", "demo"}
# But for those of these files that do not ask for Ray.
INLINE = {"test_dispatch.py", "test_scheduler.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        inline = item.path.name in INLINE and "ray_cluster" not in getattr(item, "fixturenames", ())
        if ALONE & set(item.path.parts) and not inline:
            item.add_marker("alone")
