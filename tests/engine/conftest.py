"""One Ray for all engine tests, with room for four workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from headsearch.engine.ray_cluster import connect


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    connect(None, cpus=4)
    yield
    ray.shutdown()
