"""The report's figures: inline SVG that follows the page's colours, or PNG. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from headsearch.errors import InputError
from headsearch.heads import HeadMap, HeadSet
from headsearch.report.history import Effect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In a page each colour is replaced by the style sheet's, which has another for dark screens.
INK, MUTED, LINE, ACCENT, PAPER = "#1b1f24", "#59636e", "#d4d9df", "#0a5cb8", "#fefefe"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", PAPER: "--paper"}
# The strongest tint of a cell that has figures on it, so that they can still be read.
TINT = 0.42
CELL_WIDTH, CELL_HEIGHT = 0.38, 0.29  # inches
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headsearch",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


_Arguments = ParamSpec("_Arguments")


def _styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Draw in the report's style, whatever the caller's settings are."""

    @wraps(draw)
    def styled(*args: _Arguments.args, **options: _Arguments.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **options)

    return styled


def require_matplotlib() -> None:
    """Raise InputError, which says what to install, unless there is matplotlib."""
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ImportError:
        raise InputError(
            "a report needs matplotlib, which is not installed: pip install 'headsearch[report]'"
        ) from None


@_styled
def removal_map(shape: HeadMap, removed: HeadSet, order: Mapping[int, int]) -> Figure:
    """Draw the heads that are kept, filled, and of the others from which point on they go."""

    def cell(axes: Axes, place: tuple[int, int], head: int) -> None:
        kept = head not in removed
        _square(axes, place, ACCENT if kept else PAPER, 1.0)
        if not kept:
            _inscribe(axes, place, str(order[head]))

    return _map(shape, cell)


@_styled
def effect_map(shape: HeadMap, effects: Mapping[int, Effect], unit: float) -> Figure:
    """Draw by how much removing each head changed the metric, in a unit of it."""
    most = max((abs(effect.metric) for effect in effects.values()), default=0.0) or 1.0
    digits = 1 if most >= unit else 2

    def cell(axes: Axes, place: tuple[int, int], head: int) -> None:
        effect = effects.get(head)
        if effect is None:
            _square(axes, place, PAPER, 1.0)
            return
        hue = ACCENT if effect.metric < 0 else MUTED
        _square(axes, place, hue, TINT * abs(effect.metric) / most)
        points = round(effect.metric / unit, digits)
        text = f"{points:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if points else "0"
        _inscribe(axes, place, text)

    return _map(shape, cell)


@_styled
def metric_curve(
    result: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    bands: Sequence[tuple[float, float]] | None,
    scored: Sequence[tuple[int, float]],
    tried: Sequence[tuple[int, float, tuple[float, float]]],
) -> Figure:
    """Draw heads removed against metric.

    Args:
        result: the content of `result.json`.
        points: its operating points, fewest heads first.
        bands: the exact interval of each point, if there is one.
        scored: (heads removed, metric) of all that was scored.
        tried: (heads removed, metric, exact interval) on the certify split.
    """
    figure, axes = _axes(3.5)
    heads = [point["heads_removed"] for point in points]
    metric = [point["metric"] for point in points]
    axes.plot(*_columns(scored), ".", color=MUTED, alpha=0.35, markersize=3, label="scored")
    if bands:
        low, high = zip(*bands, strict=True)
        axes.fill_between(heads, low, high, color=ACCENT, alpha=0.13, linewidth=0)
    axes.plot(heads, metric, "-o", color=ACCENT, markersize=4, label="search split")
    if tried:
        middles = [value for _, value, _ in tried]
        spans = [
            [value - low for _, value, (low, _) in tried],
            [high - value for _, value, (_, high) in tried],
        ]
        axes.errorbar(
            [count for count, _, _ in tried],
            middles,
            spans,
            fmt="s",
            color=INK,
            markersize=4,
            elinewidth=0.8,
            capsize=2,
            label="certify split",
        )
    full = result["baseline"]["metric"]
    axes.plot([0], [full], "D", color=ACCENT, markersize=4, label="full model")
    axes.axhline(result["threshold"], color=INK, linewidth=0.8, linestyle="--", label="threshold")
    _ring(axes, result["best"]["heads_removed"], result["best"]["metric"])
    # What lies far below the budget would press all else together.
    shown = [*metric, result["threshold"], full]
    shown += [edge for band in bands or () for edge in band]
    shown += [edge for _, _, band in tried for edge in band]
    room = 0.08 * (max(shown) - min(shown)) or 0.01
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.set_ylabel(result["metric"])
    _finish(axes, result["heads"], 1.2)
    return figure


@_styled
def loss_curve(result: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw heads removed against mean loss of the operating points, fewest heads first."""
    figure, axes = _axes(2.2)
    known = [(p["heads_removed"], p["loss"]) for p in points if p["loss"] is not None]
    axes.plot(*_columns(known), "-o", color=ACCENT, markersize=4, label="search split")
    if result["best"]["loss"] is not None:
        _ring(axes, result["best"]["heads_removed"], result["best"]["loss"])
    axes.set_ylabel("mean loss")
    _finish(axes, result["heads"], 1.2)
    return figure


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as inline SVG: no date, colours from the style sheet, ids of its own."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", drawn)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    # The page's own fonts, and a width that follows the page's.
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \g<1>px", drawn)
    return re.sub(
        r'<svg ([^>]*?)width="([\d.]+)pt"',
        r'<svg aria-hidden="true" focusable="false" \g<1>width="\g<2>pt"',
        drawn,
        count=1,
    )


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, for Markdown."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def _map(shape: HeadMap, cell: Any) -> Figure:
    """Draw a cell for each head, uppermost layer first."""
    from matplotlib.figure import Figure

    wide = max(shape.heads_per_layer)
    # Margins for the axes' names by hand: matplotlib's own layout draws large maps twice.
    cells = CELL_WIDTH * wide, CELL_HEIGHT * shape.layers
    width, height = cells[0] + 0.6, cells[1] + 0.55
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.55 / width, 0.5 / height, cells[0] / width, cells[1] / height))
    for layer in range(shape.layers):
        for head in range(shape.heads_per_layer[layer]):
            cell(axes, (layer, head), shape.index(layer, head))
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(-0.5, shape.layers - 0.5))
    axes.set_xticks(range(wide))
    axes.set_yticks(range(shape.layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _square(axes: Axes, place: tuple[int, int], colour: str, alpha: float) -> None:
    from matplotlib.patches import Rectangle

    layer, head = place
    corner = (head - 0.46, layer - 0.44)
    fill = (colour, alpha)
    axes.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=fill, edgecolor=LINE, linewidth=0.8))


def _inscribe(axes: Axes, place: tuple[int, int], text: str) -> None:
    axes.text(place[1], place[0], text, ha="center", va="center_baseline", fontsize=8, color=INK)


def _axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height), layout="constrained")
    return figure, figure.subplots()


def _ring(axes: Axes, x: float, y: float) -> None:
    """Mark the state that is handed back."""
    axes.plot(
        [x],
        [y],
        "o",
        markersize=10,
        fillstyle="none",
        color=ACCENT,
        markeredgewidth=1.2,
        label="handed back",
    )


def _finish(axes: Axes, heads: int, top: float) -> None:
    axes.set_xlabel("heads removed")
    axes.set_xlim(-0.02 * heads, 1.02 * heads)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, top), ncols=3, fontsize=8)
    axes.tick_params(length=0)


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
