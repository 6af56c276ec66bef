"""What a finished run claims, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from headsearch.heads import HeadMap, HeadSet
from headsearch.report.summary import result_lines, score_text

SHAPE = HeadMap((3, 3))
BEST = HeadSet.of([0, 1, 4])


def point(heads: HeadSet, worse: int, better: int, p: float) -> dict[str, Any]:
    correct = 700 - worse + better
    return {
        "removed": SHAPE.pairs(heads),
        "heads_removed": len(heads),
        "metric": correct / 873,
        "correct": correct,
        "worse": worse,
        "better": better,
        "p_value": p,
        "passed": p <= 0.05,
    }


def lines(
    population: dict[str, Any] | None, removed: int = 3, optimal: bool = False, **more: Any
) -> list[str]:
    score = {"metric": 0.8, "loss": 0.4, "correct": 80}
    certificate = {"verified": True, "bound": {"heads": 6, "optimal": optimal}}
    if population is not None:
        certificate["population"] = population
    result = {
        "metric": "accuracy",
        "max_drop": 0.01,
        "threshold": 0.79,
        "examples": 100,
        "heads": 6,
        "baseline": score,
        "best": {"removed": SHAPE.pairs(BEST), "heads_removed": removed, **score},
        "certificate": certificate,
        "stopped": "no better state",
        "evaluations": 20,
        "expansions": 2,
        "gradient_passes": 3,
        "wall_seconds": 1.0,
        **more,
    }
    return result_lines(result, SHAPE.to_mask(BEST))


def offered(tried: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    return {
        "offered": True,
        "confidence": 0.95,
        "max_drop": 0.01,
        "examples": 873,
        "repeated_texts": 0,
        "assumption": "they are independent draws",
        "baseline": {"metric": 700 / 873, "correct": 700},
        "certified": None,
        "tried": tried,
        **values,
    }


def test_the_search_split_is_exact_and_the_rest_is_not_claimed() -> None:
    text = lines({"offered": False, "reason": "no certify examples were given"})
    assert text[1] == (
        "accuracy on the 100 search examples: 0.8000 (80 correct) before, 0.8000 (80 correct) "
        "after; at least 0.7900 was asked (a drop of at most 0.01)."
    )
    assert text[2] == (
        "Verified by the plain transformers forward in float32: exact for the search examples."
    )
    assert text[-1] == "Nothing is claimed about other data: no certify examples were given."


def test_what_is_said_of_the_search_split_is_by_the_plain_forward() -> None:
    """The search's own scores may be of another dtype."""
    plain = {
        name: {"metric": value, "loss": 0.4, "correct": round(100 * value)}
        for name, value in (("baseline", 0.81), ("best", 0.795))
    }
    certificate = {"verified": True, "bound": {"heads": 6, "optimal": False}, "plain": plain}
    text = "\n".join(lines(None, certificate=certificate))
    assert "0.8100 (81 correct) before, 0.7950 (80 correct) after" in text


@pytest.mark.parametrize(
    ("metric", "said"),
    [(-3.00214, "3.0021"), (-20.5, "20.500"), (-125.537, "125.54"), (-1.6e15, "1.6000e+15")],
)
def test_perplexities_are_told_from_each_other(metric: float, said: str) -> None:
    assert score_text({"metric": metric}, "perplexity") == said


def test_what_is_no_number_in_json_is_said_in_words() -> None:
    assert score_text({"metric": None, "loss": None}, "perplexity") == "beyond all numbers"


def test_a_certificate_for_the_very_heads_that_are_handed_back() -> None:
    certified = point(BEST, 8, 12, 0.004)
    text = lines(offered([certified], certified=certified))
    assert text[-3:] == [
        "With 95 % confidence, over draws of the 873 certify examples, removing these 3 heads "
        "lowers accuracy on the population by at most 0.01.",
        "accuracy on the certify examples: 0.8018 (700 correct) before, 0.8064 (704 correct) "
        "after; 8 turned wrong, 12 right.",
        "This takes it that they are independent draws.",
    ]


def test_a_certificate_for_fewer_heads_says_what_is_not_claimed_and_draws_them() -> None:
    certified = point(HeadSet.of([4]), 8, 12, 0.004)
    tried = [certified, point(BEST, 20, 18, 0.4)]
    text = lines(offered(tried, certified=certified, confidence=0.975, repeated_texts=2))
    assert text[-7:-1] == [
        "With 97.5 % confidence, over draws of the 873 certify examples, removing the 1 head "
        "below (the certified mask) lowers accuracy on the population by at most 0.01.",
        "accuracy on the certify examples: 0.8018 (700 correct) before, 0.8064 (704 correct) "
        "after; 8 turned wrong, 12 right.",
        "This takes it that they are independent draws.",
        "But 2 of them have the text of another one: if those are copies rather than draws, the "
        "confidence is less.",
        "Of the 3 heads above nothing is claimed about other data than the search split.",
        "",
    ]
    assert text[-1].splitlines() == ["layer 1  █·█  2 of 3", "layer 0  ███  3 of 3"]


def test_nothing_certified() -> None:
    reason = "the first point that was tried did not pass"
    text = lines(offered([point(HeadSet.of([4]), 20, 18, 0.4031)], reason=reason))
    assert text[-3:] == [
        "No point could be certified: the first point that was tried did not pass.",
        "Removing its 1 head turned 20 of the 873 certify answers wrong and 18 right, which does "
        "not prove with 95 % confidence that it lowers accuracy on the population by at most 0.01 "
        "(p = 0.4).",
        "Nothing is claimed about other data than the search split.",
    ]


def test_results_of_before_there_were_certificates_are_shown_too() -> None:
    assert lines(None)[-1].splitlines()[-1] == "layer 0  ··█  1 of 3"


REFUTED = (
    "impossible: sets of heads that met the budget in the search did not by the plain forward."
)
SHARED = "impossible: heads share keys and values, so that a set may save more than is counted."


@pytest.mark.parametrize(("exact", "said"), [(True, REFUTED), (False, SHARED)])
def test_what_is_said_where_all_sets_were_scored(exact: bool, said: str) -> None:
    weight = {"kind": "parameters", "unit": "parameters", "saved": 10, "total": 20}
    weight |= {"exact": exact, "optimal": False}
    text = lines(None, weight=weight, stopped="frontier exhausted")
    assert sum(said in line for line in text) == 1
    assert ("That saves at least 10 of 20" in "\n".join(text)) is not exact


@pytest.mark.parametrize(
    ("removed", "optimal", "dtype", "said"),
    [
        (3, False, "float32", "No claim that more is impossible: the search did not score every"),
        (3, True, "float32", "allows: all that would save more were scored."),
        (3, True, "bfloat16", "allows: all that would save more were scored, in bfloat16."),
        (6, True, "bfloat16", "This is the most that can go: all heads went."),
    ],
)
def test_what_is_said_of_more_heads(removed: int, optimal: bool, dtype: str, said: str) -> None:
    text = lines(None, removed, optimal, engine={"dtype": dtype})
    assert sum(said in line for line in text) == 1
    assert sum("more" in line or "all heads" in line for line in text) == 1
