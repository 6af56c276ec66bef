"""What the README says exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import headsearch
from headsearch.cli import cli
from headsearch.run.points import OperatingPoint
from headsearch.testing import capability_table

ROOT = Path(__file__).parent.parent
BENCHMARK = re.compile(r"`python -m benchmarks\.(\w+)([^`]*)`")
PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md"]


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    local = [link.split("#")[0] for link in links if "://" not in link]
    assert all((page.parent / link).exists() for link in local if link)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_are_real(page: Path) -> None:
    text = page.read_text()
    known = {"--help", "--head", "--port", "--address", "--dashboard-host", "--version"}
    for command in cli.commands.values():
        known |= {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    for module, rest in re.findall(BENCHMARK, text):
        file = ROOT / "benchmarks" / f"{module}.py"
        if not file.exists():
            file = file.with_suffix("") / "__main__.py"
        source = file.read_text()
        assert options(rest) <= set(re.findall(r'add_argument\("(--[a-z-]+)"', source)), module
    assert options(re.sub(BENCHMARK, "", text)) <= known
    called = re.findall(r"^ +headsearch (\w+)", text, flags=re.MULTILINE)
    assert set(called) <= set(cli.commands)


def python_in_the_readme() -> list[ast.Module]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    return [ast.parse(block) for block in blocks]


def test_python_in_the_readme_parses_and_calls_what_there_is() -> None:
    for block in python_in_the_readme():
        for node in ast.walk(block):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "headsearch":
                assert node.attr in headsearch.__all__


def test_python_in_the_readme_takes_one_safer_point_too() -> None:
    point = OperatingPoint((), heads_removed=0, saved=0, metric=0.8, loss=0.4)
    result = SimpleNamespace(safer_points=(point,))
    (code,) = (
        text
        for block in python_in_the_readme()
        for text in map(ast.unparse, block.body)
        if "safer_points" in text
    )
    names: dict[str, Any] = {"result": result}
    exec(code, names)  # noqa: S102  # the README's own
    assert names["safer"] == point


def test_every_pinned_version_is_of_a_declared_dependency_and_the_other_way_round() -> None:
    declared = set()
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        declared |= set(re.findall(r'"([a-z0-9-]+)(?:\[[a-z]+\])?>=', line))
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert pinned == declared - {"setuptools"}


def test_the_readme_names_the_least_version_of_transformers() -> None:
    (least,) = re.findall(r'"transformers>=([0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    assert f"(from {least} on)" in (ROOT / "README.md").read_text()


def test_the_table_of_families_is_the_suites_own() -> None:
    assert capability_table() in (ROOT / "README.md").read_text()
