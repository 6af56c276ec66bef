"""Scores HeadSets on a shard: a child starts where it first differs from its parent.

Layers below the first changed one are the parent's. At that layer the context of the heads that
the child keeps is the parent's too. Children that differ from their parent at one layer first are
then a trie: as far up as they keep the same heads they are computed once, and where they part they
share each head's context. Removed heads are not computed, nor is padding, and in the last layer
only the first token is, which is all that the classifier reads. The result equals the plain path
(`model.plain`) up to rounding.

A score is a function of its HeadSet alone, to the last bit: of no parent, sibling, shard or cache.
So whoever scores a state, for whatever reason, scores it the same, and the memo may be filled in
any order by anyone. Where rows and columns of products don't depend on each other (see `products`)
nor does an example depend on those beside it; else every product has the shape that it would have
if the child were computed by itself from the embeddings up.

Siblings are not stacked into larger products: on a CPU products are as fast from some 200 rows on,
and on a GPU batches are packed together instead (`wide`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headsearch.errors import EngineError, ModelError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.families import fast_family_of, head_map
from headsearch.model.readout import read
from headsearch.scoring.base import (
    DEFAULT_CACHE_BYTES,
    DTYPES,
    Scorer,
    backward_bytes,
    most_backward_bytes,
    slopes,
)
from headsearch.scoring.cache import LayerState, ParentCache, Trace
from headsearch.scoring.contexts import Contexts
from headsearch.scoring.layers import fuse, pick
from headsearch.scoring.packing import Packing
from headsearch.scoring.padded import hiding, padding_kept
from headsearch.scoring.parts import Part, Parts
from headsearch.scoring.products import has_onednn, pack
from headsearch.scoring.wide import tried
from headsearch.task.batches import Batch, Span
from headsearch.task.readout import EXAMPLES

# Examples that it is tried out on whether they depend on each other.
TRIED = 66


class Evaluator(Scorer):
    """The fast path: computes outputs and gradients layer by layer, see the module.

    Args:
        model: one that has the fast path, which becomes the evaluator's own: it is cast to
            `dtype`, its parameters stop requiring gradients, and its linear layers may be replaced.
        batches: all batches of the task, in its order; a shard is a span of them.
        dtype: a name in `DTYPES`.
        device: where to compute.
        cache_bytes: limit of the parent cache.
        wide: whether batches are packed together into large products, see `scoring.wide`; None:
            where the device is a GPU.

    Raises:
        ModelError: the model has no fast path; `scoring.stock` scores it.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        dtype: str = "float32",
        device: str = "cpu",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        wide: bool | None = None,
    ) -> None:
        family = fast_family_of(model)
        if family is None:
            raise ModelError(f"{type(model).__name__} models have no fast path")
        self._family = family
        self._model = model.eval().requires_grad_(False).to(device, DTYPES[dtype])
        self._device = torch.device(device)
        self._batches = list(batches)
        self._readout = batches[0].readout  # no places: the classifier reads first tokens alone
        layers = self._family.layers(model)
        self._layers = [fuse(layer) for layer in layers]
        if has_onednn(self._device, DTYPES[dtype]):
            pack(model, layers)
        self.shape: HeadMap = head_map(model)
        self.cache = ParentCache(cache_bytes)
        self._parts = Parts(self._batches, self._device)
        if self._readout.kind == EXAMPLES and (
            self._device.type == "cuda" if wide is None else wide
        ):
            self._widen()

    def _widen(self) -> None:
        """Pack batches together, if that changes no score."""
        found, narrow = tried(self._layers), (self._parts, self._layers)
        if not found.sizes:
            return
        self._parts = Parts(self._batches, self._device, found.filling, wide=True)
        self._layers = [replace(layer, by_head=not found.any_heads) for layer in self._layers]
        if not self.independent:
            self._parts, self._layers = narrow
            del self.independent

    @cached_property
    def independent(self) -> bool:
        """Whether an example's outputs are the same to the last bit whatever others are beside it.

        That depends on the machine. Judged by the products of all attention layers, see
        `products.independent`, and by what comes out for a few of the shortest examples together,
        and for some of them alone, after a layer of each width and the last one.
        """
        if not self._parts.wide and any(layer.by_head for layer in self._layers):
            return False
        lengths = np.concatenate([batch.lengths for batch in self._batches])
        places = np.argsort(lengths, kind="stable")[:TRIED]
        every = self._some_layers(places)
        return all(
            np.array_equal(self._some_layers(places[::step]), every[::step])
            for step in (2, 3, 7, 13, TRIED)
        )

    @torch.inference_mode()
    def outputs(
        self, parent: HeadSet, children: Sequence[HeadSet], where: Span | np.ndarray
    ) -> np.ndarray:
        """Return the outputs of every child, (children, rows, classes) float32.

        Args:
            parent: what the children are computed from; any state, though the closer the cheaper.
            children: states to score; need not contain the parent's heads.
            where: a run of whole batches; or any examples, (examples,) places in the order of the
                batches, neighbours of one length where that can be.

        Raises:
            EngineError: single examples were asked for, but they would depend on each other.
        """
        groups: dict[int, list[int]] = {}  # first changed layer -> positions among the children
        for position, child in enumerate(children):
            groups.setdefault(self.shape.first_layer(parent ^ child), []).append(position)
        parts = []
        for part in self._parts_of(where):
            logits: list[Tensor | None] = [None] * len(children)
            for layer, state in self._walk(parent, part, last=max(groups, default=0)):
                if layer not in groups:
                    continue
                known = self._known(parent, layer, state)
                self._descend(
                    children, groups[layer], layer, state.hidden, known, part.packing, logits
                )
            parts.append(torch.stack([row for row in logits if row is not None]))
        return torch.cat(parts, dim=1).cpu().numpy()

    # The parent

    def _walk(self, parent: HeadSet, part: Part, last: int) -> Iterator[tuple[int, LayerState]]:
        """Yield (layer, the parent's state there) up to layer `last`, from the cache if held.

        Layer `layers` stands for the end: its `hidden` is the last layer's output.
        """
        trace = (part.key is not None and self.cache.get(parent, part.key)) or []
        yield from enumerate(trace[: last + 1])
        if last < len(trace):
            return
        keep: Trace | None = None if part.key is None else list(trace)
        packing = part.packing
        if trace:
            top = len(trace) - 1
            hidden = self._follow(parent, top, trace[top], packing)
        else:
            hidden = self._embed(part.batch, packing)
        for layer in range(len(trace), min(last, self.shape.layers - 1) + 1):
            context = self._attend(layer, hidden, self.shape.kept(parent, layer), packing)
            state = LayerState(hidden, context)
            if keep is not None:
                keep.append(state)
                if not self.cache.has_room(parent, sum(s.nbytes for s in keep)):
                    keep = None
            yield layer, state
            if layer < last:
                hidden = self._follow(parent, layer, state, packing)
        if last == self.shape.layers:
            yield last, LayerState(hidden, hidden)
        if keep is not None and len(keep) > len(trace):
            self.cache.put(parent, part.key, keep)

    def _known(self, parent: HeadSet, layer: int, state: LayerState) -> Contexts:
        """Return the contexts of the parent's heads at a layer."""
        if layer == self.shape.layers:
            return Contexts()
        return Contexts(self._computed(layer, self.shape.kept(parent, layer)), state.context)

    def _follow(self, parent: HeadSet, layer: int, state: LayerState, packing: Packing) -> Tensor:
        """Return the parent's output of a layer."""
        contexts = self._known(parent, layer, state)
        return self._step(layer, state.hidden, contexts, self.shape.kept(parent, layer), packing)

    # The children

    def _descend(
        self,
        children: Sequence[HeadSet],
        members: list[int],
        layer: int,
        hidden: Tensor,
        contexts: Contexts,
        packing: Packing,
        logits: list[Tensor | None],
    ) -> None:
        """Compute the logits of children that are alike below a layer, as a trie of their layers.

        Where children keep the same heads of a layer too, they stay together; where they part, they
        still share the context of each head.

        Args:
            children: all children of the item.
            members: positions of those that this is about.
            layer: where they may begin to differ.
            hidden: its input, the same for all of them.
            contexts: as far as known there.
            packing: which rows belong together.
            logits: where to put results, by position.
        """
        while True:
            if layer == self.shape.layers:
                logits_of_all = self._family.classify(self._model, hidden[:, None]).float()
                result = read(self._readout, logits_of_all[: packing.count], {})
                for i in members:
                    logits[i] = result
                return
            parts: dict[tuple[int, ...], list[int]] = {}
            for i in members:
                parts.setdefault(self.shape.kept(children[i], layer), []).append(i)
            wanted = sorted({head for heads in parts for head in heads})
            missing = tuple(head for head in wanted if head not in contexts)
            if missing:
                computed = self._attend(layer, hidden, missing, packing)
                contexts.add(self._computed(layer, missing), computed)
            if len(parts) > 1:
                break
            hidden = self._step(layer, hidden, contexts, next(iter(parts)), packing)
            layer, contexts = layer + 1, Contexts()
        for heads, part in parts.items():
            following = self._step(layer, hidden, contexts, heads, packing)
            self._descend(children, part, layer + 1, following, Contexts(), packing, logits)

    def _step(
        self,
        layer: int,
        hidden: Tensor,
        contexts: Contexts,
        heads: tuple[int, ...],
        packing: Packing,
    ) -> Tensor:
        """Return a layer's output with the given heads, whose contexts are known."""
        if self._is_last(layer):
            hidden = hidden[packing.first]
        if heads:
            context = contexts.pick(heads)
        else:
            context = hidden.new_zeros(len(hidden), 0, self._layers[layer].head_size)
        fused = self._layers[layer]
        return fused.finish(fused.project(context, heads), hidden)

    # Shared parts

    def _embed(self, batch: Batch, packing: Packing) -> Tensor:
        """Return the first layer's input, (rows, hidden)."""
        tensors = {
            name: torch.from_numpy(array).to(self._device) for name, array in batch.arrays.items()
        }
        return packing.pack(self._family.embed(self._model, tensors))

    def _parts_of(self, where: Span | np.ndarray) -> Iterable[Part]:
        """Return what is computed at once."""
        if isinstance(where, Span):
            return self._parts.of_span(where)
        if not self.independent:
            raise EngineError(
                "this worker's matrix products differ in the last bits with what is computed "
                "beside them, unlike those where the search was started; use machines of one kind"
            )
        return self._parts.of_examples(where)

    @torch.inference_mode()
    def _some_layers(self, places: np.ndarray) -> np.ndarray:
        """Return what comes out for some examples if there were no other layers."""
        widths = self.shape.heads_per_layer
        layers = sorted({widths.index(width) for width in widths} | {self.shape.layers - 1})
        outputs = []
        for _, batch, packing in self._parts.of_examples(places):
            hidden = self._embed(batch, packing)
            for layer in layers:
                heads = tuple(range(widths[layer]))
                contexts = Contexts(heads, self._attend(layer, hidden, heads, packing))
                hidden = self._step(layer, hidden, contexts, heads, packing)
            classified = self._family.classify(self._model, hidden[:, None])[: packing.count]
            outputs.append(classified.float().cpu().numpy())
        return np.concatenate(outputs)

    def _is_last(self, layer: int) -> bool:
        return layer == self.shape.layers - 1

    def _computed(self, layer: int, heads: Sequence[int]) -> Sequence[int]:
        """Return the heads whose contexts `_attend` returns."""
        return range(self.shape.heads_per_layer[layer]) if self._is_last(layer) else heads

    def _attend(
        self,
        layer: int,
        hidden: Tensor,
        heads: tuple[int, ...],
        packing: Packing,
        hides: Tensor | None = None,
    ) -> Tensor:
        """Return the contexts of some heads; in the last layer of all, where that costs nothing.

        Args:
            layer, hidden, heads, packing: see `FusedLayer.attend`.
            hides: what hides padding, (examples, 1, 1, tokens), if any is packed.
        """
        bias = self._family.position_bias(self._model, layer, packing.tokens)
        if hides is not None:
            bias = hides if bias is None else bias + hides
        if self._is_last(layer):
            if self._parts.wide and not torch.is_grad_enabled():
                return self._layers[layer].attend_first_by_keys(hidden, packing, bias)
            return self._layers[layer].attend_first(hidden, packing, bias)
        if hides is not None and bias is not None:
            return self._layers[layer].attend_padded(hidden, heads, packing, bias)
        return self._layers[layer].attend(hidden, heads, packing, bias)

    # Gradients

    def _for_backward(self, span: Span) -> Iterator[tuple[Batch, slice]]:
        of = self._parts.for_backward if self._parts.wide else super()._for_backward
        return of(span)

    def _examples_of_backward(self, batch: Batch) -> int:
        """How many examples one backward pass may take within `most_backward_bytes`."""
        per_token = backward_bytes(self._model.config, self.shape.layers)
        return int(max(1, most_backward_bytes(self._device) // (per_token * batch.tokens)))

    def _gradients_of(self, state: HeadSet, batch: Batch) -> np.ndarray:
        hides = None
        if self._parts.wide:  # as one run: on a GPU many small steps take longer than some padding
            hides = hiding(batch).to(self._device, next(self._model.parameters()).dtype)
            batch = padding_kept(batch)
        packing = Packing(batch, self._device)
        hidden = self._embed(batch, packing)
        gates = []
        # On a GPU only this attention's backward pass gives the same bits each time.
        exact = sdpa_kernel(SDPBackend.MATH) if self._device.type == "cuda" else nullcontext()
        with torch.enable_grad(), exact:
            for layer in range(self.shape.layers):
                heads = self.shape.kept(state, layer)
                context = self._attend(layer, hidden, heads, packing, hides)
                gate = context.new_ones(batch.examples, len(heads)).requires_grad_()
                gates.append(gate)
                if self._is_last(layer):
                    context, hidden = pick(context, heads, 1), hidden[packing.first]
                    gate_of_row = packing.fill_examples([gate])
                else:
                    gate_of_row = (
                        packing.of_rows(gate) if self._parts.wide else gate[packing.examples]
                    )
                fused = self._layers[layer]
                projected = fused.project(context * gate_of_row[:, :, None], heads)
                hidden = fused.finish(projected, hidden)
            logits = self._family.classify(self._model, hidden[:, None])[: batch.examples]
            rows_of = read(self._readout, logits, {})
            used = {layer: gate for layer, gate in enumerate(gates) if gate.shape[1]}
            kept = [self.shape.kept(state, layer) for layer in range(self.shape.layers)]
            of_rows = self._readout.examples_of_rows(batch.examples)
            return slopes(rows_of, used, self.shape, kept, of_rows)
