"""A task whose outputs are read off a table, for what is of workers and not of models.

A worker that scores it is up in a second: it imports neither torch nor transformers.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from headsearch.engine.executor import Job
from headsearch.engine.ray_workers import RayWorkers, ScoringActor
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.heads import HeadSet
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.task.batches import Batch, BatchedData, Span
from tests.engine.searching import SHAPE, plan_of, run_on

EXAMPLES, PER_BATCH, CLASSES = 60, 7, 3


def _arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "base": random.normal(size=(EXAMPLES, CLASSES)).astype(np.float32),
        # Some heads do more than others.
        "effects": random.normal(
            scale=np.geomspace(0.05, 0.6, SHAPE.total)[random.permutation(SHAPE.total), None, None],
            size=(SHAPE.total, EXAMPLES, CLASSES),
        ).astype(np.float32),
    }


def _data(base: np.ndarray) -> BatchedData:
    """Texts of several lengths, and labels of which nine in ten are right."""
    random = np.random.default_rng(1)
    lengths = np.sort(random.integers(3, 14, size=EXAMPLES))
    batches = []
    for start in range(0, EXAMPLES, PER_BATCH):
        sizes = lengths[start : start + PER_BATCH]
        mask = (np.arange(sizes.max())[None] < sizes[:, None]).astype(np.int64)
        batches.append(Batch({"input_ids": mask, "attention_mask": mask}))
    labels = base.argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % CLASSES
    return BatchedData(tuple(batches), labels, np.arange(EXAMPLES))


ARRAYS = _arrays()
DATA = _data(ARRAYS["base"])
# What stands for a `ModelBundle`.
BUNDLE = SimpleNamespace(module="", name="", config="", family=None, arrays=ARRAYS)


class Table:
    """Outputs that fall off faster than linearly as heads are removed; in a fixed order of sums."""

    independent = True

    def __init__(self, arrays: dict[str, np.ndarray], offsets: np.ndarray) -> None:
        self._base, self._effects, self._offsets = arrays["base"], arrays["effects"], offsets

    def run(self, item: WorkItem, where: Span | np.ndarray) -> np.ndarray:
        """See `Scorer.run`."""
        if isinstance(where, Span):
            where = np.arange(self._offsets[where.first], self._offsets[where.stop])
        if item.kind == OUTPUTS:
            return np.stack([self._outputs(child, where) for child in item.children])
        if item.kind != GRADIENTS:
            raise ValueError(f"unknown kind of work {item.kind!r}")
        slopes = -np.moveaxis(self._effects[:, where], 0, -1)
        slopes[:, :, list(item.parent)] = 0
        return slopes[None]

    def _outputs(self, state: HeadSet, where: np.ndarray) -> np.ndarray:
        change = np.zeros((len(where), CLASSES), np.float32)
        for head in state:
            change = change + self._effects[head, where]
        return self._base[where] + change * np.float32(1 + len(state) / SHAPE.total)


def run_job(table: Any, item: WorkItem, where: Span | np.ndarray, speculative: bool) -> np.ndarray:
    return table.run(item, where)


class TableActor(ScoringActor):
    """A real worker but for what it computes."""

    def _prepare(self, model: dict[str, Any], data: BatchedData, plan: dict[str, Any]) -> Any:
        return Table(model["arrays"], data.offsets), run_job


plan, run = partial(plan_of, DATA), partial(run_on, DATA)


def on_ray(
    workers: int, shards: int, address: str | None = None, actor: type = TableActor
) -> RayWorkers:
    made = type("TableWorkers", (RayWorkers,), {"actor": actor})
    return made(BUNDLE, DATA, plan(workers, shards), address)


def computed(job: Job) -> np.ndarray:
    return Table(ARRAYS, DATA.offsets).run(job.item, job.piece.where)


def simulated(workers: int, shards: int) -> SimulatedWorkers:
    """Workers in virtual time: what they are sent is the same at every run."""
    costs = Costs(lambda job, cached: job.cost)
    return SimulatedWorkers(plan(workers, shards), costs, computed, coordinator=False)


def undisturbed(shards: int = 1) -> SimulatedWorkers:
    """One worker to which nothing happens, and that gets nothing ahead, as inline."""
    made = simulated(1, shards)
    made.depth = 1
    return made
