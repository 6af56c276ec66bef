"""A user's own model, which a search borrows and leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

import torch
from torch import nn

_guard = Lock()
# Gates and training modes are the model's own: searches of one model wait for each other.
_borrowed: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
# The precision of all that compute in it, and what it was before the first of them.
_computing = 0
_precision_before = ""


@contextmanager
def as_it_is(model: nn.Module) -> Iterator[None]:
    """Give each module its training mode back, and compute in float32 as it is written meanwhile.

    Whatever automatic or reduced precision is on around it is off within. One thread at a time has
    a model; others wait.
    """
    with _guard:
        turn = _borrowed.setdefault(model, RLock())
    with turn, ExitStack() as off:
        training = {module: module.training for module in model.modules()}
        for device in ("cpu", "cuda"):
            off.enter_context(torch.autocast(device, enabled=False))
        off.enter_context(_highest_precision())
        try:
            yield
        finally:
            for module, was in training.items():
                module.training = was


@contextmanager
def _highest_precision() -> Iterator[None]:
    """Multiply float32 matrices as float32; what holds for the whole process, so until the last."""
    global _computing, _precision_before
    with _guard:
        if not _computing:
            _precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _computing += 1
    try:
        yield
    finally:
        with _guard:
            _computing -= 1
            if not _computing:
                torch.set_float32_matmul_precision(_precision_before)


def is_patched(model: nn.Module) -> bool:
    """Whether a module runs something else than its class's forward.

    What was compiled in place does not see gates that are put on later, and what trainers put in
    place of a forward may turn automatic precision on within.
    """
    return any(
        "forward" in vars(module) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_float32_on_cpu(model: nn.Module) -> bool:
    """Whether all weights are float32 and in this machine's own memory."""
    return all(
        p.device.type == "cpu" and (p.dtype == torch.float32 or not p.is_floating_point())
        for p in model.parameters()
    )
