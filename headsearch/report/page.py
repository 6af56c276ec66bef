"""Writes the report of a finished run: one HTML file, or Markdown with figures beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from headsearch.errors import StorageError
from headsearch.heads import HeadMap
from headsearch.report import figures, history
from headsearch.report.summary import population_claims, search_claims
from headsearch.task.metric import PERPLEXITY
from headsearch.task.readout import EXAMPLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("html", "md")
# Of a metric's intervals; a run's own `--confidence` is about its certificate.
CONFIDENCE = 0.95


def write_report(
    out: Path,
    style: str,
    *,
    name: str,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    mask: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    latency: Mapping[str, Any] | None,
    command: str,
    changes: Mapping[str, Any],
) -> list[Path]:
    """Write a report and return the files that were written.

    Args:
        out: the report's file; figures of a Markdown report lie beside it.
        style: one of `FORMATS`.
        name: of the run.
        config, result, mask: contents of `config.json`, `result.json` and `mask.json`.
        steps: the lines of `transcript.jsonl`.
        latency: the content of `latency.json`; None leaves the section out.
        command: what repeats the run.
        changes: how answers changed, see `run.findings`; or {"missing": reason}.

    Raises:
        InputError: matplotlib is not installed.
        StorageError: a file can't be written.
    """
    figures.require_matplotlib()
    found, *claims = search_claims(dict(result))
    population, tried = population_claims(dict(result)), _tried(result)
    if result["metric"] == PERPLEXITY:
        result, steps = _turned(result, steps)
    shape, _ = HeadMap.from_mask(mask)
    states = history.scored_states(steps)
    effects = history.effects(states)
    points = sorted(result["operating_points"], key=lambda point: point["heads_removed"])
    bands = None
    # Tokens of one text are no independent draws. Results of earlier versions have examples alone.
    if result.get("scored", {}).get("kind", EXAMPLES) == EXAMPLES:
        bands = history.intervals(points, result["examples"], CONFIDENCE)
    best, certified = result["best"], _certified(result)
    # A perplexity has no hundredths.
    unit = 1.0 if result["metric"] == PERPLEXITY else 0.01
    drawn = {
        "heads": _removal_map(result, best, shape),
        "certified": _removal_map(result, certified, shape) if certified else None,
        "effects": figures.effect_map(shape, effects, unit) if effects else None,
        "metric": figures.metric_curve(
            result, points, bands, history.cloud(states.values()), tried
        ),
        "loss": figures.loss_curve(result, points),
    }
    written = {}
    pictures: dict[str, str] = {}
    for key, figure in drawn.items():
        if figure is None:
            continue
        if style == "html":
            pictures[key] = Markup(figures.to_svg(figure, key))  # made here, without data
        else:
            pictures[key] = f"{out.stem}-{key}.png"
            written[out.parent / pictures[key]] = figures.to_png(figure)
    page = _environment().get_template(f"report.{style}.j2")
    text = page.render(
        name=name,
        config=config,
        result=result,
        steps=steps,
        latency=latency,
        command=command,
        changes=changes,
        pictures=pictures,
        found=found,
        claims=claims,
        population=population,
        confidence=CONFIDENCE,
        unit="in points (hundredths), " if unit != 1.0 else "",
        tried=tried,
        points=[(point, bands[i] if bands else None) for i, point in enumerate(points)],
        effects=[(shape.position(head), effect) for head, effect in effects.items()],
        scored=len(states),
        version=result["headsearch"],
    )
    written[out] = text.encode()
    for path, content in written.items():
        _write(path, content)
    return [out, *(path for path in written if path != out)]


def _turned(
    result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a result and its steps with what the metric is the negative of, in its place."""

    def turned(score: Mapping[str, Any]) -> dict[str, Any]:
        return {**score, "metric": -score["metric"]}

    def row(bits: str, metric: float | None, *rest: Any) -> list[Any]:
        return [bits, None if metric is None else -metric, *rest]

    return {
        **result,
        "baseline": turned(result["baseline"]),
        "best": turned(result["best"]),
        "operating_points": [turned(point) for point in result["operating_points"]],
        "threshold": -result["threshold"],
    }, [
        {
            **step,
            "scored": [row(*each) for each in step["scored"]],
            "best": [step["best"][0], -step["best"][1], *step["best"][2:]],
        }
        for step in steps
    ]


def _certified(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the certified point, if it has other heads than the best."""
    point: Mapping[str, Any] | None
    point = (result["certificate"].get("population") or {}).get("certified")
    return None if point is None or point["removed"] == result["best"]["removed"] else point


def _removal_map(result: Mapping[str, Any], point: Mapping[str, Any], shape: HeadMap) -> Figure:
    order = history.removal_order(point, result["operating_points"], shape)
    return figures.removal_map(shape, shape.from_pairs(point["removed"]), order)


def _tried(result: Mapping[str, Any]) -> list[tuple[int, float, tuple[float, float]]]:
    """Return (heads removed, metric, exact interval) of what was scored on the certify split."""
    claim = result["certificate"].get("population") or {"offered": False}
    if not claim["offered"]:
        return []
    scores = [{"heads_removed": 0, **claim["baseline"]}, *claim["tried"]]
    spans = history.intervals(scores, claim["examples"], CONFIDENCE) or []
    return [
        (score["heads_removed"], score["metric"], span)
        for score, span in zip(scores, spans, strict=True)
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("headsearch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "cell": _cell,
        "measured": _measured,
    }
    return environment


def _number(value: float | None, digits: int = 4) -> str:
    """Return a number for a table; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _signed(value: float, digits: int = 4) -> str:
    return f"{value:+,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _measured(value: Any) -> str:
    """Return a measured value for a table: of several rounds the median, with their quartiles."""
    if isinstance(value, Mapping) and {"median", "low", "high"} <= value.keys():
        middle, low, high = (f"{value[name]:.4g}" for name in ("median", "low", "high"))
        return f"{middle} ({low}\N{EN DASH}{high})"
    if value is None or isinstance(value, int):
        return _number(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> Markup:
    """Escape what would be markup in a cell of a Markdown table, HTML too."""
    safe = str(escape(" ".join(text.split())))
    return Markup("".join(f"\\{c}" if c in "\\|*_`[]~" else c for c in safe))


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            aside.write_bytes(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from None
