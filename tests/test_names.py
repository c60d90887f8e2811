"""Names of classes and constants: one word for one idea, so each is bound in one module of the package."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import notice_lens

EXEMPT = {
    "_HOMES": "the table of lazily imported names, which every package hands to `lazy`",
    "logger": "the logging module's convention: one logger for each module that logs",
}


def targets(target: ast.expr) -> Iterator[tuple[str, int]]:
    """Yield the names that an assignment binds, those of a tuple included, with their lines."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def is_type_variable(value: ast.expr | None) -> bool:
    """Return whether a value is a type variable, which stands for no idea of the package."""
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "TypeVar"


def bound(source: str) -> Iterator[tuple[str, int]]:
    """Yield the classes, type aliases and constants of a module's top level, with their lines."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Assign) and not is_type_variable(node.value):
            for target in node.targets:
                yield from targets(target)
        elif isinstance(node, ast.AnnAssign):
            yield from targets(node.target)


def bound_twice(sources: dict[str, str]) -> list[str]:
    """Return a line for each name that is bound in two modules or more, with every place."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for path, source in sources.items():
        for name, line in bound(source):
            if name not in EXEMPT and not name.startswith("__"):
                places[name].setdefault(path, f"{path}:{line}")
    return [f"{name}: {' and '.join(found.values())}" for name, found in sorted(places.items()) if len(found) > 1]


def test_no_class_and_no_constant_is_named_like_another():
    folder = Path(notice_lens.__file__).parent
    sources = {
        path.relative_to(folder.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }
    assert len(sources) > 100
    twice = bound_twice(sources)
    assert not twice, "\n".join(["names with two meanings: import one, or rename the narrower one", *twice])


def test_both_places_are_named():
    sources = {
        "a.py": "HEADS, LEFT = 1, 2\n",
        "b.py": "class LEFT: ...\n\nT = TypeVar('T')\nlogger = 1\n",
        "c.py": "T = TypeVar('T')\nlogger = 2\nfrom a import HEADS\n\ndef f():\n    HEADS = 3\n",
        "d.py": "Span = 1\nSpan = 2\nKINDS: int = 1\n",
        "e.py": "__all__ = []\nKINDS = 2\n",
        "f.py": "__all__ = []\n",
    }
    assert bound_twice(sources) == ["KINDS: d.py:3 and e.py:2", "LEFT: a.py:1 and b.py:1"]
