"""headsearch: removes attention heads by A* search while a metric stays within a stated budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headsearch._version import __version__

if TYPE_CHECKING:
    from headsearch.api import SearchResult, load_pruned, prune, save_pruned, search

__all__ = ["SearchResult", "__version__", "load_pruned", "prune", "save_pruned", "search"]


def __getattr__(name: str) -> Any:
    # Torch and transformers load only when something of the API is used, not with the package.
    if name in __all__:
        from headsearch import api

        return getattr(api, name)
    raise AttributeError(f"module 'headsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
