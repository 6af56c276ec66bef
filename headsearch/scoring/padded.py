"""Batches padded into one run, for backward passes on devices that like few large steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headsearch.task.batches import Batch, Span
from headsearch.task.shards import rounds

# Padded tokens and examples of batches that have a backward pass together, at most.
MOST_TOKENS, MOST_EXAMPLES = 8192, 1024


def groups(batches: Sequence[Batch]) -> list[Span]:
    """Return which batches have a backward pass together.

    They are neighbours of one round, and which they are depends on all batches alone: not on the
    span that is asked for.
    """
    found: list[Span] = []
    for whole in rounds(len(batches)):
        first = whole.first
        for number in range(whole.first, whole.stop):
            some = batches[first : number + 1]
            examples = sum(batch.examples for batch in some)
            tokens = examples * max(batch.tokens for batch in some)
            if number > first and (tokens > MOST_TOKENS or examples > MOST_EXAMPLES):
                found.append(Span(first, number))
                first = number
        found.append(Span(first, whole.stop))
    return found


def padding_kept(batch: Batch) -> Batch:
    """Return a batch as if its padding were tokens."""
    mask = batch.arrays["attention_mask"]
    return Batch({**batch.arrays, "attention_mask": np.ones_like(mask)}, batch.readout)


def hiding(batch: Batch) -> Tensor:
    """Return what scores are biased by to hide padding, (examples, 1, 1, tokens)."""
    seen = torch.arange(batch.tokens)[None] < torch.from_numpy(batch.lengths)[:, None]
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    return bias[:, None, None]
