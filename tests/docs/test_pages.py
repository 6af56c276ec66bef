"""Every block of code of the README and the site runs; the messages that they quote are real."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil

from tests.calling import Done
from tests.docs.blocks import NOT_RUN, Blocks, commands

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# Says little by itself: such a template would match any message.
LEAST_LITERAL = 15


def never(*args: str) -> Done:
    raise AssertionError(args)


def parsed(page: Path, call: Callable[..., Done]) -> Any:
    return Sybil(parsers=[Blocks(call)], pattern="*.md").parse(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_blocks_of_a_page_run_in_order(
    page: Path, call: Callable[..., Done], namespace: dict[str, Any]
) -> None:
    document = parsed(page, call)
    document.namespace.update(namespace)
    for example in document.examples():
        try:
            example.evaluate()
        except (Exception, SystemExit) as error:
            error.add_note(f"{page.name}, line {example.line}")
            raise


def blocks(page: Path) -> list[tuple[str, str]]:
    regions = (example.region for example in parsed(page, never).examples())
    return [(str(r.lexemes["language"]), str(r.lexemes["source"])) for r in regions]


def test_no_block_of_the_readme_slips_through() -> None:
    languages = [language for language, _ in blocks(ROOT / "README.md")]
    text = (ROOT / "README.md").read_text()
    assert languages.count("python") == len(re.findall(r"^```python$", text, re.MULTILINE)) > 0
    assert languages.count("indented") > 5
    shown = "".join(source for _, source in blocks(ROOT / "README.md"))
    for line in re.findall(r"^ {4}((?:headsearch|make) .*)$", text, re.MULTILINE):
        assert line in shown


def test_every_exception_from_running_is_still_needed() -> None:
    found = {
        " ".join(line.split("#")[0].split())
        for page in PAGES
        for language, source in blocks(page)
        if language in ("sh", "console", "indented")
        for line, _ in commands(source)
    }
    assert set(NOT_RUN) <= found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```ruby\nputs 1\n```\n", "no test knows 'ruby'"),
        ("```{code-block} python\n1 / 0\n```\n", "no test knows"),
        ("```\nheadsearch run\n```\n", "looks like code"),
        ("```sh\ncurl example.com\n```\n", "no test runs 'curl example.com'"),
        ("A list:\n\n    rm -r /\n", "no test runs 'rm -r /'"),
        ("```python\nassert 1 == 2, 'ran'\n```\n", "ran"),
    ],
)
def test_what_no_test_can_run_fails(text: str, said: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    (example,) = parsed(page, never).examples()
    with pytest.raises(AssertionError, match=re.escape(said)):
        example.evaluate()


def templates() -> list[re.Pattern[str]]:
    """All texts in the source that may be messages, with anything in place of what is filled in."""
    found = []
    for path in sorted((ROOT / "headsearch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            literal = "".join(text for text in texts if isinstance(text, str))
            if len(literal) >= LEAST_LITERAL:
                pattern = "".join(".+" if t is None else re.escape(str(t)) for t in texts)
                found.append(re.compile(pattern, re.DOTALL))
    return found


def test_messages_that_can_not_be_provoked_here_are_in_the_source() -> None:
    known = templates()
    quoted = [
        line.removeprefix("headsearch: ")
        for language, source in blocks(DOCS / "errors.md")
        if language == "text"
        for line in source.splitlines()
        if line.startswith("headsearch: ")
    ]
    assert len(quoted) > 5
    for message in quoted:
        assert any(template.fullmatch(message) for template in known), message
    assert not any(template.fullmatch("out of luck, even with a cache") for template in known)
