"""How Sphinx builds the site: `make docs` writes it to build/docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import headsearch  # noqa: E402  # of this very folder
from headsearch import api  # noqa: E402  # likewise
from headsearch.cli import cli  # noqa: E402  # likewise

# `headsearch.search` is a folder that can be called; what is described is the call.
headsearch.search = api.search

project = "headsearch"
author = "the headsearch authors"
copyright = "the headsearch authors, Apache-2.0"
version = release = headsearch.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["*.py"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
smartquotes = False  # it would make one dash of the two before an option
highlight_language = "text"
nb_execution_mode = "off"  # the notebook's outputs are committed; a test runs it

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
default_role = "literal"  # docstrings write `names` as Markdown does
napoleon_numpy_docstring = False
# Types of other libraries: their pages are on the network, and this site asks it for nothing.
nitpick_ignore_regex = [("py:.*", r"(?!headsearch).*")]
nitpick_ignore = [("py:class", "headsearch.task.readout.Readout")]  # of a Batch; few need it

html_theme = "furo"
html_title = "headsearch"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b5e8c", "color-brand-content": "#1b5e8c"},
    "dark_css_variables": {"color-brand-primary": "#7ab8e0", "color-brand-content": "#7ab8e0"},
}

LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)")
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)")


def fit(app: Any, path: Path, page: str, content: list[str]) -> None:
    """Make the README's text, and that of cluster/, part of a page: links, headings, commands."""
    home = (Path(app.srcdir) / path).resolve().parent

    def link(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if "://" in target:
            return match[0]
        place = home / target
        if place == ROOT / "cluster" / "README.md":
            return f"{mark}[{text}](clusters.md)"
        if place.is_dir():
            return text
        if place.is_relative_to(app.srcdir):
            return f"{mark}[{text}]({place.relative_to(app.srcdir)})"
        return f"{mark}[{text}](../{place.relative_to(ROOT)})"

    def fenced(match: re.Match[str]) -> str:
        lines = [line[4:] for line in match[1].rstrip().split("\n")]
        return "\n".join(["```sh", *lines, "```", ""])

    text = LINK.sub(link, content[0])
    text = re.sub(r"^###", "##", text, flags=re.MULTILINE)  # the page's title is the section's
    content[0] = INDENTED.sub(fenced, text)


def fill(app: Any, page: str, source: list[str]) -> None:
    """Write the commands into their page."""
    if page == "commands":
        source[0] = source[0].replace("<!-- commands -->", commands())


def commands() -> str:
    """Return the command line's own help as Markdown, a section for each command."""
    parts = []
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"headsearch {name}")
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts += [f"## {name}", command.help or "", f"```text\n{' '.join(usage.split())}\n```"]
        options = [p for p in command.params if isinstance(p, click.Option)]
        records = [option.get_help_record(context) for option in options]
        for names, said in filter(None, records):
            choices = names.replace("|", " | ")  # so that a line may be broken there
            parts.append(f"`{choices}`\n: {said}")
        if command.epilog:
            parts.append(re.sub(r"Example: (.*)", r"```sh\n\1\n```", command.epilog))
    return "\n\n".join(parts)


def describe(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Leave out what a module says of itself: its page says it."""
    if what == "module":
        lines[:] = []


def setup(app: Any) -> None:
    """Connect all of this."""
    app.connect("include-read", fit)
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", describe)
