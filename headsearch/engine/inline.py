"""The inline engine: one worker in the caller's own process, which a debugger can step through."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any

import torch

from headsearch.engine.executor import Done, Event, Failed, Job, Plan, Up, describe
from headsearch.engine.worker import free_cuda, make_evaluator, run_job
from headsearch.model.bundle import ModelBundle
from headsearch.scoring.base import Scorer
from headsearch.task.batches import BatchedData


class InlineWorkers:
    """Computes each call when its result is asked for."""

    name = "inline"
    depth = 1
    alone = True

    def __init__(self, bundle: ModelBundle, data: BatchedData, plan: Plan) -> None:
        self.plan = plan
        self._threads = torch.get_num_threads()  # put back on close
        try:
            if plan.threads is not None:
                torch.set_num_threads(plan.threads)
            self._evaluator: Scorer | None = make_evaluator(
                bundle, data, dtype=plan.dtype, gpus=plan.gpus, cache_bytes=plan.cache_bytes
            )
        except BaseException:
            torch.set_num_threads(self._threads)
            raise
        self._calls: deque[tuple[int, Sequence[Job]]] = deque()
        self._is_up = False

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        """See `Workers.send`."""
        self._calls.append((call, jobs))

    def poll(self, timeout: float) -> list[Event]:
        """See `Workers.poll`."""
        if not self._is_up:
            self._is_up = True
            return [Up(0)]
        if not self._calls:
            return []
        call, jobs = self._calls.popleft()
        started, arrays = perf_counter(), []
        assert self._evaluator is not None  # it is not closed
        for place, job in enumerate(jobs):
            try:
                arrays.append(run_job(self._evaluator, job.item, job.piece.where, job.speculative))
            except Exception as error:
                return [Failed(call, place, f"{type(error).__name__}: {error}")]
        return [Done(call, arrays, perf_counter() - started)]

    def now(self) -> float:
        """See `Workers.now`."""
        return monotonic()

    def show(self, figures: Mapping[str, float]) -> None:
        """See `Workers.show`."""

    def describe(self) -> dict[str, Any]:
        """See `Workers.describe`."""
        return describe(self)

    def close(self) -> None:
        """See `Workers.close`."""
        self._calls.clear()
        # Whoever made the search may still hold this object, but the memory is wanted now.
        self._evaluator = None
        free_cuda()
        torch.set_num_threads(self._threads)
