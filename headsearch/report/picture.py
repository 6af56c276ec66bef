"""Small pictures in text."""

from __future__ import annotations

from headsearch.heads import HeadMap, HeadSet

KEPT, REMOVED = "█", "·"


def head_picture(shape: HeadMap, removed: HeadSet) -> str:
    """Draw which heads are left: one row for each layer, uppermost layer first.

    >>> print(head_picture(HeadMap((2, 3)), HeadSet.of([0, 3])))
    layer 1  █·█  2 of 3
    layer 0  ·█   1 of 2
    """
    wide = max(shape.heads_per_layer)
    digits = len(str(shape.layers - 1))
    rows = []
    for layer in reversed(range(shape.layers)):
        heads = shape.heads_per_layer[layer]
        kept = shape.kept(removed, layer)
        cells = "".join(KEPT if head in kept else REMOVED for head in range(heads))
        rows.append(f"layer {layer:>{digits}}  {cells:<{wide}}  {len(kept)} of {heads}")
    return "\n".join(rows)
