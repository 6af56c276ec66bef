"""A running search on one calm screen, or in a line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from headsearch.report.curve import curve_lines
from headsearch.report.duration import duration
from headsearch.report.summary import score_text
from headsearch.search.bound import bound_text
from headsearch.task.metric import PERPLEXITY

WIDEST = 100  # columns; a wider curve shows no more
INDENT = 11
KINDS = {
    "starting": "starting",
    "baseline": "the full model",
    "proposals": "proposals beside the best",
    "curve": "milder points than the best",
    "safer": "points of low loss",
    "expansion": "an expansion",
    "bound": "small sets for the bound",
    "last": "the last ones before the end",
    "verifying": "the best by the plain forward",
    "certifying": "points on the certify split",
}


def screen_lines(values: Mapping[str, Any], width: int = 80) -> list[str]:
    """Return a screen: what is asked, found, done and left, and the curve.

    Args:
        values: the content of a run's `progress.json`, or of `run.tally.Tally.values`.
        width: of the screen, in columns; longer texts are wrapped.
    """
    width, values = min(width, WIDEST), _whole(values)
    lines = list[str]()
    for name, text in _rows(values):
        for line in textwrap.wrap(text, max(20, width - INDENT)):
            lines.append(f"{name:<{INDENT}}{line}")
            name = ""
    if values["threshold"] is not None:
        labels = [
            _shown(values, max(metric for _, metric in values["points"])),
            _shown(values, values["threshold"]),
        ]
        curve = curve_lines(values["points"], values["heads"], values["threshold"], labels, width)
        lines += ["", f"{values['metric']} by heads removed", *curve]
    return lines


def plain_line(values: Mapping[str, Any]) -> str:
    """Return the same in one line; see `screen_lines`."""
    values = _whole(values)
    heads, metric, _ = values["best"]
    shown = "-" if metric is None else _shown(values, metric)
    expected = (values["left"] or {}).get("expected")  # 0: past the expected number of evaluations
    left = f", about {duration(expected)} left" if expected else ""
    return (
        f"{heads} heads removed{_saved(values)}, {values['metric']} {shown} | "
        f"{values['evaluations']:g} evaluations, {_speed(values)} | "
        f"{values['kind']} at {values['g']} | {values['seconds']:.0f} s{left}"
    )


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return progress with what files of earlier versions did not have."""
    heads = values["heads"]
    return {
        "metric": "metric",
        "baseline": None,
        "threshold": None,
        "g": 0,
        "bound": {"heads": heads, "assumed": heads, "tested": 0, "violations": 0},
        "expected": None,
        "points": [],
        "left": None,
        **values,
    }


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    heads, metric, _ = values["best"]
    share = heads / values["heads"] if values["heads"] else 0.0
    asked = ""
    if values["threshold"] is not None:
        least = "at most" if values["metric"] == PERPLEXITY else "at least"
        asked = (
            f"{values['metric']} {_shown(values, values['baseline'])} before, {least} "
            f"{_shown(values, values['threshold'])} is asked"
        )
    found = f"{heads} of {values['heads']} heads ({share:.0%}){_saved(values)}"
    if metric is not None:
        found += f", {values['metric']} {_shown(values, metric)}"
    return [
        ("budget", asked),
        ("removed", found),
        ("bound", bound_text(values["bound"])),
        ("searching", _searching(values)),
        ("scored", _scored(values)),
        ("time", _time(values)),
    ]


def _searching(values: Mapping[str, Any]) -> str:
    kind, g = values["kind"], values["g"]
    what = KINDS.get(kind, kind.replace("rollout ", "the rollout of "))
    return f"step {values['step']}, {what}" + (f", from {g} removed on" if g else "")


def _scored(values: Mapping[str, Any]) -> str:
    text, expected = f"{values['evaluations']:,.0f} evaluations", values["expected"]
    if expected is not None and expected["low"] == expected["high"]:
        text += f" of {expected['high']:,.0f}"
    elif expected is not None:
        text += (
            f" of about {expected['expected']:,.0f} ({expected['low']:,.0f} to "
            f"{expected['high']:,.0f})"
        )
    text += f", {_speed(values)}"
    if hits := values.get("engine", {}).get("memo_hit_rate", 0.0):
        text += f", {hits:.0%} from the memo"
    return text


def _saved(values: Mapping[str, Any]) -> str:
    return "".join(f", {n:,} {unit} saved" for unit, n in values.get("saved", {}).items())


def _speed(values: Mapping[str, Any]) -> str:
    workers = round(values.get("engine", {}).get("workers", 1))
    return f"{values['rate']:.2f}/s" + (f" by {workers} workers" if workers > 1 else "")


def _time(values: Mapping[str, Any]) -> str:
    text, left = duration(values["seconds"]), values["left"]
    if left is None or values.get("state", "running") != "running":
        return text
    if left["low"] == left["high"]:
        return f"{text}, {duration(left['high'])} left at most"
    if not left["expected"]:
        return f"{text}, likely to end soon, {duration(left['high'])} left at most"
    return f"{text}, about {duration(left['expected'])} left, {duration(left['high'])} at most"


def _shown(values: Mapping[str, Any], metric: float) -> str:
    return score_text({"metric": metric}, values["metric"])
