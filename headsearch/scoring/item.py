"""The unit of work: one parent and some children, or one state's gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from headsearch.heads import HeadSet
from headsearch.task.kinds import GRADIENTS, OUTPUTS

__all__ = ["GRADIENTS", "OUTPUTS", "WorkItem"]


@dataclass(frozen=True)
class WorkItem:
    """What one worker is asked to compute on the shard that it holds.

    Attributes:
        kind: `OUTPUTS`: logits of every child, (children, examples, classes) float32;
            `GRADIENTS`: of `parent` alone, see `Evaluator.gradients`.
        parent: children are computed as differences from it.
        children: HeadSets to score; what is computed of each depends on no other.
    """

    kind: str
    parent: HeadSet
    children: tuple[HeadSet, ...] = ()

    @property
    def states(self) -> tuple[HeadSet, ...]:
        """The HeadSets that results are stored under."""
        return self.children if self.kind == OUTPUTS else (self.parent,)

    @cached_property
    def packed(self) -> tuple[str, bytes, list[bytes]]:
        """What says it to another process: kind, parent and children."""
        return self.kind, self.parent.to_bytes(), [child.to_bytes() for child in self.children]
