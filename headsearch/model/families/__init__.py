"""The known model families, and how others are made known."""

from __future__ import annotations

from headsearch.model.families.base import (
    CAPABILITIES,
    FAST_PATH,
    GATE,
    NARROW,
    SAVE,
    SEARCH,
    AttentionLayer,
    Family,
    FastFamily,
    FeedForward,
    HeadLayer,
    OutputProjection,
)
from headsearch.model.families.registry import (
    FAMILIES,
    check_model,
    family_of,
    fast_family_of,
    head_map,
    kind_of,
    known_families,
    least_first,
    max_tokens,
    reads_images,
    register_family,
    vocabulary,
)
from headsearch.model.families.slicing import head_rows, take_inputs, take_outputs

__all__ = [
    "CAPABILITIES",
    "FAMILIES",
    "FAST_PATH",
    "GATE",
    "NARROW",
    "SAVE",
    "SEARCH",
    "AttentionLayer",
    "Family",
    "FastFamily",
    "FeedForward",
    "HeadLayer",
    "OutputProjection",
    "check_model",
    "family_of",
    "fast_family_of",
    "head_map",
    "head_rows",
    "kind_of",
    "known_families",
    "least_first",
    "max_tokens",
    "reads_images",
    "register_family",
    "take_inputs",
    "take_outputs",
    "vocabulary",
]
