"""How large a model is: parameters, and multiply-adds of one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headsearch.model.parameters import parameters
from headsearch.model.samples import sample_inputs


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
    whole: Any = model.eval()
    device = next(model.parameters()).device
    inputs = {name: each.to(device) for name, each in sample_inputs(model, 1, tokens).items()}
    if getattr(whole.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = inputs["input_ids"]
    # Attention as two products, which are what is counted; a fused kernel's are not, everywhere.
    counter = FlopCounterMode(display=False)
    # Its hooks fail on parameters that want gradients within `no_grad`, so these want none.
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        torch.func.functional_call(model, weights, (), inputs)
    return Size(parameters(model), counter.get_total_flops() // 2)
