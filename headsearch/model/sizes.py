"""What narrowing changed in a model, in terms that hold for every family: sizes and attributes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from headsearch.errors import ModelError
from headsearch.heads import HeadMap
from headsearch.model.blank import blank
from headsearch.model.families import head_map
from headsearch.model.narrow import RECORD, narrow_in_place
from headsearch.model.portable import FORMAT
from headsearch.model.stock import stock_class

# What every module has, such as its parameters and hooks; anything else is an attribute of its own.
_OWN = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Sizes:
    """What differs between a whole model and a narrow one.

    Attributes:
        record: the JSON that `portable.set_sizes` reads.
        classes: the classes that took the place of modules' own.
    """

    record: dict[str, Any]
    classes: tuple[type[nn.Module], ...]


@dataclass(frozen=True)
class _Seen:
    kind: type[nn.Module]
    shapes: dict[str, list[int]]
    attributes: dict[str, Any]
    hooks: int


def sizes_of(kind: type, config: Any) -> Sizes:
    """Return what the config's record of removed heads changes in a model.

    Args:
        kind: the model's class.
        config: its configuration, with a record of removed heads.

    Raises:
        InputError, ModelError: the record is not one of such a model.
    """
    config = copy.deepcopy(config)
    shape, removed = HeadMap.from_mask(getattr(config, RECORD))
    delattr(config, RECORD)
    with blank(), torch.device("meta"):  # sizes without weights
        model: nn.Module = stock_class(kind)(config)
    whole = _look(model)
    check_shape(model, shape)
    narrow_in_place(model, removed)
    return _difference(whole, _look(model))


def check_shape(model: nn.Module, shape: HeadMap) -> None:
    """Raise ModelError unless a whole model has the heads that a record is of."""
    if shape != head_map(model):
        raise ModelError(
            f"the config's record is of heads {list(shape.heads_per_layer)} but the model has "
            f"{list(head_map(model).heads_per_layer)}"
        )


def _look(model: nn.Module) -> dict[str, _Seen]:
    return {
        path: _Seen(
            kind=type(module),
            shapes={
                name: list(tensor.shape)
                for name, tensor in (*module._parameters.items(), *module._buffers.items())
                if tensor is not None
            },
            attributes={name: value for name, value in vars(module).items() if name not in _OWN},
            hooks=len(module._forward_hooks) + len(module._forward_pre_hooks),
        )
        for path, module in model.named_modules()
    }


def _difference(whole: dict[str, _Seen], narrow: dict[str, _Seen]) -> Sizes:
    modules: dict[str, Any] = {}
    classes: dict[str, type[nn.Module]] = {}
    if whole.keys() != narrow.keys():
        raise ModelError(f"narrowing replaced modules: {sorted(whole.keys() ^ narrow.keys())}")
    for path, now in narrow.items():
        before, changes = whole[path], dict[str, Any]()
        if now.hooks != before.hooks or now.shapes.keys() != before.shapes.keys():
            raise ModelError(f"narrowing gave {path} hooks or tensors that can't be recorded")
        tensors = {
            name: [before.shapes[name], shape]
            for name, shape in now.shapes.items()
            if shape != before.shapes[name]
        }
        if tensors:
            changes["tensors"] = tensors
        if now.kind is not before.kind:
            changes["class"] = now.kind.__name__
            classes[now.kind.__name__] = now.kind
        attributes = {
            name: [_plain(path, name, before.attributes.get(name)), _plain(path, name, value)]
            for name, value in now.attributes.items()
            if not _same(before.attributes.get(name), value)
        }
        if attributes:
            changes["attributes"] = attributes
        if changes:
            modules[path] = changes
    return Sizes({"format": FORMAT, "modules": modules}, tuple(classes.values()))


def _same(before: Any, after: Any) -> bool:
    if before is after:
        return True
    return type(before) is type(after) and isinstance(after, (*_PLAIN, tuple)) and before == after


def _plain(path: str, name: str, value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(path, name, item) for item in value]
    raise ModelError(f"narrowing set {path}.{name}, which can't be recorded: {value!r}")
