"""The house of the design, as rules: who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headsearch
from tests.conftest import ALONE

ROOT = Path(headsearch.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

BASE = {"errors", "heads", "_version"}
# What each part may import of headsearch, besides itself and BASE.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "heads": set(),
    "task": set(),
    "model": {"task"},
    "memo": set(),
    "scoring": {"model", "task"},
    "testing": {"scoring", "model", "task"},
    "search": {"task"},
    "engine": {"scoring", "memo", "model", "task", "search"},
    "report": {"search", "task"},
    "run": {"engine", "search", "scoring", "memo", "model", "task"},
    "callbacks": set(),
    "api": {"callbacks", "run", "report", "memo", "model", "task"},
    "demo": {"run", "report", "model"},
    "cli": {"run", "report", "demo", "task"},
    "study": {"run", "search", "task"},
    "__init__": {"api", "study"},
    "__main__": {"cli"},
}
# Libraries and the parts that may import them.
LIBRARIES: dict[str, set[str]] = {
    "torch": {"model", "scoring", "testing", "engine", "run", "api", "demo", "callbacks"},
    "transformers": {"model", "testing", "demo"},
    "ray": {"engine"},
    "onnx": {"model"},
    "onnxruntime": {"model"},
    "onnxscript": {"model"},
    "datasets": {"task"},
    "sqlite3": {"memo"},
    "numpy": {"task", "model", "scoring", "testing", "search", "engine", "run", "demo", "study"},
    "click": {"cli"},
    "rich": {"report", "cli", "demo"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "mlflow": {"callbacks"},
    "wandb": {"callbacks"},
}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "np.load", "numpy.load"}


def part_of(path: Path, root: Path) -> str:
    first = path.relative_to(root).parts[0]
    return first.removesuffix(".py")


def violations(source: str, part: str) -> list[str]:
    """Every rule that a module of a part breaks."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append("relative import")
            elif node.module == "headsearch":
                names = [f"headsearch.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""]
                wanted = {f"{node.module}.{alias.name}" for alias in node.names}
                found += [f"imports {name}" for name in sorted(wanted & FORBIDDEN_CALLS)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            found.append(f"calls {ast.unparse(node.func)}")
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            # Where it is left out, transformers asks the person at the terminal.
            found += [] if ast.unparse(node.value) == "False" else ["sets trust_remote_code"]
        for name in names:
            top, *rest = name.split(".")
            if top == "headsearch":
                target = "_version" if rest == ["__version__"] else rest[0] if rest else "__init__"
                if target not in ALLOWED[part] | BASE | {part} or (
                    part in BASE and target not in {"errors", part}
                ):
                    found.append(f"{part} imports {target}")
            elif FORBIDDEN_MODULES & {top, *rest}:
                found.append(f"imports {name}")
            elif part not in LIBRARIES.get(top, {part}):
                found.append(f"{part} imports {top}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_keeps_the_rules_and_says_what_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert violations(source, part_of(path, ROOT)) == []
    assert ast.get_docstring(ast.parse(source)), "every module has a docstring"


@pytest.mark.parametrize(
    ("part", "source", "broken"),
    [
        ("search", "import torch", "search imports torch"),
        ("search", "from ray import remote", "search imports ray"),
        ("search", "def f():\n    import transformers", "search imports transformers"),
        ("memo", "from headsearch.scoring.item import WorkItem", "memo imports scoring"),
        ("memo", "import numpy as np", "memo imports numpy"),
        ("model", "from headsearch.search import astar", "model imports search"),
        ("heads", "from headsearch import api", "heads imports api"),
        ("task", "from . import metric", "relative import"),
        ("model", "import torch\ntorch.load('x')", "calls torch.load"),
        ("model", "from torch import load", "imports torch.load"),
        ("engine", "import pickle", "imports pickle"),
        ("engine", "import ray.cloudpickle", "imports ray.cloudpickle"),
        ("model", "load(x, trust_remote_code=True)", "sets trust_remote_code"),
        ("run", "eval('1')", "calls eval"),
    ],
)
def test_the_check_itself_finds_what_it_should(part: str, source: str, broken: str) -> None:
    assert violations(source, part) == [broken]


def test_the_copied_loader_needs_torch_and_transformers_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse((ROOT / "model" / "portable.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported <= {"__future__", "collections", "typing", "torch", "transformers"}


def test_the_search_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, headsearch.search.astar; "
        "print(sorted({'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nsys.argv = ['headsearch', 'run', '--help']\n"
        "from headsearch.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-drop" in done.stdout


def test_the_command_line_does_not_ask_for_more_of_click_than_was_declared() -> None:
    # Up to click 8.3 its types are no generic classes, and those of 8.1 will do.
    assert '"click>=8.1"' in (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    code = (
        "import sys, click\nclick.ParamType.__class_getitem__ = None\n"
        "sys.argv = ['headsearch', 'run', '--help']\n"
        "from headsearch.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--time-limit" in done.stdout


def test_public_names_are_sorted_and_there() -> None:
    assert headsearch.__all__ == sorted(headsearch.__all__)
    for name in headsearch.__all__:
        assert getattr(headsearch, name) is not None


def test_what_is_to_run_alone_is_where_make_looks_for_it() -> None:
    (folders,) = re.findall(
        r"^ALONE := (.*)$", (ROOT.parent / "Makefile").read_text(), re.MULTILINE
    )
    assert folders.split() == [f"tests/{name}" for name in sorted(ALONE)]
