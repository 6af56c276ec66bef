"""Finds every block of code on a page, of whatever language, and runs it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from headsearch.cli import cli
from tests.calling import Done

FENCED = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
# Indented by four, after an empty line; a list's own lines are indented by less.
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")
COMMANDS = ("sh", "console", "indented")
# Shown as it is: what a command prints, a file's content.
OUTPUT = ("", "text")
# Of the site's own making; what they include is checked where it is written.
DIRECTIVES = ("eval-rst", "figure", "include", "literalinclude", "toctree")

# Commands that no test runs, each with the reason. Their options are checked all the same.
NOT_RUN = {
    "make demo": "takes minutes, and fetches a model and data",
    "make docs": "test_site.py builds the site",
    "make test": "runs this",
    "pip install headsearch": "needs a package registry",
    "headsearch run ./model --data dev.csv --max-drop 0.01 --out runs/large --ray-address auto": (
        "needs a Ray cluster"
    ),
}


class Blocks:
    """A parser of Sybil's that knows what to do with each block.

    Args:
        call: runs a command line of headsearch, given its arguments one by one.
    """

    def __init__(self, call: Callable[..., Done]) -> None:
        self._call = call
        self._python = PythonEvaluator()

    def __call__(self, document: Document) -> Iterable[Region]:
        fences = list(FENCED(document))
        for region in fences:
            region.lexemes["language"] = region.lexemes["language"].strip()
        rest = document.text
        for region in fences:  # what is fenced may be indented
            blank = re.sub(r"[^\n]", "x", rest[region.start : region.end])
            rest = rest[: region.start] + blank + rest[region.end :]
        for match in INDENTED.finditer(rest):
            source = "".join(line[4:] or "\n" for line in match[0].splitlines(keepends=True))
            lexemes = {"language": "indented", "source": source}
            fences.append(Region(match.start(), match.end(), lexemes=lexemes))
        for region in sorted(fences, key=lambda region: region.start):
            region.parsed, region.evaluator = region.lexemes["source"], self.evaluate
            yield region

    def evaluate(self, example: Example) -> None:
        """Run a block, or fail if it is of no known language."""
        language, source = example.region.lexemes["language"], str(example.parsed)
        if language == "python":
            self._python(example)
            if file := re.match(r"# (\w+\.py)\n", source):  # commands name it
                Path(file[1]).write_text(source, encoding="utf-8")
        elif language in COMMANDS:
            self._commands(source)
        elif language in OUTPUT:
            assert not re.search(r"^(\$ |headsearch |import |from )", source, re.MULTILINE), (
                "this looks like code: name its language"
            )
        else:
            directive = re.sub(r"^\{([\w-]+)\}.*", r"\1", language)
            known = language.startswith("{") and directive in DIRECTIVES
            assert known, f"no test knows {language!r}"

    def _commands(self, source: str) -> None:
        for line, expected in commands(source):
            words = shlex.split(line, comments=True)
            if " ".join(words) in NOT_RUN:
                if words[0] == "headsearch":
                    cli.commands[words[1]].make_context(words[1], words[2:])
                continue
            assert words[0] == "headsearch", f"no test runs {line!r}, and none says why"
            refused = any(each.startswith("headsearch: ") for each in expected)
            if not refused and "--out" in words:  # pages make the same folder more than once
                shutil.rmtree(Path(words[words.index("--out") + 1]), ignore_errors=True)
            ran = self._call(*words[1:])
            text = ran.out + ran.err
            # On data that the search never saw a tiny model's mask may well not hold.
            unseen = words[1] == "verify" and "--data" in words
            assert ran.code in ({2} if refused else {0, 1} if unseen else {0}), f"{line}\n{text}"
            for each in expected:  # an ellipsis: something is left out
                pattern = ".*".join(map(re.escape, each.split("…")))
                assert re.search(pattern, text), f"{line}\n{text}"


def commands(source: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a block, each with what it is said to print.

    In a block with prompts, `$ `, lines without one are output; else all lines are commands.
    """
    lines = [line for line in source.splitlines() if line.strip()]
    if not lines[0].startswith("$ "):
        return [(line, []) for line in lines]
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found
