"""What a model card claims, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from headsearch.heads import HeadMap, HeadSet
from headsearch.report.card import card, claim_lines, export_lines

SHAPE = HeadMap((3, 3))
BEST, MILD, BOLD = HeadSet.of([0, 1, 4]), HeadSet.of([0]), HeadSet.of([0, 1, 3, 4])
CLAIM = {
    "offered": True,
    "confidence": 0.95,
    "max_drop": 0.01,
    "examples": 900,
    "repeated_texts": 0,
    "assumption": "they are independent draws",
    "baseline": {"metric": 0.8, "correct": 720},
    "tried": [],
}


def point(heads: HeadSet, correct: int) -> dict[str, Any]:
    return {
        "removed": SHAPE.pairs(heads),
        "heads_removed": len(heads),
        "metric": correct / 100,
        "correct": correct,
        "loss": 0.4,
    }


def exported(
    heads: HeadSet,
    correct: int,
    *,
    population: Any = None,
    verified: bool = True,
    kind: str = "narrow",
) -> dict[str, Any]:
    return {
        "format": kind,
        "folder": "small",
        "loader": "AutoModelForSomething",
        "point": point(heads, correct),
        "apart": 2.2e-7,
        "parameters": [900, 1000],
        "multiply_adds": [5000, 7000],
        "example": "128 tokens",
        "images": None,
        "versions": {"headsearch": "9.9"},
        "commands": ["headsearch run m --data d.csv"],
        "mask": SHAPE.to_mask(heads),
        "asked": {"model": "m", "data": "d.csv"},
        "result": {
            "headsearch": "9.8",
            "metric": "accuracy",
            "max_drop": 0.01,
            "threshold": 0.79,
            "examples": 100,
            "heads": 6,
            "baseline": {"metric": 0.8, "loss": 0.4, "correct": 80},
            "best": point(BEST, 79),
            "certificate": {"verified": verified, "population": population},
            "environment": {"torch": "2"},
        },
    }


def test_the_best_point_is_verified_and_within_what_was_asked() -> None:
    text = "\n".join(claim_lines(exported(BEST, 79)))
    assert "0.8000 (80 correct) before, 0.7900 (79 correct) after; at least 0.7900" in text
    assert "Verified by the plain transformers forward" in text
    assert "BELOW" not in text
    assert "within 2.2e-07 of those" in text


def test_other_points_and_unverified_ones_say_so() -> None:
    for made in (exported(MILD, 81), exported(BEST, 79, verified=False)):
        text = "\n".join(claim_lines(made))
        assert "NOT verified by the plain transformers forward" in text
        assert "BELOW" not in text
    text = "\n".join(export_lines(exported(BOLD, 78)))
    assert "This operating point is BELOW what was asked." in text
    assert "Removed 4 of 6 heads: 900 parameters of 1,000, " in text
    assert "5,000 multiply-adds of 7,000 for 128 tokens." in text


def test_a_certificate_is_claimed_for_its_own_heads_only() -> None:
    passed = {**point(MILD, 81), "worse": 1, "better": 2, "p_value": 0.01, "passed": True}
    population = {**CLAIM, "certified": passed}
    own = card(exported(MILD, 81, population=population))
    assert "With 95 % confidence" in own
    assert "removing these 1 head lowers accuracy on the population by at most 0.01" in own
    other = card(exported(BEST, 79, population=population))
    assert "confidence" not in other
    assert "Nothing is claimed about other data than the search split: what the run certified" in (
        other
    )
    none = {"offered": False, "reason": "no certify examples were given"}
    assert "other data: no certify examples" in card(exported(BEST, 79, population=none))


@pytest.mark.parametrize(
    ("kind", "loading"),
    [
        (
            "narrow",
            'model = AutoModelForSomething.from_pretrained("small", trust_remote_code=True)',
        ),
        ("zeroed", 'model = AutoModelForSomething.from_pretrained("small")'),
        ("onnx", "InferenceSession"),
    ],
)
def test_each_format_says_how_it_is_loaded(kind: str, loading: str) -> None:
    text = card(exported(BEST, 79, kind=kind))
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert loading in text
    assert "layer 1  █·█  2 of 3" in text
    assert "    headsearch run m --data d.csv" in text
    assert "Exported with headsearch 9.9.\nSearched with torch 2." in text
    for block in text.split("```python\n")[1:]:
        compile(block.split("```")[0], kind, "exec")
