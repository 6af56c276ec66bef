"""Which of transformers' own classes a model is of, and by which of its loaders it is found."""

from __future__ import annotations

from typing import Any

from transformers.models.auto import modeling_auto

from headsearch.errors import ModelError

# Looked at last: classes that another loader names better, as BART's, are there too.
_LAST = ("AutoModelForMaskedLM", "AutoModelForPreTraining")


def stock_class(kind: type) -> Any:
    """Return the transformers class that a model class is or derives from.

    A model that transformers itself loaded from a narrow folder is of a class of that folder.

    Raises:
        ModelError: there is none.
    """
    for parent in kind.__mro__:
        if parent.__module__.startswith("transformers."):
            return parent
    raise ModelError(f"{kind.__name__} is not a class of transformers")


def auto_class(kind: Any) -> str:
    """Return the name of the transformers loader, `AutoModelFor…`, whose model class this is.

    Raises:
        ModelError: there is none.
    """
    names: list[str] = [name for name in vars(modeling_auto) if name.startswith("AutoModelFor")]
    for name in sorted(names, key=lambda name: (name in _LAST, name)):
        mapping = getattr(modeling_auto, name)._model_mapping
        found = mapping.get(kind.config_class, None) if mapping is not None else None
        if kind in (found if isinstance(found, tuple) else (found,)):
            return name
    raise ModelError(f"no AutoModelFor… class of transformers loads a {kind.__name__}")
