"""The inline engine: one worker in the caller's own process, which a debugger can step through."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch

from headsearch.engine.executor import Job, Plan, describe
from headsearch.errors import EngineError
from headsearch.model.bundle import ModelBundle, rebuild
from headsearch.scoring.evaluator import Evaluator
from headsearch.task.batches import BatchedData


class InlineExecutor:
    """Computes each job when its result is asked for, first come, first served."""

    name = "inline"

    def __init__(self, bundle: ModelBundle, data: BatchedData, plan: Plan) -> None:
        self.plan = plan
        self._threads = torch.get_num_threads()  # put back on close
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self._evaluator = make_evaluator(bundle, data, plan)
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._jobs.append(job)

    def collect(self) -> list[tuple[Job, np.ndarray]]:
        """See `Executor.collect`."""
        if not self._jobs:
            return []
        job = self._jobs.popleft()
        try:
            return [(job, self._evaluator.run(job.item, job.span))]
        except Exception as error:
            raise EngineError(f"{job} failed: {type(error).__name__}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`."""
        return describe(self)

    def close(self) -> None:
        """See `Executor.close`."""
        self._jobs.clear()
        torch.set_num_threads(self._threads)


def make_evaluator(bundle: ModelBundle, data: BatchedData, plan: Plan) -> Evaluator:
    """Make the evaluator that a worker of this plan runs."""
    return Evaluator(
        rebuild(bundle),
        data.batches,
        dtype=plan.dtype,
        device="cuda" if plan.gpus else "cpu",
        cache_bytes=plan.cache_bytes,
    )
