"""Source that needs no headsearch is complete, in order, and as it was written."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from headsearch.errors import ModelError
from headsearch.model import standalone as subject
from headsearch.model.standalone import standalone


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that stands for headsearch: a class with all that it may use."""
    folder = tmp_path / "stands_for_it"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tools.py").write_text(
        "import math\ndef root(x):\n    return math.sqrt(x * ONE)\nONE = 1\n"
    )
    (folder / "main.py").write_text(
        "from __future__ import annotations\n"
        "import collections.abc\n"
        "from fractions import Fraction as F\n"
        "from functools import lru_cache\n"
        "from stands_for_it.tools import root as rooted\n"
        "LIMIT: int = 7\n"
        "UNUSED = 9\n"
        "class Base:\n    pass\n"
        "@lru_cache\n"
        "def half(x):\n    return F(x, 2)\n"
        "class Wanted(Base):\n"
        "    def value(self, x: collections.abc.Sized | None):\n"
        "        return half(LIMIT), rooted(16)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(subject, "_PACKAGE", "stands_for_it")
    return "stands_for_it.main"


def test_a_class_comes_with_all_that_it_uses(package: str) -> None:
    __import__(package)
    source = standalone([sys.modules[package].Wanted])
    assert "stands_for_it" not in source
    assert "UNUSED" not in source
    made: dict[str, object] = {}
    code = compile("from __future__ import annotations\n" + source, "made", "exec")
    exec(code, made)  # noqa: S102  # what the test is about
    half, root = made["Wanted"]().value(None)  # type: ignore[operator]  # made by exec
    assert (float(half), root) == (3.5, 4.0)


def test_relative_imports_are_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "users_own"
    (folder / "inner").mkdir(parents=True)
    for place in (folder, folder / "inner"):
        (place / "__init__.py").write_text("")
    (folder / "layers.py").write_text("SCALE = 3\nclass Base:\n    scale = SCALE\n")
    (folder / "inner" / "family.py").write_text(
        "from ..layers import Base as Lower\nfrom .. import layers\n"
        "class Wanted(Lower):\n    pass\n"
        "class Refused(layers.Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("users_own.inner.family")
    made: dict[str, Any] = {}
    source = standalone([module.Wanted])
    assert "users_own" not in source
    assert "import" not in source
    exec(source, made)  # noqa: S102  # what was made just now
    assert made["Wanted"]().scale == 3
    with pytest.raises(ModelError, match=r"names, not modules, .* imports layers of users_own"):
        standalone([module.Refused])


def test_nothing_is_needed_for_no_class() -> None:
    assert standalone([]) == ""
