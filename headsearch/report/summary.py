"""A finished or running search in a few lines of text."""

from __future__ import annotations

from typing import Any

from headsearch.heads import HeadMap
from headsearch.report.picture import head_picture
from headsearch.task.metric import PERPLEXITY
from headsearch.task.readout import EXAMPLES, SEQUENCES


def result_lines(result: dict[str, Any], mask: dict[str, Any]) -> list[str]:
    """Return what a person should read of a `result.json` and its `mask.json`."""
    shape, removed = HeadMap.from_mask(mask)
    lines = [*search_claims(result), "", head_picture(shape, removed)]
    if claims := population_claims(result):
        lines += ["", *claims]
        point = result["certificate"]["population"].get("certified")
        if point is not None and point["removed"] != result["best"]["removed"]:
            lines += ["", head_picture(shape, shape.from_pairs(point["removed"]))]
    return lines


def search_claims(result: dict[str, Any]) -> list[str]:
    """Return what was found and what holds of it on the search split, the answer first."""
    best, base, after, name = result["best"], *plain_scores(result), result["metric"]
    share = best["heads_removed"] / result["heads"] if result["heads"] else 0.0
    bound = result["certificate"]["bound"]
    verified = result["certificate"]["verified"]
    # Results of earlier versions have no weight: theirs was the number of heads.
    weight = result.get("weight", {"kind": "heads", "optimal": bound["optimal"]})
    return [
        f"Removed {best['heads_removed']} of {result['heads']} heads ({share:.0%}).",
        *_saved_lines(weight),
        f"{name} on {scored_text(result)}: {score_text(base, name)} before, "
        f"{score_text(after, name)} after; {asked_text(result)}.",
        "Verified by the plain transformers forward in float32: exact for the search examples."
        if verified
        else "NOT verified: no pruned state met the threshold on the plain transformers forward.",
        f"{result['evaluations']:g} evaluations, {result['gradient_passes']} gradient passes, "
        f"{result['expansions']} expansions, {result['wall_seconds']:.0f} s; "
        f"stopped: {result['stopped']}.",
        _optimal_text(result, weight),
        *_assumed_lines(bound),
    ]


def plain_scores(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the full model and the best state score by the plain forward, in float32.

    The search's own scores differ by rounding, or by its dtype.
    """
    plain = result["certificate"].get("plain", result)
    return plain["baseline"], plain["best"]


def _optimal_text(result: dict[str, Any], weight: dict[str, Any]) -> str:
    """Say whether more could go, and by what that is known."""
    if not weight["optimal"]:
        return f"No claim that more is impossible: {_open_text(result, weight)}."
    if result["best"]["heads_removed"] == result["heads"]:
        return "This is the most that can go: all heads went."
    dtype = result.get("engine", {}).get("dtype", "float32")
    return (
        "This is the most that any set of heads allows: all that would save more were scored"
        f"{'' if dtype == 'float32' else f', in {dtype}'}."
    )


def _open_text(result: dict[str, Any], weight: dict[str, Any]) -> str:
    """Say why it is not known whether more could go."""
    if result["stopped"] != "frontier exhausted":
        return "the search did not score every set of heads"
    if weight.get("exact", True):
        return "sets of heads that met the budget in the search did not by the plain forward"
    return "heads share keys and values, so that a set may save more than is counted"


def _saved_lines(weight: dict[str, Any]) -> list[str]:
    """Say what was to be saved, where that is not the number of heads."""
    if weight["kind"] == "heads":
        return []
    of = "of their parameters" if weight["kind"] == "parameters" else "of attention's time"
    least = "" if weight.get("exact", True) else "at least "
    return [
        f"That saves {least}{weight['saved']:,} of {weight['total']:,} {weight['unit']} "
        f"({weight['saved'] / weight['total']:.0%} {of})."
    ]


def population_claims(result: dict[str, Any]) -> list[str]:
    """Return what is claimed of data that the search did not see, and what is not."""
    claim = result["certificate"].get("population")
    if claim is None:  # a result of before there were certificates
        return []
    if not claim["offered"]:
        return [f"Nothing is claimed about other data: {claim['reason']}."]
    sure, examples = f"{100 * claim['confidence']:g} % confidence", claim["examples"]
    most = f"{result['metric']} on the population by at most {claim['max_drop']:g}"
    best, point, name = result["best"], claim["certified"], result["metric"]
    if point is None:
        lines = [f"No point could be certified: {claim['reason']}."]
        lines += [
            f"Removing its {heads_text(tried)} turned {tried['worse']} of the "
            f"{examples} certify answers wrong and {tried['better']} right, which does not prove "
            f"with {sure} that it lowers {most} (p = {tried['p_value']:.2g})."
            for tried in claim["tried"]
        ]
        return [*lines, "Nothing is claimed about other data than the search split."]
    same = point["removed"] == best["removed"]
    lines = [
        f"With {sure}, over draws of the {examples} certify examples, removing "
        f"{'these' if same else 'the'} {heads_text(point)}"
        f"{'' if same else ' below (the certified mask)'} lowers {most}.",
        f"{name} on the certify examples: {score_text(claim['baseline'], name)} before, "
        f"{score_text(point, name)} after; {point['worse']} turned wrong, {point['better']} right.",
        f"This takes it that {claim['assumption']}.",
    ]
    if claim["repeated_texts"]:
        lines.append(
            f"But {claim['repeated_texts']} of them have the text of another one: if those are "
            "copies rather than draws, the confidence is less."
        )
    if not same:
        lines += [
            f"Of the {heads_text(best)} above nothing is claimed about other data than "
            "the search split.",
        ]
    return lines


def heads_text(point: dict[str, Any]) -> str:
    """Return how many heads a point removes, as `1 head` or `2 heads`."""
    count = point["heads_removed"]
    return f"{count} head{'' if count == 1 else 's'}"


def scored_text(result: dict[str, Any]) -> str:
    """Say what was scored."""
    examples = f"the {result['examples']} search examples"
    # Results of earlier versions have examples alone.
    scored = result.get("scored", {"kind": EXAMPLES})
    if scored["kind"] in (EXAMPLES, SEQUENCES):
        return examples
    return f"the {scored['rows']} {scored['kind']} of {examples}"


def asked_text(result: dict[str, Any]) -> str:
    """Say what metric was asked for."""
    if result["metric"] == PERPLEXITY:  # whose negative is the metric
        most = score_text({"metric": result["threshold"]}, PERPLEXITY)
        return f"at most {most} was asked (a rise of at most {result['max_drop']:g} of itself)"
    least = f"{result['threshold']:.4f}"
    return f"at least {least} was asked (a drop of at most {result['max_drop']:g})"


def score_text(score: dict[str, Any], name: str) -> str:
    """Return a metric, for accuracy with the number of right answers."""
    if score["metric"] is None:  # JSON has no number for it
        return "beyond all numbers"
    if name == PERPLEXITY:
        return _perplexity_text(-score["metric"])
    right = score.get("correct")
    correct = "" if right is None else f" ({right} correct)"
    return f"{score['metric']:.4f}{correct}"


def _perplexity_text(value: float) -> str:
    """Return a perplexity with five digits at least, as small budgets are told from each other."""
    if value >= 1e6:
        return f"{value:.4e}"
    return f"{value:.{4 if value < 10 else 3 if value < 100 else 2}f}"


def verify_lines(scores: dict[str, Any]) -> list[str]:
    """Return what a person should read of `verify`."""
    name = scores["metric"]
    if "model" in scores:
        return [f"{name} on {scores['examples']} examples: {score_text(scores['model'], name)}"]
    lines = [
        f"{name} on {scores['examples']} examples by the plain forward: "
        f"{score_text(scores['baseline'], name)} before, {score_text(scores['pruned'], name)} "
        f"after removing {scores['heads_removed']} of {scores['heads']} heads",
        f"{'holds' if scores['verified'] else 'DOES NOT HOLD'}: {asked_text(scores)}",
    ]
    if not scores.get("as_searched", True):
        lines.append("Data, or versions of libraries, are not those that were searched.")
    if not scores.get("as_found", True):
        lines.append("mask.json is not of the heads that result.json tells of.")
    return lines


def _assumed_lines(bound: dict[str, Any]) -> list[str]:
    """Return the bound that rests on an assumption, with it and what speaks against it."""
    assumed = bound.get("assumed")  # results of earlier versions have none
    if bound["optimal"] or assumed is None or not assumed["rests_on"]:
        return []
    return [
        f"Not proved: no more than {assumed['heads']} heads can go if {assumed['assumption']}; "
        f"of {assumed['tested']} scored sets that contain one that misses it, "
        f"{assumed['violations']} meet it."
    ]
