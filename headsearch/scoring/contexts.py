"""What attention of one layer gave, by head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Contexts:
    """Contexts of some heads of one layer, from one computation or several.

    Args:
        heads: whose.
        context: (rows, heads, head size).
    """

    def __init__(self, heads: Sequence[int] = (), context: Tensor | None = None) -> None:
        self._of: dict[int, tuple[Tensor, int]] = {}
        if context is not None:
            self.add(heads, context)

    def __contains__(self, head: int) -> bool:
        return head in self._of

    def add(self, heads: Sequence[int], context: Tensor) -> None:
        """Take what was computed of more heads, (rows, heads, head size)."""
        for place, head in enumerate(heads):
            self._of[head] = context, place

    def pick(self, heads: Sequence[int]) -> Tensor:
        """Return the contexts of some heads, (rows, heads, head size); copies no more than it must.

        Args:
            heads: one or more of those that are here.
        """
        runs: list[tuple[Tensor, int, int]] = []  # of one computation and neighbours there
        for head in heads:
            tensor, place = self._of[head]
            if runs and runs[-1][0] is tensor and runs[-1][2] == place:
                runs[-1] = tensor, runs[-1][1], place + 1
            else:
                runs.append((tensor, place, place + 1))
        parts = [tensor[:, first:stop] for tensor, first, stop in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
