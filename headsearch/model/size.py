"""How large a model is: parameters, and multiply-adds of one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headsearch.model.parameters import parameters


@dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        parameters: numbers that it holds; those that are shared count once.
        multiply_adds: of all matrix products and convolutions in the forward of one example.
    """

    parameters: int
    multiply_adds: int


def size_of(model: nn.Module, tokens: int = 128) -> Size:
    """Return how large a model is, narrow or not; takes one forward of one example.

    Args:
        model: a model of transformers; it is not changed, but for eval mode.
        tokens: length of the example; an image is as large as the model reads.
    """
    inputs = example_inputs(model.eval(), tokens)
    # Attention as two products, which are what is counted; a fused kernel's are not, everywhere.
    counter = FlopCounterMode(display=False)
    # Its hooks fail on parameters that want gradients within `no_grad`, so these want none.
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        torch.func.functional_call(model, weights, (), inputs)
    return Size(parameters(model), counter.get_total_flops() // 2)


def example_inputs(model: nn.Module, tokens: int) -> dict[str, Tensor]:
    """Return what the forward takes of one example without padding."""
    whole: Any = model
    config, device = whole.config, next(model.parameters()).device
    if whole.main_input_name == "pixel_values":
        size = (1, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.zeros(size, device=device)}
    special = {config.pad_token_id, config.eos_token_id}
    word = next(token for token in range(config.vocab_size) if token not in special)
    ids = torch.full((1, tokens), word, device=device)
    if isinstance(config.eos_token_id, int):  # some classifiers read the end, and there alone
        ids[0, -1] = config.eos_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return inputs
