"""The site builds without a warning, asks nothing of the network, and no link leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

import headsearch
from headsearch import callbacks, errors, testing
from headsearch.cli import cli

ROOT = Path(__file__).parent.parent.parent
# Of two processes of tests one builds it.
pytestmark = pytest.mark.xdist_group("site")


class Page(HTMLParser):
    """What a page of HTML refers to, and what can be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []  # that a reader follows
        self.needs: list[str] = []  # that the browser loads
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values:
            self.needs.append(values["src"])
        elif tag == "link":
            self.needs.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky"]
    done = subprocess.run(
        [*command, "-q", "-d", out / "doctrees", ROOT / "docs", out / "html"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_link_inside_leads_somewhere(pages: dict[Path, Page]) -> None:
    followed = 0
    for path, page in pages.items():
        for link in page.links + page.needs:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if target in pages and parts.fragment:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
            followed += 1
    assert followed > 500


def test_pages_load_nothing_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        outside = [need for need in page.needs if urlsplit(need).scheme not in ("", "data")]
        assert not outside, path.name
    for style in (site / "_static").rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert "@import" not in text
        assert "url(http" not in text


def test_the_pages_say_what_they_should(site: Path) -> None:
    commands = (site / "commands.html").read_text()
    for name, command in cli.commands.items():
        assert f'id="{name}"' in commands
        options = [p for p in command.params if isinstance(p, click.Option)]
        assert all(option in commands for each in options for option in each.opts)
    notebook = (site / "notebook.html").read_text()
    assert "Removed" in notebook
    assert notebook.count("<img") >= 3
    assert "fixed-sequence testing" in (site / "guarantees.html").read_text()


def test_all_that_is_public_is_described(site: Path, pages: dict[Path, Page]) -> None:
    anchors = pages[site / "api.html"].anchors
    wanted = {f"headsearch.{name}" for name in headsearch.__all__}
    for module in (callbacks, testing):
        wanted |= {f"{module.__name__}.{name}" for name in module.__all__}
    for name, value in vars(errors).items():
        if isinstance(value, type):
            wanted.add(f"headsearch.errors.{name}")
    assert wanted - anchors == set()


def test_no_page_names_a_place_on_the_machine_that_built_it(site: Path) -> None:
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        for place in (str(ROOT), str(Path.home()) + "/", sys.prefix):
            assert place not in text, path.name
