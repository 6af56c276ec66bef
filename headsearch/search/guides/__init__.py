"""The guides: one file each, one protocol."""

from __future__ import annotations

from headsearch.search.guides.base import (
    Guide,
    Ladder,
    Path,
    View,
    furthest,
    paths_of,
    predicted_reach,
)
from headsearch.search.guides.budget import Budget
from headsearch.search.guides.lookahead import Lookahead
from headsearch.search.guides.taylor import Fisher, Michel

__all__ = [
    "Budget",
    "Fisher",
    "Guide",
    "Ladder",
    "Lookahead",
    "Michel",
    "Path",
    "View",
    "furthest",
    "paths_of",
    "predicted_reach",
]
