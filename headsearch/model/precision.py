"""Precision of what torch computes in less than float32 unless it is told not to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_convolutions() -> Iterator[None]:
    """Compute convolutions of float32 arrays in float32 on GPUs, where torch's default is TF32.

    An image model cuts its patches by one. Products of matrices are in float32 by default.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
