"""The report as a file: what is in it, and what must not be."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headsearch.errors import InputError, StorageError
from headsearch.heads import HeadMap
from headsearch.report import figures
from headsearch.report.page import write_report
from headsearch.run.findings import gather
from tests.report.made import make_run

HOSTILE = "<script>alert('x')</script> & | `code`"
CHANGES = {
    "examples": 2000,
    "worse": 1,
    "better": 0,
    "other": 0,
    "classes": [{"name": HOSTILE, "examples": 2000, "before": 1700, "after": 1699}],
    "changed": [
        {"kind": "worse", "text": HOSTILE, "pair": None, "label": "a", "before": "a", "after": "b"}
    ],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs") / "one"
    make_run(folder, HeadMap((3, 2)), 12, max_drop=0.05)
    return gather(folder, with_examples=False)


class Page(HTMLParser):
    """Collects tags, ids and text of a page, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.words = list[str](), list[str](), list[str]()
        self.count = dict[str, int]()
        self._open = list[str]()
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}
        ]
        if tag not in {"meta", "link"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def written(findings: dict[str, Any], out: Path, style: str = "html") -> str:
    write_report(out, style, **findings)
    return out.read_text(encoding="utf-8")


def test_a_page_needs_nothing_else_and_has_every_part(
    small: dict[str, Any], tmp_path: Path
) -> None:
    page = Page(written(small, tmp_path / "report.html"))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert page.count["svg"] == 4
    text = " ".join(page.words)
    for part in (
        "heads (",
        "Which heads",
        "Heads removed against accuracy",
        "Not shown: they were not asked for.",
        "What the search did",
        "headsearch run './a model' --data dev.csv --max-drop 0.05",
        "f" * 64,
        "abc123",
        "prefers-color-scheme: dark",
        "@media print",
    ):
        assert part in text, part
    assert "Measured latency" not in text


def test_the_same_run_gives_the_same_page_to_the_byte(
    small: dict[str, Any], tmp_path: Path
) -> None:
    first = written(small, tmp_path / "a.html")
    assert written(small, tmp_path / "b.html") == first


def test_what_comes_from_data_is_text_and_never_markup(
    small: dict[str, Any], tmp_path: Path
) -> None:
    hostile = {**small, "changes": CHANGES, "name": HOSTILE}
    page = Page(text := written(hostile, tmp_path / "report.html"))
    assert page.count["script"] == 1
    assert HOSTILE in "".join(page.words)
    assert "alert('x')" not in text
    lines = written(hostile, tmp_path / "report.md", "md").splitlines()
    (row,) = [line for line in lines if line.startswith("| a |")]
    assert "<script" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 5  # the text adds no column


def test_markdown_has_its_figures_beside_it(small: dict[str, Any], tmp_path: Path) -> None:
    text = written(small, tmp_path / "report.md", "md")
    named = set(re.findall(r"\]\(([^)]+)\)", text))
    assert named == {path.name for path in tmp_path.glob("*.png")}
    assert len(named) == 4


def test_the_certified_mask_is_drawn_where_it_has_other_heads(
    small: dict[str, Any], tmp_path: Path
) -> None:
    result = small["result"]
    removed = result["best"]["removed"]

    def certified(pairs: list[list[int]]) -> dict[str, Any]:
        point = {"removed": pairs, "heads_removed": len(pairs), "metric": 0.8, "correct": 80}
        point |= {"worse": 3, "better": 2, "p_value": 0.01, "passed": True}
        population = {
            "offered": True,
            "confidence": 0.95,
            "max_drop": 0.05,
            "examples": 100,
            "repeated_texts": 0,
            "assumption": "they are draws",
            "baseline": {"metric": 0.81, "correct": 81},
            "tried": [point],
            "certified": point,
        }
        certificate = {**result["certificate"], "population": population}
        return {**small, "result": {**result, "certificate": certificate}}

    same = Page(written(certified(removed), tmp_path / "same.html"))
    other = Page(written(certified(removed[:1]), tmp_path / "other.html"))
    assert (same.count["svg"], other.count["svg"]) == (4, 5)
    assert "certify split" in " ".join(other.words)


def by_metric(findings: dict[str, Any], metric: str, sign: float) -> dict[str, Any]:
    """The same of a metric that counts no right answers."""

    def score(point: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in point.items() if key != "correct"}
        return {**kept, "metric": sign * point["metric"]}

    result = findings["result"]
    points = [score(point) for point in result["operating_points"]]
    changed = {"operating_points": points, "metric": metric, "threshold": sign * 0.8}
    changed |= {name: score(result[name]) for name in ("baseline", "best")}
    steps = [
        {
            **step,
            "scored": [
                [b, None if m is None else sign * m, *rest] for b, m, *rest in step["scored"]
            ],
            "best": [step["best"][0], sign * step["best"][1], step["best"][2]],
        }
        for step in findings["steps"]
    ]
    return {**findings, "result": {**result, **changed}, "steps": steps}


@pytest.mark.parametrize("style", ["html", "md"])
@pytest.mark.parametrize("metric", ["pearson", "f1"])
def test_of_other_metrics_no_right_answers_are_shown(
    metric: str, style: str, small: dict[str, Any], tmp_path: Path
) -> None:
    text = written(by_metric(small, metric, 1.0), tmp_path / "report", style)
    assert f"Heads removed against {metric}" in text
    assert "Clopper" not in text
    best = small["result"]["best"]
    assert f"{best['metric']:.4f}" in text
    assert str(best["correct"]) not in text.replace(f"{best['correct'] / 2000:.4f}", "")


@pytest.mark.parametrize("style", ["html", "md"])
def test_a_perplexity_is_shown_as_it_is_and_not_as_its_negative(
    style: str, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    draw = figures.metric_curve
    monkeypatch.setattr(figures, "metric_curve", lambda *args: drawn.append(args) or draw(*args))
    text = written(by_metric(small, "perplexity", -1.0), tmp_path / "report", style)
    assert "0.8500" in text  # the full model's
    assert not re.search(r"[-\N{MINUS SIGN}]0\.8", text)
    assert "hundredths" not in text
    assert "hundredths" in written(small, tmp_path / "other", style)
    ((result, points, bands, scored, _), other) = drawn
    assert bands is None
    assert (result["threshold"], scored) == (0.8, other[3])
    assert [p["metric"] for p in points] == [p["metric"] for p in other[1]]


def test_tokens_have_no_intervals(small: dict[str, Any], tmp_path: Path) -> None:
    """They are no independent draws, and more than there are examples."""
    scored = {"kind": "tokens", "rows": 9000}
    text = written(
        {**small, "result": {**small["result"], "scored": scored}}, tmp_path / "report.html"
    )
    assert "Clopper" not in text
    assert "Clopper" in written(small, tmp_path / "other.html")


def test_latency_is_shown_where_it_was_measured(small: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"what": "full", "milliseconds": 12.5}]
    latency = {"batch": 32, "machine": {"cores": 2}, "rows": rows}
    page = Page(written({**small, "latency": latency}, tmp_path / "report.html"))
    text = " ".join(page.words)
    assert all(
        part in text
        for part in ("Measured latency", "batch", "machine: cores", "milliseconds", "12.5")
    )


def printed_latency(model: str) -> dict[str, Any]:
    """What `headsearch latency --json` prints, of one model."""

    def spread(middle: float) -> dict[str, float]:
        return {"median": middle, "low": middle / 2, "high": middle * 2}

    row = {"model": model, "batch": 1, "tokens": 8, "milliseconds": spread(1.49555686)}
    row |= {"ratio": spread(0.81), "peak_bytes": None, "parameters": 12345}
    return {"device": "a CPU", "threads": 1, "repeats": 2, "results": [row]}


def test_latency_as_the_command_prints_it_is_a_table(small: dict[str, Any], tmp_path: Path) -> None:
    latency = printed_latency("small")
    page = Page(written({**small, "latency": latency}, tmp_path / "report.html"))
    text = " ".join(page.words)
    assert "{" not in text.split("Measured latency")[1].split("What the search did")[0]
    for part in (
        "1.496 (0.7478\N{EN DASH}2.991)",
        "0.81 (0.405\N{EN DASH}1.62)",
        "12,345",
        "small",
    ):
        assert part in text, part


def test_latency_is_a_table_in_markdown_too(small: dict[str, Any], tmp_path: Path) -> None:
    latency = {**printed_latency("a|b"), "machine": {"cores": 2}}
    text = written({**small, "latency": latency}, tmp_path / "report.md", "md")
    section = text.split("## Measured latency\n")[1].split("\n## ")[0]
    assert section.strip().splitlines() == [
        "- device: a CPU",
        "- threads: 1",
        "- repeats: 2",
        "- machine: cores: 2",
        "",
        "| model | batch | tokens | milliseconds | ratio | peak bytes | parameters |",
        "|---|---|---|---|---|---|---|",
        "| a\\|b | 1 | 8 | 1.496 (0.7478~2.991) | 0.81 (0.405~1.62) | ~ | 12,345 |".replace(
            "~", "\N{EN DASH}"
        ),
    ]


def test_a_large_run_stays_below_5_mb(tmp_path: Path) -> None:
    make_run(tmp_path / "run", HeadMap((16,) * 24), 5000)
    findings = gather(tmp_path / "run", with_examples=False)
    findings["changes"] = {
        **CHANGES,
        "changed": [{**CHANGES["changed"][0], "text": "x" * 500, "pair": "y" * 500}] * 200,
    }
    text = written(findings, tmp_path / "report.html")
    assert len(text.encode()) < 5_000_000
    assert ">23<" in text


def test_a_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'headsearch\[report\]'"):
        figures.require_matplotlib()


def test_what_can_not_be_written_is_one_clear_error(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not write"):
        write_report(tmp_path / "missing" / "report.html", "html", **small)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(first: str, second: str) -> float:
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def _mixed(over: str, under: str, share: float) -> str:
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_text_has_the_contrast_of_wcag_aa_on_light_and_dark() -> None:
    style = (Path(figures.__file__).parent / "templates" / "report.css").read_text()
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split(":root")[1:]]
    assert len(themes) == 3  # light, dark, paper
    for theme in themes:
        for ink in ("ink", "muted", "accent"):
            assert _contrast(theme[ink], theme["paper"]) >= 4.5
        for tint in ("accent", "muted"):  # figures in the cells of the map
            cell = _mixed(theme[tint], theme["paper"], figures.TINT)
            assert _contrast(theme["ink"], cell) >= 4.5
