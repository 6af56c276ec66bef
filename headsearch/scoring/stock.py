"""Scores HeadSets by the stock forward under gates: what every family has.

Nothing is shared between states and nothing of removed heads is saved, so it takes many times as
long as the fast path. Batches are always computed whole and as they are, so a score depends on its
HeadSet alone, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headsearch.errors import EngineError
from headsearch.heads import HeadSet
from headsearch.model.families import fast_family_of, head_map, kind_of
from headsearch.model.gate import gates, removal_gates, removed_heads
from headsearch.model.plain import inputs_of, rows_of
from headsearch.model.samples import pair
from headsearch.scoring.base import (
    DEFAULT_CACHE_BYTES,
    DTYPES,
    Scorer,
    backward_bytes,
    most_backward_bytes,
    slopes,
)
from headsearch.scoring.cache import ParentCache
from headsearch.scoring.evaluator import Evaluator
from headsearch.task.batches import Batch, Span


def evaluator_for(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    dtype: str = "float32",
    device: str = "cpu",
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Scorer:
    """Make the fastest evaluator that there is for a model; the arguments are an `Evaluator`'s.

    Raises:
        ModelError: the model is no classifier, or can't be used as one.
    """
    if fast_family_of(model) is None:
        return StockEvaluator(model, batches, dtype=dtype, device=device)
    return Evaluator(model, batches, dtype=dtype, device=device, cache_bytes=cache_bytes)


class StockEvaluator(Scorer):
    """Computes outputs and gradients by the stock forward, on one device.

    Args:
        model: one of a known family with something on top, which becomes the evaluator's own: it
            is cast to `dtype`, and its parameters stop requiring gradients.
        batches: all batches of the task, in its order; a shard is a span of them.
        dtype: a name in `DTYPES`.
        device: where to compute.

    Raises:
        ModelError: the model is no classifier, or can't be used as one.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        kind_of(model)
        self._model = model.eval().requires_grad_(False).to(device, DTYPES[dtype])
        self._device = torch.device(device)
        self._batches = list(batches)
        self.shape = head_map(model)
        self.cache = ParentCache(0)

    @property
    def independent(self) -> bool:
        """Never: padding and the number of examples decide what products torch computes."""
        return False

    @torch.inference_mode()
    def outputs(
        self, parent: HeadSet, children: Sequence[HeadSet], where: Span | np.ndarray
    ) -> np.ndarray:
        """Return the logits of every child, (children, examples, classes) float32.

        Args:
            parent: of no use here.
            children: states to score.
            where: a run of whole batches.

        Raises:
            EngineError: single examples were asked for.
        """
        if not isinstance(where, Span):
            raise EngineError("the stock forward scores whole batches only")
        parts = []
        for batch in self._batches[where.first : where.stop]:
            inputs = inputs_of(batch, self._device)
            rows = []
            for child in children:
                with removed_heads(self._model, child):
                    rows.append(rows_of(self._model, batch, inputs).float())
            parts.append(torch.stack(rows).cpu())
        return torch.cat(parts, dim=1).numpy()

    def _gradients_of(self, state: HeadSet, batch: Batch) -> np.ndarray:
        # Gates of its own for each example, so that one backward pass tells their slopes apart.
        values = [
            gate.expand(batch.examples, -1).clone().requires_grad_()
            for gate in removal_gates(self._model, state)
        ]
        # On a GPU only this attention's backward pass gives the same bits each time.
        exact = sdpa_kernel(SDPBackend.MATH) if self._device.type == "cuda" else nullcontext()
        with torch.enable_grad(), exact, gates(self._model, values):
            rows = rows_of(self._model, batch, inputs_of(batch, self._device))
        used = {layer: gate for layer, gate in enumerate(values) if gate.shape[1]}
        heads = [range(count) for count in self.shape.heads_per_layer]
        of_rows = batch.readout.examples_of_rows(batch.examples)
        result = slopes(rows, used, self.shape, heads, of_rows)
        result[:, :, list(state)] = 0.0
        return result

    def _examples_of_backward(self, batch: Batch) -> int:
        """How many examples one backward pass may take within `most_backward_bytes`."""
        config: Any = self._model.config
        # ALBERT passes through its layers several times; encoders may have decoders beside them.
        passes = max(self.shape.layers, config.num_hidden_layers)
        passes += getattr(config, "decoder_layers", 0) or getattr(config, "num_decoder_layers", 0)
        tokens = batch.tokens
        if "pixel_values" in batch.arrays:
            sizes = zip(pair(config.image_size), pair(config.patch_size), strict=True)
            tokens = math.prod(image // patch for image, patch in sizes) + 2
        each = backward_bytes(config, passes) * tokens
        return int(max(1, most_backward_bytes(self._device) // each))
