"""headsearch: removes attention heads by A* search while a metric stays within a stated budget."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headsearch._version import __version__

if TYPE_CHECKING:
    from headsearch.api import (
        SearchResult,
        load_pruned,
        prune,
        register_family,
        save_pruned,
        search,
        write_report,
    )
    from headsearch.study import Study

__all__ = [
    "SearchResult",
    "Study",
    "__version__",
    "load_pruned",
    "prune",
    "register_family",
    "save_pruned",
    "search",
    "write_report",
]

# Parts that people use by name, beside what is above.
_PARTS = ("callbacks", "errors", "testing")


def __getattr__(name: str) -> Any:
    # Torch and transformers load only when something of the API is used, not with the package.
    if name == "Study":  # needs no torch at all
        from headsearch.study import Study

        return Study
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:
        from headsearch import api

        return sys.modules[f"{__name__}.search"] if name == "search" else getattr(api, name)
    raise AttributeError(f"module 'headsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _SearchPackage(ModuleType):
    # `headsearch.search` is both the folder of the search and the call that runs it. Help is about
    # the call.

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # to be read alone
        from headsearch.api import search

        return search.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        from headsearch.api import search

        return inspect.signature(search)

    def __call__(self, *args: Any, **options: Any) -> Any:
        from headsearch.api import search

        return search(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets a subpackage's name here, whoever imports it first.
        if name == "search" and isinstance(value, ModuleType):
            value.__class__ = _SearchPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
