"""What every worker does, whatever process it lives in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from headsearch.errors import EngineError
from headsearch.model.bundle import ModelBundle, rebuild
from headsearch.model.precision import float32_convolutions
from headsearch.scoring.base import DEFAULT_CACHE_BYTES, Scorer
from headsearch.scoring.item import WorkItem
from headsearch.scoring.stock import evaluator_for
from headsearch.task.batches import BatchedData, Span

LOG = logging.getLogger(__name__)

# Of a worker's GPU memory, what the parent cache may take; the rest is for activations.
GPU_SHARE = 0.5


def make_evaluator(
    bundle: ModelBundle, data: BatchedData, *, dtype: str, gpus: float, cache_bytes: int | None
) -> Scorer:
    """Make a worker's evaluator; the arguments are those of a `Plan`.

    Raises:
        EngineError: the model doesn't fit the device.
    """
    device = "cuda" if gpus else "cpu"
    try:
        return evaluator_for(
            rebuild(bundle),
            data.batches,
            dtype=dtype,
            device=device,
            cache_bytes=_default_cache(gpus) if cache_bytes is None else cache_bytes,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(array.nbytes for array in bundle.arrays.values()) / 2**30
        raise EngineError(
            f"the model ({size:.1f} GiB) does not fit the memory of a worker's {device} device; "
            "use a larger device, more `--gpus-per-worker`, or a smaller dtype"
        ) from None


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads meanwhile; None: as many as there are."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@float32_convolutions()
def independent(bundle: ModelBundle, data: BatchedData, dtype: str, gpus: float) -> bool:
    """Whether, on this process's device, no example's outputs depend on those beside it."""
    made = make_evaluator(bundle, data, dtype=dtype, gpus=gpus, cache_bytes=0)
    found = made.independent
    del made
    free_cuda()
    return found


def _default_cache(gpus: float) -> int:
    """Return the limit of a worker's parent cache: of a GPU, half of the worker's share."""
    if not gpus:
        return DEFAULT_CACHE_BYTES
    memory = torch.cuda.get_device_properties(0).total_memory
    return int(memory * min(1.0, gpus) * GPU_SHARE)


def free_cuda() -> None:
    """Give memory that torch keeps of a GPU back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@float32_convolutions()
def run_job(
    evaluator: Scorer, item: WorkItem, where: Span | np.ndarray, speculative: bool
) -> np.ndarray:
    """Compute a job; if memory runs out, once more with an empty and smaller parent cache.

    Children are computed one by one and batches are fixed, as results must not depend on what
    memory there was: the cache is all that can give way.

    Raises:
        EngineError: memory runs out again.
    """
    evaluator.cache.keep_others = speculative
    try:
        return evaluator.run(item, where)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    evaluator.cache.shrink()
    LOG.warning(
        "memory ran out: the parent cache is emptied, and from now on at most %.0f MiB",
        evaluator.cache.limit_bytes / 2**20,
    )
    free_cuda()
    try:
        return evaluator.run(item, where)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise EngineError(
            "out of memory, even with an empty parent cache; use fewer workers on a machine, "
            "more `--gpus-per-worker`, or a smaller `--max-length`"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or elsewhere."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        words in text for words in ("out of memory", "can't allocate memory", "failed to allocate")
    )
