"""Loads a transformers model that has lost attention heads.

headsearch copies this file into every folder with narrow weights, so that transformers alone can
load them: `AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`.
It needs torch and transformers and nothing else. The model is built whole, then its modules get
the sizes that the config records, then the weights are loaded, all of which must be there and fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

# Where the config says which heads are gone, and in it, what that means for each module.
RECORD, SIZES = "headsearch", "narrow"
FORMAT = 1


class NarrowModel:
    """Put before a model class of transformers, makes its models as narrow as the config says."""

    # Classes that take the place of a module's own, by the name in the record.
    narrow_classes: Mapping[str, type[nn.Module]] = {}

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        parent: Any = super()
        parent.__init__(config, *args, **options)
        record = getattr(config, RECORD, None)
        if record is None:
            raise ValueError(f"config.json has no record {RECORD!r} of the heads that are gone")
        set_sizes(self, record, self.narrow_classes)

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As in transformers, but weights that are missing or do not fit are always an error."""
        if options.get("ignore_mismatched_sizes"):
            raise ValueError("`ignore_mismatched_sizes` must not be set for a narrow model")
        options.setdefault("use_safetensors", True)
        asked = options.pop("output_loading_info", False)
        parent: Any = super()
        model, found = parent.from_pretrained(*args, output_loading_info=True, **options)
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found[name]:
                raise ValueError(f"weights and config.json disagree: {name} {sorted(found[name])}")
        return (model, found) if asked else model


def set_sizes(model: Any, record: Any, classes: Mapping[str, type[nn.Module]]) -> None:
    """Give the modules of a whole model the sizes of a narrow one.

    Args:
        model: just built from the config; what its weights are is lost where a size changes.
        record: the config's record; for each module by its path in the model: `tensors`, the
            [shape in the whole model, shape now] of parameters and buffers; `attributes`,
            [value in the whole model, value now]; `class`, one of `classes`.
        classes: what may take the place of a module's class.

    Raises:
        ValueError: the record is of another format, of another model, or makes no sense.
    """
    sizes = record.get(SIZES) if isinstance(record, Mapping) else None
    if not isinstance(sizes, Mapping) or not isinstance(sizes.get("modules"), Mapping):
        raise ValueError(f"config.json's record {RECORD!r} has no sizes of modules in {SIZES!r}")
    if sizes.get("format") != FORMAT:
        raise ValueError(
            f"the `format` of the config's sizes must be {FORMAT} but is {sizes.get('format')!r}"
        )
    modules = dict(model.named_modules())
    for path, changes in sizes["modules"].items():
        if path not in modules:
            raise ValueError(f"config.json records sizes of {path!r}, which the model lacks")
        try:
            _change(modules[path], changes, classes)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise ValueError(f"config.json's sizes of {path!r} do not fit: {error}") from None


def _change(module: Any, changes: Any, classes: Mapping[str, type[nn.Module]]) -> None:
    for name, (before, after) in changes.get("tensors", {}).items():
        tensor = getattr(module, name)
        if list(tensor.shape) != before:
            raise ValueError(f"{name} is {list(tensor.shape)} in the whole model but not {before}")
        if len(after) != len(before) or not all(
            type(n) is int and 0 <= n <= most for n, most in zip(after, before, strict=True)
        ):
            raise ValueError(f"{name} can't be made {after} from {before}")
        smaller = tensor.new_empty(after)
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        setattr(module, name, smaller)
    if "class" in changes:
        if not issubclass(classes[changes["class"]], type(module)):
            raise ValueError(f"a {type(module).__name__} can't be a {changes['class']}")
        module.__class__ = classes[changes["class"]]
    for name, (before, after) in changes.get("attributes", {}).items():
        value = getattr(module, name, None)
        value = list(value) if isinstance(value, tuple) else value
        if isinstance(value, nn.Module) or value != before:
            raise ValueError(f"{name} is {value} in the whole model but not {before}")
        setattr(module, name, tuple(after) if isinstance(after, list) else after)
