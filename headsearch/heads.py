"""Sets of removed heads: HeadSet (the state of the search) and HeadMap (their shape)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from headsearch.errors import InputError

MASK_FORMAT = 1
# Python hashes integers modulo 2^61 - 1, where single heads 61 apart collide. Modulo this prime,
# all of a model do not.
_PRIME = 2**61 - 31


@dataclass(frozen=True, eq=False)
class HeadSet:
    """An immutable set of removed heads, stored as a bitset over head indices. O(1) set algebra.

    >>> a = HeadSet.of([0, 3])
    >>> list(a), len(a), list(a | HeadSet.of([1])), 3 in a
    ([0, 3], 2, [0, 1, 3], True)
    """

    bits: int = 0

    @classmethod
    def of(cls, indices: Iterable[int]) -> HeadSet:
        """Return the set that holds the given head indices."""
        bits = 0
        for index in indices:
            bits |= 1 << index
        return cls(bits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadSet) and self.bits == other.bits

    def __hash__(self) -> int:
        return self.bits % _PRIME

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        bits = self.bits
        while bits:
            low = bits & -bits
            yield low.bit_length() - 1
            bits ^= low

    def __contains__(self, index: int) -> bool:
        return bool(self.bits >> index & 1)

    def __or__(self, other: HeadSet) -> HeadSet:
        return HeadSet(self.bits | other.bits)

    def __xor__(self, other: HeadSet) -> HeadSet:
        return HeadSet(self.bits ^ other.bits)

    def __le__(self, other: HeadSet) -> bool:  # subset, as for Python's own sets
        return self.bits & ~other.bits == 0

    def add(self, index: int) -> HeadSet:
        """Return this set and one more head."""
        return HeadSet(self.bits | 1 << index)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: big-endian, without leading zeros."""
        return self.bits.to_bytes((self.bits.bit_length() + 7) // 8, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> HeadSet:
        """Return the set that `to_bytes` wrote."""
        return cls(int.from_bytes(data, "big"))

    def __repr__(self) -> str:
        return f"HeadSet({sorted(self)})"


@dataclass(frozen=True)
class HeadMap:
    """How many heads each layer has; gives every head an index, layer by layer.

    >>> shape = HeadMap((2, 3))
    >>> shape.total, shape.index(1, 0), shape.position(4)
    (5, 2, (1, 2))
    """

    heads_per_layer: tuple[int, ...]

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.heads_per_layer)

    @property
    def total(self) -> int:
        """How many heads there are in all layers together."""
        return sum(self.heads_per_layer)

    @property
    def full(self) -> HeadSet:
        """The set of all heads."""
        return HeadSet((1 << self.total) - 1)

    def start(self, layer: int) -> int:
        """Return the index of the first head of a layer."""
        return sum(self.heads_per_layer[:layer])

    def index(self, layer: int, head: int) -> int:
        """Return the index of the head (layer, head).

        Raises:
            InputError: there is no such head.
        """
        if not 0 <= layer < self.layers:
            raise InputError(f"layer must be in 0..{self.layers - 1} but got {layer}")
        if not 0 <= head < self.heads_per_layer[layer]:
            last = self.heads_per_layer[layer] - 1
            raise InputError(f"head of layer {layer} must be in 0..{last} but got {head}")
        return self.start(layer) + head

    def position(self, index: int) -> tuple[int, int]:
        """Return (layer, head) of a head index."""
        for layer, heads in enumerate(self.heads_per_layer):
            if index < heads:
                return layer, index
            index -= heads
        raise InputError(f"head index must be in 0..{self.total - 1}")

    def in_layer(self, heads: HeadSet, layer: int) -> tuple[int, ...]:
        """Return those heads of the set that are in a layer, by their index within it."""
        bits = heads.bits >> self.start(layer) & ((1 << self.heads_per_layer[layer]) - 1)
        return tuple(HeadSet(bits))

    def kept(self, heads: HeadSet, layer: int) -> tuple[int, ...]:
        """Return the heads of a layer that are not in the set, by their index within it."""
        removed = self.in_layer(heads, layer)
        return tuple(i for i in range(self.heads_per_layer[layer]) if i not in removed)

    def first_layer(self, heads: HeadSet) -> int:
        """Return the lowest layer that a head of the set is in; `layers` for the empty set."""
        for index in heads:
            return self.position(index)[0]
        return self.layers

    def pairs(self, heads: HeadSet) -> list[list[int]]:
        """Return the set as sorted [layer, head] pairs."""
        return [list(self.position(index)) for index in heads]

    def from_pairs(self, pairs: Iterable[Sequence[int]]) -> HeadSet:
        """Return the set of the given (layer, head) pairs.

        Raises:
            InputError: a pair is not two whole numbers that name a head.
        """
        heads = HeadSet()
        for pair in pairs:
            if len(pair) != 2 or not all(
                isinstance(n, Integral) and not isinstance(n, bool) for n in pair
            ):
                raise InputError(f"a head must be a pair (layer, head) but got {pair!r}")
            heads = heads.add(self.index(int(pair[0]), int(pair[1])))
        return heads

    def to_mask(self, heads: HeadSet) -> dict[str, Any]:
        """Return the content of `mask.json` for a set of removed heads."""
        return {
            "format": MASK_FORMAT,
            "layers": self.layers,
            "heads_per_layer": list(self.heads_per_layer),
            "removed": {
                str(layer): list(self.in_layer(heads, layer))
                for layer in range(self.layers)
                if self.in_layer(heads, layer)
            },
        }

    @classmethod
    def from_mask(cls, mask: Mapping[str, Any]) -> tuple[HeadMap, HeadSet]:
        """Return the shape and the removed heads that a `mask.json` holds.

        Raises:
            InputError: the mask has another format, or names heads that there are not.
        """
        if mask.get("format") != MASK_FORMAT:
            raise InputError(
                f"a mask's `format` must be {MASK_FORMAT} but got {mask.get('format')}"
            )
        try:
            shape = cls(tuple(int(n) for n in mask["heads_per_layer"]))
            pairs = [
                (int(layer), head) for layer, heads in mask["removed"].items() for head in heads
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a mask: {error!r}") from None
        if shape.layers != mask.get("layers"):
            raise InputError(
                f"a mask's `layers` must be {shape.layers}, the length of `heads_per_layer`, "
                f"but got {mask.get('layers')}"
            )
        return shape, shape.from_pairs(pairs)

    def from_mask_for(self, mask: Mapping[str, Any]) -> HeadSet:
        """Return the removed heads of a `mask.json` that must be of this very shape.

        Raises:
            InputError: it is of another shape, or not a mask.
        """
        shape, removed = self.from_mask(mask)
        if shape != self:
            raise InputError(
                f"the mask is for heads {list(shape.heads_per_layer)} but the model has "
                f"{list(self.heads_per_layer)}"
            )
        return removed
