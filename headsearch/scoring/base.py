"""What every evaluator is: outputs and gradients of sets of heads, on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headsearch.heads import HeadMap, HeadSet
from headsearch.scoring.cache import ParentCache
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.task.batches import Batch, Span

DEFAULT_CACHE_BYTES = 512 << 20
# Activations that one backward pass may hold.
BACKWARD_BYTES = 256 << 20
# The same on a GPU, whose products should be large; but no more than this share of its memory.
GPU_BACKWARD_BYTES, GPU_BACKWARD_SHARE = 8 << 30, 8
# Classes that have slopes of their own. Which answer is given, and nearly all of the loss, is
# between a row's few likeliest, and each class costs a backward pass over all examples.
LEADING = 4

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Scorer(ABC):
    """Computes outputs and gradients on one device; a score depends on its HeadSet alone.

    Attributes:
        shape: the heads of the model.
        cache: what is kept of parents; always empty where nothing is of use.
    """

    shape: HeadMap
    cache: ParentCache
    _batches: list[Batch]

    @property
    @abstractmethod
    def independent(self) -> bool:
        """Whether an example's outputs are the same to the last bit whatever others are beside."""

    @abstractmethod
    def outputs(
        self, parent: HeadSet, children: Sequence[HeadSet], where: Span | np.ndarray
    ) -> np.ndarray:
        """Return the outputs of every child, (children, rows, classes) float32.

        Args:
            parent: what the children are computed from, where that is of use.
            children: states to score; need not contain the parent's heads.
            where: a run of whole batches; or, if `independent`, any examples, (examples,).

        Raises:
            EngineError: single examples were asked for, but they would depend on each other.
        """

    def gradients(self, state: HeadSet, span: Span) -> np.ndarray:
        """Return d outputs / d gates at a state, (rows, classes, heads) float32.

        To first order, removing head j changes the outputs by minus column j; removed heads get 0.
        Neither loss nor prediction changes when all classes' logits move together, so the mean
        over classes is taken out, and classes - 1 backward passes serve all heads, or `LEADING`
        where there are more classes: then only a row's likeliest have slopes of their own, see
        `_margins`. Where an example has several rows, it takes as many times that.
        """
        parts = []
        for batch, wanted in self._for_backward(span):
            step = self._examples_of_backward(batch)
            found = [
                self._gradients_of(state, batch.part(start, start + step))
                for start in range(0, batch.examples, step)
            ]
            parts.append(np.concatenate(found)[wanted])
        return np.concatenate(parts)

    def _for_backward(self, span: Span) -> Iterator[tuple[Batch, slice]]:
        """Yield what has backward passes together, and which of its rows are of the span."""
        for batch in self._batches[span.first : span.stop]:
            yield batch, slice(None)

    @abstractmethod
    def _gradients_of(self, state: HeadSet, batch: Batch) -> np.ndarray:
        """Return the gradients of one backward pass's examples; see `gradients`."""

    @abstractmethod
    def _examples_of_backward(self, batch: Batch) -> int:
        """How many examples one backward pass may take within `most_backward_bytes`."""

    def run(self, item: WorkItem, where: Span | np.ndarray) -> np.ndarray:
        """Compute a work item; a leading axis runs over `item.states`.

        Args:
            item: what to compute.
            where: on which batches; or, of outputs alone, on which examples, see `outputs`.
        """
        if item.kind == GRADIENTS and isinstance(where, Span):
            return self.gradients(item.parent, where)[None]
        if item.kind == OUTPUTS:
            return self.outputs(item.parent, item.children, where)
        raise ValueError(f"unknown kind of work: {item.kind!r}")


def backward_bytes(config: Any, layers: int) -> int:
    """Return the bytes of activations that a backward pass holds for each token."""
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # Kept for backward in each layer: about ten tensors of the hidden size, three of the
    # feed-forward's (before, inside and after the activation).
    return int(layers * (10 * hidden + 3 * inner) * 4)


def most_backward_bytes(device: torch.device) -> int:
    """Return how many bytes of activations one backward pass may hold on a device of its kind."""
    if device.type != "cuda":
        return BACKWARD_BYTES
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(GPU_BACKWARD_BYTES, memory // GPU_BACKWARD_SHARE)


def slopes(
    rows: Tensor,
    gates: dict[int, Tensor],
    shape: HeadMap,
    heads: Sequence[Sequence[int]],
    examples: np.ndarray,
) -> np.ndarray:
    """Return d outputs / d gates, (rows, classes, heads) float32; see `Scorer.gradients`.

    Args:
        rows: outputs, (rows, classes).
        gates: {layer: gates (examples, some heads)}, of layers that have any.
        shape: the heads of the model.
        heads: of every layer, which heads the gates are of.
        examples: the example that each row is of, (rows,), ascending.
    """
    margins, margin_of = _margins(rows)
    # A column of zeros first: of what the margins are against.
    found = np.zeros((len(rows), 1 + margins.shape[1], shape.total), np.float32)
    # One row of every example at a time: all of an example's share its gates.
    turns = np.arange(len(examples)) - np.searchsorted(examples, examples)
    places = [shape.start(layer) + head for layer in gates for head in heads[layer]]
    for turn in range(int(turns.max(initial=-1)) + 1 if gates else 0):
        chosen = np.flatnonzero(turns == turn)
        picked = margins[torch.from_numpy(chosen).to(margins.device)]
        for column in range(margins.shape[1]):
            # The graph is kept for the next one; it goes with the outputs.
            of_gates = torch.autograd.grad(
                picked[:, column].sum(), list(gates.values()), retain_graph=True
            )
            values = torch.cat(of_gates, dim=1).float().cpu().numpy()[examples[chosen]]
            found[chosen[:, None], 1 + column, places] = values
    result: np.ndarray = np.take_along_axis(found, margin_of[:, :, None], axis=1)
    if result.shape[1] > 1:
        result -= result.mean(axis=1, keepdims=True)
    return result


def _margins(rows: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return what backward passes are taken of, (rows, margins), and which is each class's.

    The latter is (rows, classes): 0 for the class that the others are measured against, whose
    slopes are 0, else 1 and more. Of few classes each has its own. Of many only the likeliest of
    each row have; all others share one, the mean of their logits by their chances. The loss of a
    row whose label is among the likeliest has its exact slope all the same, as a loss gives the
    others weights in proportion to their chances.
    """
    count, classes = rows.shape
    if classes == 1:  # regression: the one output itself
        return rows, np.ones((count, 1), np.int64)
    if classes <= LEADING + 1:
        return rows[:, 1:] - rows[:, :1], np.tile(np.arange(classes), (count, 1))
    known = rows.detach().float()
    leading = torch.sort(known, dim=1, descending=True, stable=True).indices[:, :LEADING]
    chances = known.scatter(1, leading, -torch.inf).softmax(1).to(rows.dtype)
    rest = (rows * chances).sum(1, keepdim=True)
    tops = rows.gather(1, leading)
    margin_of = torch.full((count, classes), LEADING, device=rows.device)
    margin_of.scatter_(1, leading, torch.arange(LEADING, device=rows.device).repeat(count, 1))
    return torch.cat([tops[:, 1:], rest], dim=1) - tops[:, :1], margin_of.cpu().numpy()
