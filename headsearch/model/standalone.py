"""Python source that needs no headsearch: the file that loads a narrow model without it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator

from headsearch.errors import ModelError
from headsearch.model import portable

_PACKAGE = "headsearch"


_CLASS = """

class {name}(NarrowModel, Whole):
    \"\"\"{name} without the heads that the config lists.\"\"\"

    narrow_classes = {{{classes}}}
"""


def loader_source(kind: type, classes: Iterable[type]) -> str:
    """Return the source of `portable` and a class for it to load the models of a class by.

    Args:
        kind: a model class of transformers. That of narrow models has the same name: pipelines
            and other tools go by it.
        classes: the classes that take the place of modules' own.
    """
    names = [each.__name__ for each in classes]
    own = _CLASS.format(
        name=kind.__name__, classes=", ".join(f'"{name}": {name}' for name in names)
    )
    parts = [
        inspect.getsource(portable).rstrip(),
        f"\n\n# What follows is of {kind.__name__}.",
        f"from {kind.__module__} import {kind.__name__} as Whole  # noqa: E402  # two files in one",
        standalone(classes),
    ]
    return "\n".join(parts).rstrip() + "\n" + own


def standalone(kinds: Iterable[type]) -> str:
    """Return imports and definitions that make the given classes without headsearch.

    What a definition uses of its module comes before it: other definitions and assignments as
    they are, imports of other packages as imports, imports of headsearch as what they import.
    """
    parts = _Parts()
    for kind in kinds:
        parts.add(kind.__module__, kind.__name__)
    return "\n".join([*sorted(parts.imports), *parts.definitions])


class _Parts:
    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.definitions: list[str] = []
        self._done: set[tuple[str, str]] = set()

    def add(self, module: str, name: str) -> None:
        if (module, name) in self._done:
            return
        self._done.add((module, name))
        text = inspect.getsource(importlib.import_module(module))
        for node in ast.parse(text).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._add_import(module, node, name)
            elif name in _defines(node):
                for used in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)}):
                    self.add(module, used)
                self.definitions.append(_lines(text, node))

    def _add_import(self, module: str, node: ast.Import | ast.ImportFrom, name: str) -> None:
        for alias in node.names:
            if (alias.asname or alias.name.split(".")[0]) != name:
                continue
            if isinstance(node, ast.Import):
                self.imports.add(ast.unparse(ast.Import([alias])))
                continue
            source = str(node.module)
            if node.level:  # of the module's own package, which may not be installed elsewhere
                within = importlib.import_module(module).__package__
                dots = "." * node.level
                source = importlib.util.resolve_name(f"{dots}{node.module or ''}", within or "")
                if inspect.ismodule(getattr(importlib.import_module(source), alias.name, None)):
                    raise ModelError(
                        f"a class that is saved with a model must import names, not modules, of "
                        f"its own package but {module} imports {alias.name} of {source}"
                    )
            if node.level or source.split(".")[0] == _PACKAGE:
                self.add(source, alias.name)
                if name != alias.name:
                    self.definitions.append(f"\n{name} = {alias.name}")
            else:
                self.imports.add(ast.unparse(ast.ImportFrom(node.module, [alias], 0)))


def _defines(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _lines(text: str, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n" + "\n".join(text.splitlines()[first - 1 : node.end_lineno])
