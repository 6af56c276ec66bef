"""Lowers the bound that rests on an assumption: looks for small sets that miss the budget.

Of pairwise disjoint sets that miss the budget one head each must stay (see `bound`), so what is
wanted are small sets outside those that are known. Heads outside are taken in the order of most
predicted damage until the metric should miss the budget; how many of them it takes is then found by
scoring prefixes. As these are given up as soon as they can't meet the budget, most of them cost a
fraction of an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.hitting import union
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Ask

# Prefixes are built this much further than where the budget should be missed: predictions add up.
BEYOND = 16
# Prefixes that are looked at ahead, around the one that should miss the budget first.
AROUND = 3


class Sharpener:
    """Scores sets that, if they miss the budget, lower the bound.

    Args:
        ledger: scores and commits.
        evaluations: how much it may cost, in evaluations.
    """

    def __init__(self, ledger: Ledger, evaluations: int) -> None:
        self._ledger, self._evaluations = ledger, evaluations
        self._refuted = 0  # heads of sets that miss the budget within one that meets it, as bits
        self._last: tuple[tuple[int, int, bool], tuple[tuple[int, ...], int]] | None = None

    def run(self) -> None:
        """Go on until the evaluations are spent, or no more disjoint set is found."""
        if not self._evaluations:
            return
        ledger, root = self._ledger, HeadSet()
        limit = ledger.evaluations + self._evaluations
        path, expected = self._path(self._taken())
        while ledger.evaluations + 1 <= limit:  # each may have to be scored to the end
            length, shortest = self._next(path, expected)
            if length is None and shortest is None:
                return
            if length is None:
                found_bits = HeadSet.of(path[:shortest]).bits
                if found_bits & ~self._taken():  # not among the disjoint ones: it is refuted
                    self._refuted |= found_bits
                path, expected = self._path(self._taken())
                continue
            found = ledger.score([(root, (HeadSet.of(path[:length]),))], early=True)
            ledger.commit("bound", ledger.baseline, length, found)

    def ahead(self) -> Iterable[Ask]:
        """Yield what is likely to be asked first, for workers that would idle."""
        if not self._evaluations:
            return
        path, expected = self._path(self._taken())
        lengths = range(max(1, expected - AROUND), min(len(path), expected + AROUND) + 1)
        states = (HeadSet.of(path[:length]) for length in lengths)
        unknown = tuple(state for state in states if state not in self._ledger.known)
        if unknown:
            yield self._ledger.early(HeadSet(), unknown)

    def _next(self, path: tuple[int, ...], expected: int) -> tuple[int | None, int | None]:
        """Return the length of the prefix to score next, and the shortest known to miss the budget.

        Lengths are doubled from the expected one while prefixes meet the budget, and halved
        between the longest that does and the shortest that does not, down to the shortest; that
        one is then among the disjoint sets, and paths lead elsewhere.
        """
        low, high = 0, len(path) + 1
        for length in range(1, len(path) + 1):
            node = self._ledger.known.get(HeadSet.of(path[:length]))
            if node is not None and node.feasible:
                low = length
            elif node is not None:
                high = length
                break
        shortest = high if high <= len(path) else None
        if high - low <= 1:
            return None, shortest
        if shortest is None:
            return min(len(path), max(expected, 2 * low)), None
        return (low + high) // 2, shortest

    def _taken(self) -> int:
        """Return the heads that no further set may have, as bits."""
        return self._refuted | union(self._ledger.bounds.packing())

    def _path(self, taken: int) -> tuple[tuple[int, ...], int]:
        """Return `_path_outside`; of what was looked at last, if the same is known as then.

        Workers that idle have it looked at too, and whether they do must not change an answer.
        """
        ledger, total = self._ledger, self._ledger.problem.shape.total
        singles = HeadSet.of(j for j in range(total) if ledger.is_whole(HeadSet.of([j])))
        known = (taken, singles.bits, HeadSet() in ledger.slopes)
        if self._last is None or self._last[0] != known:
            self._last = known, self._path_outside(taken)
        return self._last[1]

    def _path_outside(self, taken: int) -> tuple[tuple[int, ...], int]:
        """Return other heads, most predicted damage first, and how many should miss the budget.

        Predictions are linear: measured effects of single removals, where these were scored, else
        gradients at the full model.
        """
        ledger = self._ledger
        objective, total = ledger.problem.objective, ledger.problem.shape.total
        known = {
            j: effect
            for j in range(total)
            if not taken >> j & 1 and (effect := self._effect(j)) is not None
        }
        if not known:
            return (), 0
        heads, effects = list(known), np.stack(list(known.values()))  # (heads, examples, classes)
        outputs = ledger.baseline.outputs.astype(np.float64)
        path, expected = list[int](), 0
        while len(path) < len(heads) and (not expected or len(path) < expected + BEYOND):
            places = [place for place, j in enumerate(heads) if j not in path]
            losses = objective.losses(outputs[None] + effects[places]).mean(axis=1)
            worst = places[int(np.argmax(losses))]
            outputs = outputs + effects[worst]
            path.append(heads[worst])
            if not expected and not ledger.threshold.feasible(objective.score(outputs)):
                expected = len(path)
        return tuple(path), expected or len(path)

    def _effect(self, head: int) -> np.ndarray | None:
        """Return what removing a head does to the outputs, if anything is known of it."""
        ledger = self._ledger
        node = ledger.known.get(HeadSet.of([head]))
        if node is not None and node.whole:
            return np.asarray(node.outputs - ledger.baseline.outputs)
        slopes = ledger.slopes.get(HeadSet())
        return None if slopes is None else np.asarray(-slopes[:, :, head])
