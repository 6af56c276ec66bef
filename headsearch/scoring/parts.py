"""Which examples are computed at once, and where their tokens are."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from headsearch.scoring.packing import NARROW, Filling, Packing
from headsearch.scoring.padded import groups
from headsearch.scoring.wide import MOST_EXAMPLES
from headsearch.task.batches import Batch, Span, gather


class Part(NamedTuple):
    """Examples that are computed at once.

    Attributes:
        key: what its traces are kept under; None: they are not kept.
        batch: the examples.
        packing: where their tokens are.
    """

    key: Hashable | None
    batch: Batch
    packing: Packing


class Parts:
    """The parts of any run of batches, or of any examples.

    Args:
        batches: all batches of the task, in its order.
        device: where they are computed.
        filling: with how many rows products come.
        wide: whether batches are packed together into large products, see `scoring.wide`.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        device: torch.device,
        filling: Filling = NARROW,
        wide: bool = False,
    ) -> None:
        self.filling, self.wide = filling, wide
        self._batches, self._device = list(batches), device
        self._of_span: dict[Span, list[Part]] = {}

    def of_span(self, span: Span) -> list[Part]:
        """Return the batches of a span, or packed together what is in them; the same each time."""
        found = self._of_span.get(span)
        if found is None:
            if self.wide:
                batches = self._gather(np.arange(*self._starts[[span.first, span.stop]]))
                found = [self._part((span, number), batch) for number, batch in enumerate(batches)]
            else:
                numbers = range(span.first, span.stop)
                found = [self._part(number, self._batches[number]) for number in numbers]
            self._of_span[span] = found
        return found

    def of_examples(self, places: np.ndarray) -> Iterator[Part]:
        """Yield the parts of any examples, (examples,) places in the order of the batches."""
        for batch in self._gather(places):
            yield self._part(None, batch)

    def for_backward(self, span: Span) -> Iterator[tuple[Batch, slice]]:
        """Yield what has a backward pass together where packed, and which rows are the span's."""
        starts = self._starts
        for group in self._groups:
            first, stop = max(group.first, span.first), min(group.stop, span.stop)
            if first < stop:
                examples = np.arange(starts[group.first], starts[group.stop])
                (batch,) = gather(self._batches, examples, (len(examples), sys.maxsize))
                yield batch, slice(starts[first] - examples[0], starts[stop] - examples[0])

    def _part(self, key: Hashable | None, batch: Batch) -> Part:
        return Part(key, batch, Packing(batch, self._device, self.filling))

    def _gather(self, examples: np.ndarray) -> Iterator[Batch]:
        packed = (MOST_EXAMPLES, max(self.filling.sizes)) if self.wide else None
        return gather(self._batches, examples, packed)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first example of each batch, and their number at the end, (batches + 1,)."""
        return np.cumsum([0, *(batch.examples for batch in self._batches)])

    @cached_property
    def _groups(self) -> list[Span]:
        """Which batches have a backward pass together."""
        return groups(self._batches)
