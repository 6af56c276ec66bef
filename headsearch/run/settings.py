"""How to search, from what was asked."""

from __future__ import annotations

from headsearch.run.config import RunConfig
from headsearch.search.astar import Settings


def settings_of(config: RunConfig) -> Settings:
    """Return the search settings that a configuration asks for."""
    return Settings(
        patience=config.patience or None,
        bound_evaluations=config.bound_evaluations,
        max_evaluations=config.max_evaluations,
        max_expansions=config.max_expansions,
    )
