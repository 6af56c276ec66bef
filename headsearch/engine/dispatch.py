"""Answers the search from the memo, and has executors compute what is not there yet.

What an item contains is a function of the parent and its candidates alone. Every job's scores go
into the memo in one transaction, so after a crash a job is there whole or not at all, and the
arithmetic of what is computed again is the same as it would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headsearch.engine.executor import Executor, Job
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.codec import pack_array, unpack_array
from headsearch.memo.store import MemoStore, Record
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.task.batches import Span

# Children of one item. Enough that a parent's own forward, which every item may have to repeat,
# is a small part of the work; few enough that an expansion gives several workers something to do.
ITEM_CHILDREN = 16


@dataclass
class Counts:
    """What this process did. Fractions of a HeadSet are counted by the share of batches.

    Attributes:
        computed: HeadSets scored by the executor.
        reused: HeadSets answered from the memo.
        gradients: states whose gradients were computed.
    """

    computed: float = 0.0
    reused: int = 0
    gradients: float = 0.0


class Dispatcher:
    """The search's oracle.

    Args:
        executor: computes jobs.
        memo: holds all scores; whatever it has is not computed again.
        shape: the heads.
        on_result: called after each job with the counts so far.
    """

    def __init__(
        self,
        executor: Executor,
        memo: MemoStore,
        shape: HeadMap,
        on_result: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self._executor = executor
        self._memo = memo
        self._shape = shape
        self._spans = list(executor.plan.shards)
        self._batches = self._spans[-1].stop
        self._on_result = on_result
        self._next_job = 0
        self.counts = Counts()

    def outputs(self, parent: HeadSet, children: Sequence[HeadSet]) -> list[np.ndarray]:
        """See `search.problem.Oracle.outputs`."""
        # Neighbours in an item start at the same layer, so that they can be stacked.
        ordered = sorted(
            children, key=lambda child: (self._shape.first_layer(child ^ parent), len(child))
        )
        items = [
            WorkItem(OUTPUTS, parent, tuple(ordered[i : i + ITEM_CHILDREN]))
            for i in range(0, len(ordered), ITEM_CHILDREN)
        ]
        answers = self._answer(items)
        return [answers[child] for child in children]

    def gradients(self, state: HeadSet) -> np.ndarray:
        """See `search.problem.Oracle.gradients`."""
        return self._answer([WorkItem(GRADIENTS, state)])[state]

    def _answer(self, items: Sequence[WorkItem]) -> dict[HeadSet, np.ndarray]:
        """Return the whole array of every state in the items, computing what the memo lacks."""
        kind = items[0].kind
        states = [state for item in items for state in item.states]
        keys = {state: state.to_bytes() for state in states}
        found = self._memo.find(kind, list(keys.values()))
        records = {state: list(found.get(keys[state], [])) for state in states}
        incomplete = {s for s in states if _tiling(records[s], 0, self._batches) is None}
        if kind == OUTPUTS:
            self.counts.reused += len(states) - len(incomplete)
        for item in items:
            for span in self._spans:
                missing = tuple(
                    state
                    for state in item.states
                    if state in incomplete
                    and _tiling(records[state], span.first, span.stop) is None
                )
                if missing:
                    children = missing if kind == OUTPUTS else ()
                    self._submit(WorkItem(kind, item.parent, children), span)
        while done := self._executor.collect():
            for job, arrays in done:
                for state, record in zip(job.item.states, self._store(job, arrays), strict=True):
                    records[state].append(record)
                self._count(job)
        return {state: self._assemble(records[state]) for state in states}

    def _submit(self, item: WorkItem, span: Span) -> None:
        self._executor.submit(Job(self._next_job, item, span))
        self._next_job += 1

    def _store(self, job: Job, arrays: np.ndarray) -> list[Record]:
        """Put a job's arrays into the memo at once; what stands there afterwards counts."""
        return self._memo.add(
            [
                Record(
                    state.to_bytes(),
                    job.item.kind,
                    job.span.first,
                    job.span.stop,
                    pack_array("float32", array.shape, np.ascontiguousarray(array).tobytes()),
                )
                for state, array in zip(job.item.states, arrays, strict=True)
            ]
        )

    def _count(self, job: Job) -> None:
        share = (job.span.stop - job.span.first) / self._batches
        if job.item.kind == OUTPUTS:
            self.counts.computed += share * len(job.item.children)
        else:
            self.counts.gradients += share
        self._on_result(self.counts)

    def _assemble(self, records: Sequence[Record]) -> np.ndarray:
        parts = _tiling(records, 0, self._batches)
        assert parts is not None, "every missing span was computed"
        arrays = []
        for record in parts:
            dtype, shape, data = unpack_array(record.value)
            arrays.append(np.frombuffer(data, dtype).reshape(shape))
        return np.concatenate(arrays)


def _tiling(records: Sequence[Record], first: int, stop: int) -> list[Record] | None:
    """Return records that cover the batches [first, stop) without overlap, or None.

    Spans come from the shards of past runs: each run's tile the whole. The longest that fits is
    taken at every step, going back where that leads nowhere.
    """
    if first == stop:
        return []
    starts = sorted(
        (r for r in records if r.first == first and r.stop <= stop), key=lambda r: -r.stop
    )
    for record in starts:
        rest = _tiling(records, record.stop, stop)
        if rest is not None:
            return [record, *rest]
    return None
