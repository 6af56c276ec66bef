"""Scores many HeadSets on a shard: children start where they first differ from their parent.

Layers below the first changed one are the parent's. At that layer the parent's context is reused
and only gated; from there on siblings run stacked along the batch. Heads that nobody in a stack
keeps are not computed, and in the last layer only the first token is, which is all that the
classifier reads. The result equals the plain path (`model.plain`) up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import family_of, head_map
from headsearch.scoring.cache import LayerState, ParentCache, Trace
from headsearch.scoring.item import GRADIENTS, OUTPUTS, WorkItem
from headsearch.scoring.layers import fuse
from headsearch.task.batches import Batch, Span

DEFAULT_CACHE_BYTES = 512 << 20
# Tokens of one stack. Larger products are no faster on a CPU core, and activations of 8,192
# tokens stay near 100 MB even in a BERT-large feed-forward layer.
STACK_TOKENS = 8192
# Activations that one backward pass may hold.
BACKWARD_BYTES = 256 << 20

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Evaluator:
    """Computes outputs and gradients on one device.

    Args:
        model: a model of a known family; it is put into eval mode, cast to `dtype`, and its
            parameters stop requiring gradients.
        batches: all batches of the task, in its order; a shard is a span of them.
        dtype: a name in `DTYPES`.
        device: where to compute.
        cache_bytes: limit of the parent cache.
        stack_tokens: most tokens that siblings are stacked to.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        dtype: str = "float32",
        device: str = "cpu",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        stack_tokens: int = STACK_TOKENS,
    ) -> None:
        self._model = model.eval().requires_grad_(False).to(device, DTYPES[dtype])
        self._device = torch.device(device)
        self._batches = list(batches)
        self._family = family_of(model)
        self._layers = [fuse(layer) for layer in self._family.layers(model)]
        self._stack_tokens = stack_tokens
        self.shape: HeadMap = head_map(model)
        self.cache = ParentCache(cache_bytes)

    def run(self, item: WorkItem, span: Span) -> np.ndarray:
        """Compute a work item on one shard; a leading axis runs over `item.states`."""
        if item.kind == GRADIENTS:
            return self.gradients(item.parent, span)[None]
        if item.kind == OUTPUTS:
            return self.outputs(item.parent, item.children, span)
        raise ValueError(f"unknown kind of work: {item.kind!r}")

    @torch.inference_mode()
    def outputs(self, parent: HeadSet, children: Sequence[HeadSet], span: Span) -> np.ndarray:
        """Return the logits of every child, (children, examples, classes) float32.

        Args:
            parent: what the children are computed from; any state, though the closer the cheaper.
            children: states to score; need not contain the parent's heads.
            span: the shard, a run of whole batches.
        """
        groups: dict[int, list[int]] = {}  # first changed layer -> positions among the children
        for position, child in enumerate(children):
            groups.setdefault(self.shape.first_layer(parent ^ child), []).append(position)
        parts = []
        for number in range(span.first, span.stop):
            batch = self._batches[number]
            logits: list[Tensor | None] = [None] * len(children)
            for layer, state in self._walk(parent, number, batch, last=max(groups, default=0)):
                for members in self._stacks(groups.get(layer, []), children, batch):
                    stack = [children[i] for i in members]
                    rows = self._run_stack(parent, stack, layer, state, batch)
                    each = rows.float().view(len(stack), batch.examples, -1)
                    for i, row in zip(members, each, strict=True):
                        logits[i] = row
            parts.append(torch.stack([row for row in logits if row is not None]).cpu())
        return torch.cat(parts, dim=1).numpy()

    def gradients(self, state: HeadSet, span: Span) -> np.ndarray:
        """Return d logits / d gates at a state, (examples, classes, heads) float32.

        To first order, removing head j changes the logits by minus column j; removed heads get 0.
        Neither loss nor prediction changes when all classes' logits move together, so the mean
        over classes is taken out, and classes - 1 backward passes serve all heads.
        """
        parts = []
        for batch in self._batches[span.first : span.stop]:
            step = self._rows_of_backward(batch)
            for start in range(0, batch.examples, step):
                parts.append(self._gradients_of(state, batch, slice(start, start + step)))
        return np.concatenate(parts)

    # The parent

    def _walk(
        self, parent: HeadSet, number: int, batch: Batch, last: int
    ) -> Iterator[tuple[int, LayerState]]:
        """Yield (layer, the parent's state there) up to layer `last`, from the cache if held.

        Layer `layers` stands for the end: its `hidden` is the last layer's output.
        """
        trace = self.cache.get(parent, number) or []
        yield from enumerate(trace[: last + 1])
        if last < len(trace):
            return
        keep: Trace | None = list(trace)
        mask = self._mask(batch)
        hidden = self._finish(parent, trace[-1], len(trace) - 1) if trace else self._embed(batch)
        for layer in range(len(trace), min(last, self.shape.layers - 1) + 1):
            context = self._attend(layer, hidden, self.shape.kept(parent, layer), mask)
            state = LayerState(hidden, context)
            if keep is not None:
                keep.append(state)
                if not self.cache.has_room(parent, sum(s.nbytes for s in keep)):
                    keep = None
            yield layer, state
            hidden = self._finish(parent, state, layer)
        if last == self.shape.layers:
            yield last, LayerState(hidden, hidden)
        if keep is not None and len(keep) > len(trace):
            self.cache.put(parent, number, keep)

    def _finish(self, heads: HeadSet, state: LayerState, layer: int) -> Tensor:
        projected = self._layers[layer].project(state.context, self.shape.kept(heads, layer))
        return self._layers[layer].finish(projected, state.hidden[:, : projected.shape[1]])

    # The children

    def _stacks(
        self, members: list[int], children: Sequence[HeadSet], batch: Batch
    ) -> Iterator[list[int]]:
        """Cut siblings into stacks of bounded size; like sizes together, as they share work."""
        most = max(1, self._stack_tokens // (batch.examples * batch.tokens))
        ordered = sorted(members, key=lambda i: (len(children[i]), i))
        for start in range(0, len(ordered), most):
            yield ordered[start : start + most]

    def _run_stack(
        self,
        parent: HeadSet,
        stack: list[HeadSet],
        first: int,
        state: LayerState,
        batch: Batch,
    ) -> Tensor:
        """Return the logits of stacked children, (children * examples, classes)."""
        count = len(stack)
        if first == self.shape.layers:  # the parent itself
            return self._family.classify(self._model, state.hidden).repeat(count, 1)
        mask = self._mask(batch)
        wide_mask = None if mask is None else mask.repeat(count, 1, 1, 1)
        heads = self._needed(stack, first)
        if set(heads) <= set(self.shape.kept(parent, first)):
            heads, context = self.shape.kept(parent, first), state.context
        else:  # a child keeps a head that the parent has lost
            context = self._attend(first, state.hidden, heads, mask)
        context = context.repeat(count, 1, 1, 1)
        hidden = state.hidden.repeat(count, 1, 1)
        for layer in range(first, self.shape.layers):
            if layer > first:
                heads = self._needed(stack, layer)
                context = self._attend(layer, hidden, heads, wide_mask)
            gates = self._gates(stack, layer, heads, context.dtype)
            if gates is not None:
                each = gates.repeat_interleave(batch.examples, dim=0)
                context = context * each[:, None, :, None]
            projected = self._layers[layer].project(context, heads)
            hidden = self._layers[layer].finish(projected, hidden[:, : projected.shape[1]])
        return self._family.classify(self._model, hidden)

    def _needed(self, stack: list[HeadSet], layer: int) -> tuple[int, ...]:
        """The heads of a layer that at least one child keeps."""
        return tuple(sorted({h for child in stack for h in self.shape.kept(child, layer)}))

    def _gates(
        self, stack: list[HeadSet], layer: int, heads: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor | None:
        """Return (children, heads): 1 where a child keeps a head; None if all keep all."""
        kept = [set(self.shape.kept(child, layer)) for child in stack]
        rows = [[1.0 if head in k else 0.0 for head in heads] for k in kept]
        if all(all(row) for row in rows):
            return None
        return torch.tensor(rows, dtype=dtype, device=self._device)

    # Shared parts

    def _embed(self, batch: Batch) -> Tensor:
        """Return the first layer's input, (examples, tokens, hidden)."""
        tensors = {
            name: torch.from_numpy(array).to(self._device) for name, array in batch.arrays.items()
        }
        return self._family.embed(self._model, tensors)

    def _mask(self, batch: Batch) -> Tensor | None:
        """Return True for real tokens, (examples, 1, 1, tokens); None where nothing is padded."""
        mask = batch.arrays["attention_mask"]
        if mask.all():
            return None
        return torch.from_numpy(mask).to(self._device).bool()[:, None, None, :]

    def _attend(
        self, layer: int, hidden: Tensor, heads: tuple[int, ...], mask: Tensor | None
    ) -> Tensor:
        bias = self._family.position_bias(self._model, layer, hidden.shape[1])
        last = layer == self.shape.layers - 1
        return self._layers[layer].attend(hidden, heads, mask, bias, first_token_only=last)

    # Gradients

    def _rows_of_backward(self, batch: Batch) -> int:
        """How many examples one backward pass may take within `BACKWARD_BYTES`."""
        config: Any = self._model.config
        hidden = config.hidden_size
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        # Kept for backward in each layer: about ten tensors of the hidden size, three of the
        # feed-forward's (before, inside and after the activation).
        per_token = self.shape.layers * (10 * hidden + 3 * inner) * 4
        return int(max(1, BACKWARD_BYTES // (per_token * batch.tokens)))

    def _gradients_of(self, state: HeadSet, batch: Batch, rows: slice) -> np.ndarray:
        part = Batch({name: array[rows] for name, array in batch.arrays.items()})
        hidden, mask = self._embed(part), self._mask(part)
        gates = []
        with torch.enable_grad():
            for layer in range(self.shape.layers):
                heads = self.shape.kept(state, layer)
                context = self._attend(layer, hidden, heads, mask)
                gate = context.new_ones(part.examples, len(heads)).requires_grad_()
                gates.append(gate)
                projected = self._layers[layer].project(context * gate[:, None, :, None], heads)
                hidden = self._layers[layer].finish(projected, hidden[:, : projected.shape[1]])
            logits = self._family.classify(self._model, hidden)
            result = np.zeros((part.examples, logits.shape[1], self.shape.total), np.float32)
            used = [(layer, gate) for layer, gate in enumerate(gates) if gate.shape[1]]
            if not used:
                return result
            # Against class 0; for regression, the one output itself.
            margins = logits[:, 1:] - logits[:, :1] if logits.shape[1] > 1 else logits
            for row in range(margins.shape[1]):
                columns = torch.autograd.grad(
                    margins[:, row].sum(),
                    [gate for _, gate in used],
                    retain_graph=row + 1 < margins.shape[1],
                )
                for (layer, _), column in zip(used, columns, strict=True):
                    start = self.shape.start(layer)
                    places = [start + head for head in self.shape.kept(state, layer)]
                    klass = logits.shape[1] - margins.shape[1] + row
                    result[:, klass, places] = column.float().cpu().numpy()
        if result.shape[1] > 1:
            result -= result.mean(axis=1, keepdims=True)
        return result
