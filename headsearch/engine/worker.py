"""What every worker does, whatever process it lives in."""

from __future__ import annotations

import numpy as np
import torch

from headsearch.errors import EngineError
from headsearch.model.bundle import ModelBundle, rebuild
from headsearch.scoring.base import Scorer
from headsearch.scoring.item import WorkItem
from headsearch.scoring.stock import evaluator_for
from headsearch.task.batches import BatchedData, Span


def make_evaluator(
    bundle: ModelBundle, data: BatchedData, *, dtype: str, gpus: float, cache_bytes: int
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
            cache_bytes=cache_bytes,
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(array.nbytes for array in bundle.arrays.values()) / 2**30
        raise EngineError(
            f"the model ({size:.1f} GiB) does not fit the memory of a worker's {device} device; "
            "use a larger device, more `--gpus-per-worker`, or a smaller dtype"
        ) from None


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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
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
