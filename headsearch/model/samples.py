"""Random inputs of a given size, to compare models on and to time them with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headsearch.model.families import max_tokens


def input_names(model: nn.Module, tokenizer: Any) -> list[str]:
    """Return those of the tokenizer's outputs that the model takes, in the tokenizer's order."""
    taken = inspect.signature(model.forward).parameters
    return [name for name in tokenizer.model_input_names if name in taken]


def longest(model: nn.Module, limit: int) -> int:
    """Return how many tokens the model can read, but no more than a limit."""
    return min(max_tokens(model) or limit, limit)  # some have none of their own


def sample_inputs(
    model: nn.Module, batch: int, tokens: int, *, padded: bool = False
) -> dict[str, Tensor]:
    """Return `random_inputs` for a model, without what it does not take."""
    taken = inspect.signature(model.forward).parameters
    made = random_inputs(model.config, batch, tokens, padded=padded)
    return {name: tensor for name, tensor in made.items() if name in taken}


def random_inputs(
    config: Any, batch: int, tokens: int, *, padded: bool = False
) -> dict[str, Tensor]:
    """Return the same random inputs each time, on the CPU, each (batch, tokens) int64.

    For a model of images it is `pixel_values`, (batch, channels, height, width) float32.

    Args:
        config: of the model that they are for.
        batch, tokens: how many.
        padded: let every second example end in padding.
    """
    random = np.random.default_rng(0)
    if of_images(config):
        size = (batch, config.num_channels, *pair(config.image_size))
        return {"pixel_values": torch.from_numpy(random.standard_normal(size, dtype=np.float32))}
    # A model may end with any of several. A class's default may be beyond a smaller vocabulary.
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = [n for n in ends if _is_token(n, config)]
    pad = config.pad_token_id if _is_token(config.pad_token_id, config) else 0
    words = np.setdiff1d(np.arange(config.vocab_size), [pad, *ends])
    ids = random.choice(words, (batch, tokens))
    lengths = np.full(batch, tokens)
    if padded:
        lengths[1::2] = (tokens + 1) // 2
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    if ends:  # some classifiers read the end, and there must be one
        ids[np.arange(batch), lengths - 1] = ends[0]
    ids[mask == 0] = pad
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _is_token(number: Any, config: Any) -> bool:
    return isinstance(number, int) and 0 <= number < config.vocab_size


def of_images(config: Any) -> bool:
    """Whether a config is of a model that reads images."""
    return not hasattr(config, "vocab_size")


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """Return the logits of the plain forward, (examples, classes)."""
    with torch.inference_mode():
        logits: np.ndarray = model(**inputs).logits.float().cpu().numpy()
    return logits


def largest_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return how far outputs are apart at most, in units of the larger of 1 and their size."""
    worst = 0.0
    for left, right in pairs:
        apart = float(np.abs(left - right).max()) / max(1.0, float(np.abs(left).max()))
        worst = max(worst, apart if np.isfinite(apart) else np.inf)
    return worst
