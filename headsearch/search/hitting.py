"""How few heads can stay: lower limits on the smallest hitting set, proved in whole numbers.

Sets of heads are bitsets here, Python integers. A hitting set has a head of every given set. Its
least size is at least the number of given sets that are pairwise disjoint (a packing; the two
problems are each other's dual), and exactly k + 1 or more where a search through all ways to choose
k heads fails.

Linear programming was tried in the packing's place. It proves more before any search does, but the
search catches up with it within the same time on all but large, dense instances, which a search
for heads does not make; and its floating point would have to be proved anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

import numpy as np

# Pairs of sets that are looked at to make a packing larger, and heads that `hitting_set` may look
# at to make its answer smaller: some ten milliseconds. Where there are more pairs, sets are so
# large that few are disjoint.
PAIRS = 100_000


class _Spent(Exception):  # noqa: N818  # control flow, not an error
    """The search may not go on."""


def heads_of(bits: int) -> Iterator[int]:
    """Yield the heads of a bitset, ascending."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def union(sets: Iterable[int]) -> int:
    """Return the heads that are in any of the sets."""
    return reduce(or_, sets, 0)


def by_size(sets: Iterable[int]) -> list[int]:
    """Return the sets in the one order that all here start from: smaller first, then the bits."""
    return sorted(sets, key=lambda one: (one.bit_count(), one))


def packing(sets: Sequence[int]) -> list[int]:
    """Return many pairwise disjoint sets of those given.

    Set packing is NP-hard; this takes the better of two greedy choices, smallest sets first and
    those first whose heads are in the fewest other sets, and then puts two sets in one's place as
    long as that is possible (local search as in Hurkens and Schrijver 1989). Supersets of other
    sets do no harm and no good.

    Args:
        sets: none empty.
    """
    ordered = by_size(sets)
    if not ordered:
        return []
    table = _table(ordered)  # (sets, heads)
    crowded = table @ table.sum(axis=0)  # (sets,)
    rare = [ordered[place] for place in np.argsort(crowded, kind="stable")]
    return _two_for_one(ordered, max(_disjoint(ordered), _disjoint(rare), key=len))


def hitting_set(sets: Sequence[int], rank: Sequence[int]) -> int:
    """Return few heads that hit every set, by greedy choice of the head that hits most.

    Args:
        sets: none empty.
        rank: a number for each head; of heads that hit as many, the one with the least is taken.
    """
    if not sets:
        return 0
    table = _table(sets)  # (sets, heads)
    chosen: list[int] = []
    left = np.ones(len(sets), dtype=bool)
    order = np.array(sorted(range(table.shape[1]), key=lambda head: rank[head]))
    while left.any():
        hits = table[left].sum(axis=0)[order]
        chosen.append(int(order[np.argmax(hits)]))
        left &= table[:, chosen[-1]] == 0
    counts = table[:, chosen].sum(axis=1)
    for head in sorted(chosen, key=lambda head: -rank[head]):
        if (counts - table[:, head]).all():  # the others hit all that it hits
            counts = counts - table[:, head]
            chosen.remove(head)
    return union(1 << head for head in chosen)


def least_hitting(sets: Sequence[int], effort: int) -> tuple[int, list[int]]:
    """Return a lower limit on the size of any hitting set, and the sets that it rests on.

    Sets that share no head with others, even through others, are looked at on their own. For each
    such part the packing comes first; then, one after the other, hitting sets of that size are
    proved not to exist.

    Args:
        sets: none empty, none within another.
        effort: how many heads of sets the proofs may look at in all; 1,000,000 are about a fifth
            of a second.
    """
    limit, rests_on = 0, list[int]()
    for part in _parts(sets):
        disjoint = packing(part)
        least, needed = len(disjoint), disjoint
        enough = hitting_set(part, range(union(part).bit_length())).bit_count()
        while least < enough and effort > 0:
            proved, effort = _none_so_small(part, least, effort)
            if not proved:
                break
            least, needed = least + 1, part
        limit += least
        rests_on += needed
    return limit, rests_on


def _table(sets: Sequence[int]) -> np.ndarray:
    """Return which set has which head, (sets, heads) int32."""
    heads = union(sets).bit_length()
    size = (heads + 7) // 8
    data = b"".join(one.to_bytes(size, "little") for one in sets)
    rows = np.frombuffer(data, np.uint8).reshape(len(sets), size)
    return np.unpackbits(rows, axis=1, count=heads, bitorder="little").astype(np.int32)


def _disjoint(sets: Iterable[int]) -> list[int]:
    """Return each set that has no head of those returned before it."""
    found, used = list[int](), 0
    for one in sets:
        if not one & used:
            found.append(one)
            used |= one
    return found


def _two_for_one(ordered: Sequence[int], found: list[int]) -> list[int]:
    """Put two sets in the place of one, as long as that is possible."""
    used, pairs = union(found), PAIRS
    full = union(ordered)
    place = 0
    while place < len(found) and pairs > 0:
        others = used ^ found[place]
        room = (full & ~others).bit_count()
        pairs -= len(ordered)
        fitting = [one for one in ordered if not one & others]
        for first in fitting:
            most = room - first.bit_count()  # the second has no more heads than are left
            if most < fitting[0].bit_count() or pairs <= 0:
                break
            pairs -= len(fitting)
            second = next((one for one in fitting if not one & first), None)
            if second is not None:
                found[place : place + 1] = [first, second]
                used = union(found)
                more = _disjoint(one for one in ordered if not one & used)
                found += more
                used |= union(more)
                place = -1  # what fitted nowhere may fit now
                break
        place += 1
    return found


def _parts(sets: Sequence[int]) -> list[list[int]]:
    """Split the sets into parts that share no head, each in the order of `by_size`."""
    parts: list[tuple[int, list[int]]] = []
    for one in by_size(sets):
        heads, members = one, list[int]()
        apart = []
        for part in parts:
            if part[0] & one:
                heads |= part[0]
                members += part[1]
            else:
                apart.append(part)
        parts = [*apart, (heads, [*members, one])]
    return [by_size(members) for _, members in parts]


def _none_so_small(sets: Sequence[int], size: int, effort: int) -> tuple[bool, int]:
    """Return whether it was proved that no `size` heads hit all sets, and the effort left.

    Branches on the heads of the smallest set that is not hit yet; each branch may forget the heads
    that the branches before it took.
    """

    def hit(left: list[int], size: int) -> bool:
        """Whether so many heads hit what is left."""
        nonlocal effort
        if not left:
            return True
        left = sorted(left, key=int.bit_count)
        if size == 0 or not left[0] or len(_disjoint(left)) > size:
            return False
        degrees: dict[int, int] = {}
        for one in left:
            effort -= one.bit_count()
            for head in heads_of(one):
                degrees[head] = degrees.get(head, 0) + 1
        if effort < 0:
            raise _Spent
        if sum(sorted(degrees.values())[-size:]) < len(left):
            return False
        forgotten = 0
        for head in sorted(heads_of(left[0]), key=lambda head: (-degrees[head], head)):
            missed = [one & ~forgotten for one in left if not one >> head & 1]
            if hit(missed, size - 1):
                return True
            forgotten |= 1 << head
        return False

    try:
        return not hit(list(sets), size), effort
    except _Spent:
        return False, 0
