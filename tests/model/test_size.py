"""Sizes, against what is reckoned by hand from the shapes of the layers."""

from __future__ import annotations

import pytest

from headsearch.heads import HeadSet
from headsearch.model.families import head_map
from headsearch.model.narrow import narrowed
from headsearch.model.size import size_of
from tests.tiny_families import CASES, case

# Of all but the groups' tests: 24 features, 4 heads of 6 each, 40 in the feed-forward.
HIDDEN, INNER, HEAD = 24, 40, 6


def bert_by_hand(heads: tuple[int, ...], tokens: int) -> tuple[int, int]:
    """Parameters and multiply-adds of the tiny BERT with so many heads in each layer."""
    parameters = (60 + 40 + 2) * HIDDEN + 2 * HIDDEN  # words, positions, types and a norm
    adds = 0
    for count in heads:
        width = count * HEAD
        parameters += 3 * (HIDDEN * width + width) + width * HIDDEN + HIDDEN + 2 * HIDDEN
        parameters += HIDDEN * INNER + INNER + INNER * HIDDEN + HIDDEN + 2 * HIDDEN
        adds += tokens * (4 * HIDDEN * width + 2 * HIDDEN * INNER) + 2 * tokens * tokens * width
    parameters += HIDDEN * HIDDEN + HIDDEN + HIDDEN * 3 + 3  # pooler and classifier
    return parameters, adds + HIDDEN * HIDDEN + HIDDEN * 3


@pytest.mark.parametrize("tokens", [5, 16])
@pytest.mark.parametrize("removed", [(), (1, 6, 7), tuple(range(4, 12))])
def test_bert(removed: tuple[int, ...], tokens: int) -> None:
    small = narrowed(case("BERT")[0], HeadSet.of(removed))
    found = size_of(small, tokens)
    expected = bert_by_hand(head_map(small).heads_per_layer, tokens)
    assert (found.parameters, found.multiply_adds) == expected


@pytest.mark.parametrize(
    ("removed", "query_heads", "key_heads"),
    [((), 8, 2), ((0,), 7, 2), ((0, 1, 2, 3), 4, 1), ((0, 1, 2, 3, 5), 3, 1)],
)
def test_a_removed_query_head_never_makes_llama_larger(
    removed: tuple[int, ...], query_heads: int, key_heads: int
) -> None:
    """Also where groups are uneven: keys and values are shared, not copied."""
    tokens, head = 10, 4
    found = size_of(narrowed(case("Llama")[0], HeadSet.of(removed)), tokens)
    parameters, adds = 60 * HIDDEN + HIDDEN + HIDDEN * 3, tokens * HIDDEN * 3
    for queries, keys in ((query_heads, key_heads), (8, 2)):
        own = HIDDEN * head * (2 * queries + 2 * keys) + 3 * HIDDEN * INNER
        parameters += own + 2 * HIDDEN
        adds += tokens * own + 2 * tokens * tokens * head * queries
    assert (found.parameters, found.multiply_adds) == (parameters, adds)


@pytest.mark.parametrize("name", sorted({family for family, _, _ in CASES.values()}))
def test_every_family_costs_less_without_heads(name: str) -> None:
    model, _ = case(name)
    whole = size_of(model, 9)
    some = size_of(narrowed(model, HeadSet.of([0, head_map(model).total - 1])), 9)
    none = size_of(narrowed(model, head_map(model).full), 9)
    assert whole.parameters > some.parameters > none.parameters
    assert whole.multiply_adds > some.multiply_adds > none.multiply_adds > 0
