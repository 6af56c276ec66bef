"""How long a layer's attention takes with ever fewer heads, where it is run."""

from __future__ import annotations

import statistics
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn
from torch.nn import functional

from headsearch.model.families import family_of

# Passes before times count, and rounds of which the median is taken.
WARM, ROUNDS = 3, 25


def attention_times(model: nn.Module, batch: int, tokens: int) -> list[list[int]]:
    """Return for each layer how many microseconds go with 0, 1, 2, … of its heads.

    Measured on this machine, on its GPU if it has one, in float32: a layer's four products and its
    attention between them, on random numbers of the layer's sizes, with keys and values for every
    head. Rounds go through all numbers
    of heads in turn, so that what slows the machine down slows all of them. As fewer heads never
    take longer but for noise, times are made monotone by isotonic regression.

    Args:
        model: a model of a known family.
        batch: examples in a batch.
        tokens: tokens in each.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cache
    def saved(hidden: int, heads: int, size: int) -> list[int]:
        times = _times(hidden, heads, size, torch.randn(batch, tokens, hidden, device=device))
        monotone = IsotonicRegression().fit_transform(np.arange(heads + 1), times)
        return [round(1e6 * (monotone[-1] - monotone[heads - gone])) for gone in range(heads + 1)]

    return [
        list(saved(_width(layer.output), layer.heads, layer.head_size))
        for layer in family_of(model).layers(model)
    ]


def _width(projection: Any) -> int:
    """Return how many features an output projection gives: `nn.Linear` or `Conv1D`."""
    return int(projection.nf if hasattr(projection, "nf") else projection.out_features)


@torch.inference_mode()
def _times(hidden: int, heads: int, size: int, inputs: Tensor) -> list[float]:
    """Return the median seconds of attention with 0, 1, 2, … heads."""
    layers = [_Attention(hidden, count, size).to(inputs.device) for count in range(heads + 1)]
    for layer in layers:
        for _ in range(WARM):
            layer(inputs)
    rounds = [[_seconds(layer, inputs) for layer in layers] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _seconds(layer: nn.Module, inputs: Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    layer(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


class _Attention(nn.Module):
    """Attention with so many heads; without any, what is left is the output's bias."""

    def __init__(self, hidden: int, heads: int, size: int) -> None:
        super().__init__()
        self._heads, self._size = heads, size
        self.inner = nn.ModuleList(
            nn.Linear(hidden, heads * size) for _ in range(3 if heads else 0)
        )
        self.output = nn.Linear(heads * size, hidden) if heads else None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.output is None:
            return inputs
        batch, tokens, _ = inputs.shape
        query, key, value = (
            product(inputs).view(batch, tokens, self._heads, self._size).transpose(1, 2)
            for product in self.inner
        )
        context = functional.scaled_dot_product_attention(query, key, value)
        made: Tensor = self.output(context.transpose(1, 2).flatten(2))
        return made
