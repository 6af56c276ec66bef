"""Macro moves along a path: which rungs to score, as a function of what is known of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headsearch.heads import HeadSet

# Lengths of macro moves along a path; rungs between them are filled in where feasibility changes.
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Climb:
    """One path from one state.

    Attributes:
        start: the state.
        path: heads in the order in which to remove them.
        reach: how many of them a guide expects to be removable.
    """

    start: HeadSet
    path: tuple[int, ...]
    reach: int

    def state(self, rung: int) -> HeadSet:
        """The state on a rung: the first so many heads of the path are removed."""
        return self.start | HeadSet.of(self.path[:rung])

    def wanted(self, feasible: Callable[[int], bool | None]) -> list[int]:
        """Return the rungs to score next; none where the climb has come to its end.

        All up to the first rung past `reach`, then one by one while the last is feasible; then the
        rungs between the last feasible one and the next are halved.

        Args:
            feasible: what is known of a rung; None: nothing yet.
        """
        rungs = [k for k in LADDER if k < len(self.path)]
        if self.path:
            rungs.append(len(self.path))
        count = len([k for k in rungs if k <= self.reach]) + 1
        while True:
            climbed = rungs[:count]
            unknown = [k for k in climbed if feasible(k) is None]
            if unknown:
                return unknown
            if len(climbed) == len(rungs) or not feasible(climbed[-1]):
                break
            count += 1
        good = [k for k in climbed if feasible(k)]
        if not good or good[-1] == climbed[-1]:
            return []
        low, high = good[-1], climbed[climbed.index(good[-1]) + 1]
        while high - low > 1:
            middle = (low + high) // 2
            known = feasible(middle)
            if known is None:
                return [middle]
            low, high = (middle, high) if known else (low, middle)
        return []

    def likely(self, feasible: Callable[[int], bool | None]) -> list[int]:
        """Return the rungs that would be wanted after the wanted ones, likeliest first.

        Rungs within reach are taken to be feasible; any other may turn out either way.
        """
        asked = self.wanted(feasible)
        found: list[int] = []
        for guess in (False, True):

            def outcome(rung: int, guess: bool = guess) -> bool | None:
                known = feasible(rung)
                if known is None and rung in asked:
                    return rung <= self.reach or guess
                return known

            found += [k for k in self.wanted(outcome) if k not in found and k not in asked]
        return found if asked else []
