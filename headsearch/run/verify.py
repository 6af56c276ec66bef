"""The check by the plain path that every claim rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from headsearch.heads import HeadSet
from headsearch.model.plain import plain_outputs
from headsearch.model.precision import float32_convolutions
from headsearch.task.batches import Batch, BatchedData
from headsearch.task.metric import Objective, Score, Threshold

# What the plain path needs of a GPU's memory: so many times the model, for activations of wide
# models are larger too, and some more.
ROOM, MORE_ROOM = 4, 1 << 30


@contextmanager
def on_gpu(model: nn.Module, gpus: float) -> Iterator[None]:
    """Have a model on this process's GPU, if workers are on GPUs and it has one with room.

    The plain path stays float32 there: torch does not use TF32 for products unless it is told to,
    and is told not to for convolutions.
    """
    needed = ROOM * sum(p.nbytes for p in model.parameters()) + MORE_ROOM
    if not gpus or not torch.cuda.is_available() or _free() < needed:
        yield
        return
    model.to("cuda")
    try:
        with float32_convolutions():
            yield
    finally:
        model.to("cpu")
        torch.cuda.empty_cache()


def _free() -> int:
    """Return how much memory this process could take of its GPU, in bytes."""
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + kept


def plain_score(
    model: nn.Module,
    data: BatchedData,
    objective: Objective,
    removed: HeadSet,
    tick: Callable[[], None] = lambda: None,
) -> Score:
    """Score a HeadSet by the stock forward under gates, in the model's own float32.

    Args:
        model, data, objective: of the task.
        removed: the HeadSet.
        tick: called before each batch.
    """
    return objective.score(plain_outputs(model, ticking(data.batches, tick), removed))


def ticking(batches: Iterable[Batch], tick: Callable[[], None]) -> Iterator[Batch]:
    """Yield batches, and call before each."""
    for batch in batches:
        tick()
        yield batch


def first_verified(
    score: Callable[[HeadSet], Score], candidates: Sequence[HeadSet], threshold: Threshold
) -> tuple[tuple[HeadSet, Score] | None, dict[HeadSet, Score]]:
    """Return the first candidate that meets the threshold, and those before it, with their scores.

    The search's own scores differ from the plain path's by rounding, so an example that lies on
    the decision boundary may flip; then the next best candidate is tried. None if none meets it.
    """
    refuted = dict[HeadSet, Score]()
    for candidate in candidates:
        found = score(candidate)
        if threshold.feasible(found):
            return (candidate, found), refuted
        refuted[candidate] = found
    return None, refuted
