"""What a run's weight is: heads, their parameters, or the time that they take where it is run."""

from __future__ import annotations

import math

import numpy as np

from headsearch.model.attention_times import attention_times
from headsearch.model.parameters import parameters_saved
from headsearch.run.config import RunConfig
from headsearch.run.prepare import Task
from headsearch.search.weight import HEADS, PARAMETERS, Weight

# Examples of which time is measured at once.
LATENCY_BATCH = 32


def weigh(task: Task, config: RunConfig) -> Weight:
    """Return what removing heads saves.

    Time is measured on this machine, on its GPU if it has one, so that it differs from one call to
    the next: a run keeps what was measured at its start.

    Raises:
        InputError: removing every head would save nothing.
    """
    if config.weight == HEADS:
        return Weight.each(task.shape)
    if config.weight == PARAMETERS:
        table = parameters_saved(task.model)
    else:
        lengths = np.concatenate([batch.lengths for batch in task.data.batches])
        table = attention_times(task.model, LATENCY_BATCH, math.ceil(lengths.mean()))
    return Weight(config.weight, tuple(tuple(row) for row in table))
