"""The tokens of a batch's examples one after the other, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from headsearch.scoring.products import ROWS
from headsearch.task.batches import Batch

# First tokens come in multiples of this: with fewer, MKL's batched products, which those of a last
# layer are, take another way through the same sums on Intel's processors.
FIRST_ROWS = 16


@dataclass(frozen=True)
class Filling:
    """With how many rows products come: there are some more than tokens or examples need.

    Attributes:
        rows, examples: rows of tokens, and of examples where each has one, come in multiples.
        sizes: or rows of tokens come in the least of these that holds them, ascending.
    """

    rows: int = ROWS
    examples: int = FIRST_ROWS
    sizes: tuple[int, ...] = ()

    def more_rows(self, count: int) -> int:
        """Return how many rows there are more than so many tokens need."""
        for size in self.sizes:
            if count <= size:
                return size - count
        return -count % self.rows

    def more_examples(self, count: int) -> int:
        """The same where each example has one."""
        return -count % self.examples


NARROW = Filling()


@dataclass(frozen=True)
class Run:
    """Neighbouring examples of one length.

    Attributes:
        first: row of the first one's first token.
        examples: how many there are.
        tokens: how many each has.
    """

    first: int
    examples: int
    tokens: int


class Packing:
    """Where the tokens of each example are among the rows of a batch.

    All products of a layer but attention's own take rows, whatever example they are of, so nothing
    is spent on padding; attention takes one run after the other. There are a few more rows at the
    end, so that their number is a multiple of `ROWS`; so there are of examples where each has one,
    a multiple of `FIRST_ROWS`.

    Args:
        batch: the examples; those of one length should be neighbours.
        device: where the indices are to be.

    Attributes:
        runs: the examples, in order.
        tokens: the most tokens that one has.
        count: how many examples there are.
        rows: how many tokens there are.
    """

    def __init__(self, batch: Batch, device: torch.device, filling: Filling = NARROW) -> None:
        lengths = batch.lengths
        self._real: Tensor | None = None  # the positions that are no padding, of all in a row
        if int(lengths.min()) < batch.tokens:
            real = np.flatnonzero(batch.arrays["attention_mask"].ravel())
            self._real = torch.from_numpy(real).to(device)
        starts = np.cumsum([0, *lengths])
        self.rows = int(starts[-1])
        self._more = filling.more_rows(self.rows)
        self._more_examples = filling.more_examples(len(lengths))
        edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1), len(lengths)]
        self.runs = [
            Run(int(starts[start]), int(stop - start), int(lengths[start]))
            for start, stop in pairwise(edges)
        ]
        self.tokens, self.count = batch.tokens, batch.examples
        self._starts, self._lengths, self._device = starts[:-1], lengths, device

    @cached_property
    def first(self) -> Tensor:
        """Rows of the examples' first tokens, (examples and some more,)."""
        return self._index(self._starts, self._more_examples)

    @cached_property
    def edges(self) -> Tensor:
        """Where each example's rows begin and the last one's end, (examples + 1,) int32."""
        edges = np.append(self._starts, self.rows).astype(np.int32)
        return torch.from_numpy(edges).to(self._device)

    @cached_property
    def counts(self) -> Tensor:
        """0, 1, 2 … up to the number of examples, (examples + 1,) int32."""
        return torch.arange(self.count + 1, dtype=torch.int32, device=self._device)

    @cached_property
    def examples(self) -> Tensor:
        """Of each row which example it is of, (rows,)."""
        return self._index(np.repeat(np.arange(len(self._lengths)), self._lengths), self._more)

    def of_rows(self, of_examples: Tensor) -> Tensor:
        """Return what is of each row, (rows, …), of what is of each example; all of one length.

        Unlike an index's, the gradient is a plain sum.
        """
        (run,) = self.runs
        every = of_examples[:, None].expand(-1, run.tokens, *of_examples.shape[1:])
        return self.fill([every.flatten(0, 1)])

    def pack(self, padded: Tensor) -> Tensor:
        """Return the rows of all tokens, (rows, hidden), of a padded tensor."""
        rows = padded.flatten(0, 1)
        return self.fill([rows if self._real is None else rows.index_select(0, self._real)])

    def fill(self, parts: list[Tensor]) -> Tensor:
        """Join the rows of all runs, (rows, …), and add those that there are more."""
        return _join(parts, self._more)

    def fill_examples(self, parts: list[Tensor]) -> Tensor:
        """The same where each example has one row, (examples and some more, …)."""
        return _join(parts, self._more_examples)

    def split(self, tensor: Tensor) -> Iterator[tuple[Run, Tensor]]:
        """Yield each run with its rows of a tensor (rows, …), as (examples, tokens, …)."""
        for run in self.runs:
            part = tensor[run.first : run.first + run.examples * run.tokens]
            yield run, part.view(run.examples, run.tokens, *tensor.shape[1:])

    def _index(self, values: np.ndarray, more: int) -> Tensor:
        return torch.from_numpy(np.pad(values, (0, more))).to(self._device)


def _join(parts: list[Tensor], more: int) -> Tensor:
    if more:
        parts = [*parts, parts[0].new_zeros(more, *parts[0].shape[1:])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
