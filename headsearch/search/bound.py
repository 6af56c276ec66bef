"""The bound: no set of more heads can be removed within the budget, and what that rests on.

Two limits are kept, for nothing may silently assume that the metric falls whenever heads go.

`proved` assumes nothing: it is the largest number of heads of which not every set is known to miss
the budget. It falls below the number of all heads only where every set of a size was scored.

`assumed` takes it that what misses the budget still misses it with more heads removed. Then of
every nogood, a scored set that misses the budget, some head must stay: the heads that stay are a
hitting set of the nogoods, and a lower limit on its size is an upper limit on what is removable
(implicit hitting sets, as in Davies and Bacchus 2011, "Solving MAXSAT by Solving a Sequence of
Simpler SAT Instances"). A nogood that a scored feasible set contains refutes that for itself. It is
counted, and left out of the bound, so that no bound is ever below the best state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

from headsearch.heads import HeadMap
from headsearch.search.family import Family
from headsearch.search.hitting import by_size, least_hitting, packing
from headsearch.search.problem import Node

# How much `Bounds.now` may do to prove that more heads stay; see `hitting.least_hitting`.
THOROUGH = 5_000_000


@dataclass(frozen=True)
class Bound:
    """Upper limits on how many heads are removable within the budget, and what they rest on.

    Attributes:
        total: all heads of the model.
        best: most heads of a scored set that meets the budget.
        proved: no set of more heads meets the budget, whatever the metric does.
        assumed: no set of more heads does, under `assumption`.
        rests_on: nogoods that `assumed` is computed from; 0 where it needs no assumption.
        nogoods: scored sets that miss the budget and are within no scored set that meets it.
        contradicted: scored sets that miss the budget and are within one that meets it; left out.
        tested: scored sets that contain a smaller scored one that misses the budget.
        violations: how many of these meet the budget: as often was the assumption seen to fail.
    """

    total: int
    best: int
    proved: int
    assumed: int
    rests_on: int
    nogoods: int
    contradicted: int
    tested: int
    violations: int

    @property
    def assumption(self) -> str:
        """What `assumed` assumes, in words."""
        if not self.rests_on:
            return "none"
        if self.rests_on == 1:
            return "the scored set of heads that misses the budget is part of no set that meets it"
        return (
            f"none of {self.rests_on} scored sets of heads that miss the budget is part of a set "
            "that meets it"
        )

    def to_step(self) -> dict[str, int]:
        """Return what is written down with every step of a search."""
        return {
            "heads": self.proved,
            "assumed": self.assumed,
            "tested": self.tested,
            "violations": self.violations,
        }

    def to_json(self, removed: int) -> dict[str, Any]:
        """Return both limits, and all that must be said where the second is shown.

        Args:
            removed: heads that the returned state removes: fewer than `best` where that failed the
                plain path, or where another state saves more.
        """
        return {
            "heads": self.proved,
            "graph": "all sets of heads",
            "optimal": self.proved == removed,
            "assumed": {
                "heads": self.assumed,
                "assumption": self.assumption,
                "optimal": self.assumed == removed,
                "rests_on": self.rests_on,
                "nogoods": self.nogoods,
                "contradicted": self.contradicted,
                "tested": self.tested,
                "violations": self.violations,
            },
        }


def bound_text(bound: Mapping[str, int]) -> str:
    """Return in a line what a person should read of `Bound.to_step`."""
    text = f"{bound['heads']} (proved)"
    if bound["assumed"] < bound["heads"]:
        text += (
            f", {bound['assumed']} if sets that miss the budget still miss it with more heads "
            f"removed (seen to fail in {bound['violations']} of {bound['tested']})"
        )
    return text


class Bounds:
    """What scored states say about how much can be removed; see the module.

    Observing a state takes a few questions to families of the states before it: 0.05 to 0.3 ms
    where there are 100,000. What is answered is a function of the observed states, not of their
    order nor of what was asked before.

    Args:
        shape: the heads.
    """

    def __init__(self, shape: HeadMap) -> None:
        self.total = total = shape.total
        self.best = 0
        self._seen: set[int] = set()
        self._missing = [0] * (total + 1)  # of every size, how many scored sets miss the budget
        self._proved = total
        self._feasible = Family(total)
        # All sets that miss the budget, split in three: those in no scored feasible set that
        # contain no other such, those that do, and those in a feasible set.
        self._nogoods, self._wider, self._contradicted = Family(total), Family(total), 0
        self._smallest = Family(total)  # the same without those that contain another, whatever
        self._violations: set[int] = set()
        self._packing: list[int] | None = None  # None: has to be made anew
        self._kept: tuple[int, int, int] | None = None  # effort, heads that stay, sets it needs

    def observe(self, node: Node) -> None:
        """Take note of a scored state; one that is scored anew, to its end, says nothing new."""
        bits = node.heads.bits
        if bits in self._seen:
            return
        self._seen.add(bits)
        if node.feasible:
            self._meets(bits)
        else:
            self._misses(bits)

    def now(self, effort: int = 0) -> Bound:
        """Return the bound.

        Args:
            effort: how much may be done to prove that more heads stay than there are disjoint
                nogoods; 0 for a quick answer, `THOROUGH` for a report.
        """
        if self._kept is None or self._kept[0] != effort:
            least = rests_on = len(self.packing())
            if effort:
                least, sets = least_hitting(self.nogoods(), effort)
                rests_on = len(sets)
            self._kept = effort, least, rests_on
        _, least, rests_on = self._kept
        helps = self.total - least < self._proved
        return Bound(
            total=self.total,
            best=self.best,
            proved=self._proved,
            assumed=self.total - least if helps else self._proved,
            rests_on=rests_on if helps else 0,
            nogoods=len(self._nogoods) + len(self._wider),
            contradicted=self._contradicted,
            tested=sum(self._missing) - len(self._smallest) + len(self._violations),
            violations=len(self._violations),
        )

    def nogoods(self) -> list[int]:
        """Return the nogoods that contain no other and are not contradicted, smallest first."""
        return by_size(self._nogoods)

    def packing(self) -> list[int]:
        """Return disjoint nogoods, smallest first."""
        if self._packing is None:
            self._packing = by_size(packing(self.nogoods()))
        return self._packing

    # States as they come

    def _meets(self, bits: int) -> None:
        self._feasible.add(bits)
        self.best = max(self.best, bits.bit_count())
        if self._smallest.within(bits):
            self._violations.add(bits)
        refuted = self._nogoods.within(bits)
        if not refuted:
            return
        freed: set[int] = set()
        for one in refuted:
            self._nogoods.discard(one)
            freed.update(self._wider.around(one))
        also = self._wider.within(bits)
        for one in also:
            self._wider.discard(one)
        self._contradicted += len(refuted) + len(also)
        for one in by_size(freed.difference(also)):
            if not self._nogoods.within(one):
                self._wider.discard(one)
                self._nogoods.add(one)
        self._packing = self._kept = None

    def _misses(self, bits: int) -> None:
        size = bits.bit_count()
        self._missing[size] += 1
        while self._missing[self._proved] == comb(self.total, self._proved):
            self._proved -= 1
        _add_smallest(self._smallest, bits)
        against = self._feasible.around(bits) if size < self.best else []
        self._violations.update(against)
        if against:
            self._contradicted += 1
        elif self._nogoods.within(bits):
            self._wider.add(bits)
        else:
            for one in _add_smallest(self._nogoods, bits):
                self._wider.add(one)
            self._packing = self._kept = None


def _add_smallest(family: Family, one: int) -> list[int]:
    """Add a set unless the family has one within it; return those around it, which have to go."""
    if family.within(one):
        return []
    gone = family.around(one)
    for other in gone:
        family.discard(other)
    family.add(one)
    return gone
