"""w(S): what removing heads saves, as a table for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from headsearch.errors import InputError
from headsearch.heads import HeadMap, HeadSet

HEADS, PARAMETERS, LATENCY = "heads", "parameters", "latency"
UNITS = {HEADS: "heads", PARAMETERS: "parameters", LATENCY: "microseconds"}
WEIGHT_FORMAT = 1


@dataclass(frozen=True)
class Weight:
    """What is saved where so many heads of each layer are removed, in whole numbers.

    Whole numbers, so that sums are exact and states compare the same everywhere. What a layer saves
    need not be proportional to its heads: the last one may take more with it than any before.

    Attributes:
        kind: a name in `UNITS`, which says what is counted.
        saved: for each layer, by how many of its heads are removed, 0 to all, never falling.

    Raises:
        InputError: it is no such table.

    >>> weight = Weight(LATENCY, ((0, 1, 5), (0, 2, 3)))
    >>> weight.of(HeadMap((2, 2)), HeadSet.of([0, 1, 2])), weight.total, weight.most(1)
    (7, 8, 2)
    """

    kind: str
    saved: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise InputError(f"a weight must be one of {', '.join(UNITS)} but got {self.kind!r}")
        for layer, row in enumerate(self.saved):
            whole = all(isinstance(n, int) and not isinstance(n, bool) for n in row)
            if not row or not whole or row[0] != 0 or list(row) != sorted(row):
                raise InputError(
                    f"what layer {layer} saves must be whole numbers from 0 on that never fall "
                    f"but got {list(row)}"
                )
        if not self.total:
            raise InputError(f"removing every head saves no {UNITS[self.kind]}: nothing to search")

    @classmethod
    def each(cls, shape: HeadMap, kind: str = HEADS, saves: Sequence[int] | None = None) -> Weight:
        """Return the weight by which every head of a layer saves as much as the others in it.

        Args:
            shape: the heads.
            kind: what is counted.
            saves: for each layer, what one of its heads saves; None: 1.
        """
        per_head = saves or [1] * shape.layers
        rows = zip(shape.heads_per_layer, per_head, strict=True)
        return cls(kind, tuple(tuple(k * one for k in range(n + 1)) for n, one in rows))

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return UNITS[self.kind]

    @property
    def total(self) -> int:
        """What is saved where every head is removed."""
        return sum(row[-1] for row in self.saved)

    @cached_property
    def counts_heads(self) -> bool:
        """Whether every head saves as much as any other."""
        one = next(row[1] for row in self.saved if len(row) > 1)
        return all(n == k * one for row in self.saved for k, n in enumerate(row))

    @cached_property
    def step(self) -> int:
        """What a head saves in the mean, at least 1."""
        return max(1, self.total // sum(len(row) - 1 for row in self.saved))

    def of(self, shape: HeadMap, heads: HeadSet) -> int:
        """Return what removing a set of heads saves."""
        bits, sum_ = heads.bits, 0
        for row, count in zip(self.saved, shape.heads_per_layer, strict=True):
            sum_ += row[(bits & (1 << count) - 1).bit_count()]
            bits >>= count
        return sum_

    def of_rows(self, shape: HeadMap, rows: np.ndarray) -> np.ndarray:
        """Return what sets save that are given as rows of 0 and 1, (sets, heads) -> (sets,)."""
        sums, start = np.zeros(len(rows), np.int64), 0
        for row, count in zip(self.saved, shape.heads_per_layer, strict=True):
            removed = rows[:, start : start + count].sum(axis=1).astype(np.int64)
            sums += np.array(row)[removed]
            start += count
        return sums

    def gains(self, shape: HeadMap, start: HeadSet, path: Sequence[int]) -> list[int]:
        """Return what 0, 1, 2, … heads of a path save beyond its start."""
        at, state = self.of(shape, start), start
        found = [0]
        for head in path:
            state = state.add(head)
            found.append(self.of(shape, state) - at)
        return found

    def most(self, heads: int) -> int:
        """Return the most that any set of so many heads or fewer saves."""
        return int(self._most[min(heads, len(self._most) - 1)])

    @cached_property
    def _most(self) -> np.ndarray:
        """By how many heads are removed; layer by layer, as in a knapsack."""
        best = np.zeros(1, np.int64)
        for row in self.saved:
            made = np.zeros(len(best) + len(row) - 1, np.int64)
            for count, saves in enumerate(row):
                part = made[count : count + len(best)]
                np.maximum(part, best + saves, out=part)
            best = np.maximum.accumulate(made)
        return best

    def worths(self, shape: HeadMap) -> np.ndarray:
        """Return what each head is worth to guides, (heads,), 1.0 in the mean.

        A layer's heads share what all of them save: guides look many heads ahead.
        """
        if self.counts_heads:
            return np.ones(shape.total)
        mean = self.total / shape.total
        rows = zip(self.saved, shape.heads_per_layer, strict=True)
        # A head that saves nothing has some worth, or costs could not be divided by it.
        return np.concatenate(
            [np.full(n, max(row[-1] / max(n, 1) / mean, 1e-3)) for row, n in rows]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `weight.json`."""
        return {
            "format": WEIGHT_FORMAT,
            "kind": self.kind,
            "unit": self.unit,
            "saved": [list(row) for row in self.saved],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], shape: HeadMap) -> Weight:
        """Return the weight that `to_json` wrote, which must be of the heads of this shape.

        Raises:
            InputError: it is something else.
        """
        if values.get("format") != WEIGHT_FORMAT:
            raise InputError(
                f"a weight's `format` must be {WEIGHT_FORMAT} but got {values.get('format')}"
            )
        try:
            weight = cls(values["kind"], tuple(tuple(row) for row in values["saved"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"not a weight: {error!r}") from None
        if tuple(len(row) - 1 for row in weight.saved) != shape.heads_per_layer:
            raise InputError(
                f"the weight is for heads {[len(row) - 1 for row in weight.saved]} but the model "
                f"has {list(shape.heads_per_layer)}"
            )
        return weight


def by_worth(costs: np.ndarray, worths: np.ndarray) -> np.ndarray:
    """Return costs per worth, less is better; what gains anyway gains more where it saves more.

    Args:
        costs, worths: of the same shape; a worth of 1 changes nothing.
    """
    return np.asarray(np.where(costs > 0, costs / worths, costs * worths))
