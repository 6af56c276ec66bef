"""Attention of packed examples: each token's queries meet the keys of its own example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from headsearch.scoring.packing import Packing

# What the kernels of attention for sequences of different lengths take.
HALVES = (torch.bfloat16, torch.float16)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    *,
    scale: float,
    bias: Tensor | None = None,
    first: bool = False,
) -> Tensor:
    """Return every query's mean of its example's values, (queries, heads, wide).

    One kernel takes all examples where there is one (halves on a GPU, without bias), else one run
    of examples of one length after the other is computed. On a GPU the kernel is always the same
    and splits no example's keys, so that an example's result does not depend on those beside it.

    Args:
        query: (rows, heads, wide); or of first tokens alone, (examples and more, heads, wide).
        key, value: (rows, heads, wide).
        packing: which rows belong together.
        scale: of the products of queries and keys.
        bias: added to the scores, (1 or examples, 1 or heads, 1 or tokens, tokens), or None;
            of examples where all have as many tokens.
        first: whether the queries are of first tokens alone.
    """
    if query.dtype in HALVES and not query.is_cuda and query.requires_grad:
        # A CPU's backward pass of half precision takes ten times as long as in float32.
        wide = (query.float(), key.float(), value.float())
        bias = None if bias is None else bias.float()
        found = attention(*wide, packing, scale=scale, bias=bias, first=first)
        return found.to(query.dtype)
    whole = VARLEN if bias is None and query.is_cuda and query.dtype in HALVES else None
    if whole is not None and not torch.is_grad_enabled():
        return _at_once(whole, query, key, value, packing, scale, first)
    parts, start = [], 0
    with _kernel(query):
        for (run, keys), (_, values) in zip(packing.split(key), packing.split(value), strict=True):
            stop = start + run.examples * (1 if first else run.tokens)
            asked = query[start:stop].view(run.examples, -1, *query.shape[1:])
            start = stop
            if first:
                parts.append(_of_first(asked, keys, values, scale, bias))
                continue
            added = None if bias is None else bias[:, :, : run.tokens, : run.tokens]
            context = functional.scaled_dot_product_attention(
                asked.transpose(1, 2),
                keys.transpose(1, 2),
                values.transpose(1, 2),
                attn_mask=added,
                scale=scale,
            )
            parts.append(context.transpose(1, 2).flatten(0, 1))
    return packing.fill_examples(parts) if first else packing.fill(parts)


def _of_first(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """Return what examples' first tokens get, (examples, heads, wide), by sums alone.

    A CPU's kernels for a single query depend in the last bits on where in memory it is.

    Args:
        query: (examples, 1, heads, wide).
        key, value: (examples, tokens, heads, wide).
        scale, bias: see `attention`.
    """
    scores = (query.float() * key.float()).sum(-1) * scale
    if bias is not None:
        scores = scores + bias[:, :, 0, : key.shape[1]].transpose(1, 2).float()
    means = (scores.softmax(1)[..., None] * value.float()).sum(1)
    return means.to(value.dtype)


def _kernel(query: Tensor) -> AbstractContextManager[Any]:
    """Choose the kernel on a GPU; of backward passes their caller does."""
    if query.is_cuda and not torch.is_grad_enabled():
        return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)
    return nullcontext()


def _at_once(
    whole: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scale: float,
    first: bool,
) -> Tensor:
    ends = packing.counts if first else packing.edges
    asked, longest = (packing.count, 1) if first else (packing.rows, packing.tokens)
    found = whole(
        query[:asked],
        key[: packing.rows],
        value[: packing.rows],
        ends,
        packing.edges,
        longest,
        packing.tokens,
        scale=scale,
    )
    return packing.fill_examples([found]) if first else packing.fill([found])


def _varlen() -> Callable[..., Tensor] | None:
    """Return torch's attention for sequences of different lengths, if it has one."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch < 2.10
        return None
    function: Any = varlen_attn
    return function if "scale" in inspect.signature(function).parameters else None


VARLEN = _varlen()
