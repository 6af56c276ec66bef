"""A model as numpy arrays and JSON: what travels to workers, and what the fingerprint covers."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from headsearch.errors import ModelError
from headsearch.heads import HeadMap
from headsearch.model.blank import blank
from headsearch.model.checkpoint import load_weights
from headsearch.model.families import FAMILIES, family_of
from headsearch.model.narrow import RECORD, narrow_in_place
from headsearch.model.stock import stock_class


@dataclass(frozen=True)
class ModelBundle:
    """All that rebuilds a model elsewhere.

    Attributes:
        module, name: where its class is imported from.
        config: its configuration as JSON.
        arrays: its weights and buffers by name, float32.
        family: the module that makes its family known, where it does not come with headsearch.
    """

    module: str
    name: str
    config: str
    arrays: dict[str, np.ndarray]
    family: str | None = None

    def fingerprint(self) -> str:
        """Return SHA-256 (hex) over family, configuration and all weights."""
        return self._digest(f"{self.module}.{self.name}\n{self.config}\n")

    def weights_fingerprint(self) -> str:
        """Return SHA-256 (hex) over all weights alone, the same under any transformers version."""
        return self._digest("")

    def _digest(self, start: str) -> str:
        digest = hashlib.sha256(start.encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes() if array.ndim == 0 else array.data)
        return digest.hexdigest()


def bundle(model: nn.Module) -> ModelBundle:
    """Take a model of a known family apart; float32 weights share its memory.

    Raises:
        UnknownFamilyError: it is of no known family.
        ModelError: it is what `torch.compile` made of another, and no class makes it again.
    """
    family = family_of(model)
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "`model` must be the model of before `torch.compile`: that is `model._orig_mod`"
        )
    # A model that transformers itself loaded from a narrow folder is of a class of that folder.
    kind: Any = type(model)
    if kind.__module__.startswith("transformers_modules."):
        kind = stock_class(kind)
    settings: Any = model.config
    config = settings.to_dict()
    config.pop("_name_or_path", None)  # where it came from does not change what it computes
    arrays = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        arrays[name] = (value.float() if value.is_floating_point() else value).numpy()
    return ModelBundle(
        module=kind.__module__,
        name=kind.__qualname__,
        config=json.dumps(config, sort_keys=True),
        arrays=arrays,
        family=None if family in FAMILIES else type(family).__module__,
    )


def rebuild(parts: ModelBundle) -> nn.Module:
    """Make the model again; its weights share the bundle's memory and must not be written to.

    Raises:
        ModelError: its class or its family can't be imported, or does not fit the weights.
    """
    try:
        if parts.family is not None:
            importlib.import_module(parts.family)
        kind = getattr(importlib.import_module(parts.module), parts.name)
        config = kind.config_class.from_dict(json.loads(parts.config))
    except (ImportError, AttributeError) as error:
        raise ModelError(f"could not import {parts.module}.{parts.name}: {error}") from None
    record = copy.deepcopy(getattr(config, RECORD, None))
    if record is not None:
        delattr(config, RECORD)
    with blank():
        model: nn.Module = kind(config)
    if record is not None:
        narrow_in_place(model, HeadMap.from_mask(record)[1])
    with warnings.catch_warnings():
        # The arrays may lie read-only in shared memory; an evaluator never writes to weights.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(array) for name, array in parts.arrays.items()}
    load_weights(model, tensors)
    return model.eval()
