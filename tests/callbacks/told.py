"""A short search on a tiny trained model, and a callback that remembers what it was told."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import headsearch
from tests.words import texts_and_labels, tiny_tokenizer, trained_model

OPTIONS: dict[str, Any] = {"max_drop": 0.05, "max_evaluations": 40}


@lru_cache(maxsize=1)
def model() -> Any:
    return trained_model()


def searched(**options: Any) -> headsearch.SearchResult:
    rows = [
        {"text": text, "label": label}
        for text, label in zip(*texts_and_labels(60, seed=5), strict=True)
    ]
    return headsearch.search(model(), tiny_tokenizer(), rows, **OPTIONS | options)


class Told:
    returned: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_expansion(self, step: dict[str, Any]) -> None:
        self.calls.append(("on_expansion", copy.deepcopy(step)))

    def on_incumbent(self, point: Any) -> None:
        self.calls.append(("on_incumbent", point))

    def on_end(self, result: Any) -> None:
        self.calls.append(("on_end", result))
