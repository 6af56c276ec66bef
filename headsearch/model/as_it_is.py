"""A user's own model, which a search borrows and leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def as_it_is(model: nn.Module) -> Iterator[None]:
    """Give each module its training mode back, and compute in float32 as it is written meanwhile.

    Whatever automatic or reduced precision is on around it is off within.
    """
    training = {module: module.training for module in model.modules()}
    precision = torch.get_float32_matmul_precision()
    with ExitStack() as off:
        for device in ("cpu", "cuda"):
            off.enter_context(torch.autocast(device, enabled=False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            for module, was in training.items():
                module.training = was


def is_float32_on_cpu(model: nn.Module) -> bool:
    """Whether all weights are float32 and in this machine's own memory."""
    return all(
        p.device.type == "cpu" and (p.dtype == torch.float32 or not p.is_floating_point())
        for p in model.parameters()
    )
