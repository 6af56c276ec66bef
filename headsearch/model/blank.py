"""Makes models whose weights are set afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from transformers import initialization

# transformers turns initialisation off for the whole process: one thread at a time.
_guard = RLock()


@contextmanager
def blank() -> Iterator[None]:
    """Make models without initialising their weights, and leave torch's random numbers alone.

    Some draw numbers all the same: ViT's position embeddings are made by `torch.randn`.
    """
    with _guard, torch.random.fork_rng(devices=[]), initialization.no_init_weights():
        yield
