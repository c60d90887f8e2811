"""The package as a whole: quick to import, and it says what it has."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import notice_lens

IMPORTED = "{m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names - {'notice_lens', 'click', '__main__'}"


def imported(script: str) -> str:
    """What a fresh Python has imported after a script, beyond the standard library, click and what it starts with."""
    script = f"import sys; before = {IMPORTED}\n{script}\nprint(sorted({IMPORTED} - before))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.splitlines()[-1]


def test_importing_does_nothing_heavy():
    assert imported("import notice_lens") == "[]"
    rooms = ("pairs", "patching", "cluster", "circuits", "viz", "study")
    assert imported("import " + ", ".join(f"notice_lens.{room}" for room in rooms)) == "[]"


def test_no_help_imports_anything_heavy():
    script = """
from click import Group
from click.testing import CliRunner
from notice_lens.cli.commands import main

def ask(command, words):
    assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
    for name, below in (command.commands if isinstance(command, Group) else {}).items():
        ask(below, [*words, name])

ask(main, [])
"""
    assert imported(script) == "[]"


def test_public_names():
    assert set(notice_lens.__all__) == set(dir(notice_lens))
    assert all(getattr(notice_lens, name) is not None for name in notice_lens.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'HookedBlip'; it has"):
        notice_lens.HookedBlip  # noqa: B018


def test_subpackages_are_there_without_an_import_of_their_own():
    """A fresh Python: Tab after `notice_lens.` lists them, and each is loaded when it is used."""
    script = (
        "import sys, notice_lens; print('patching' in dir(notice_lens)); print('notice_lens.patching' in sys.modules)\n"
    )
    script += "print(callable(notice_lens.patching.patch_heads), callable(notice_lens.viz.heads))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False", "True", "True"]


def test_statistics_and_reports_load_no_model():
    light = ("stats", "stats.nulls", "circuits.important", "circuits.universal", "report.page")
    heavy = {"torch", "transformers", "transformer_lens", "datasets"}
    assert not heavy & set(ast.literal_eval(imported("import " + ", ".join(f"notice_lens.{name}" for name in light))))


def test_every_progress_bar_is_the_notebooks_own_in_a_notebook():
    """`tqdm.auto` is a widget there; plain `tqdm` writes to the error stream, which notebooks show in red."""
    bars = []
    for path in Path(notice_lens.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            bars += [name for name in names if name and name.partition(".")[0] == "tqdm"]
    assert len(bars) > 4
    assert set(bars) == {"tqdm.auto"}


def test_statistics_and_the_page_load_no_model_and_no_more_of_scipy_than_they_use():
    """They are read where there is no torch to wait for; SciPy's distributions take longer to import than a test."""
    heavy = ("torch", "transformers", "datasets", "scipy.stats", "scipy.sparse")
    for module in ("stats.nulls", "stats.intervals", "stats.masks", "circuits.universal", "report.page"):
        script = f"import sys, notice_lens.{module}; print([name for name in {heavy} if name in sys.modules])"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert found.stdout == "[]\n", module


def test_no_module_hides_a_public_name():
    """Once a module is imported, Python finds it under its name, and no longer what the package says is there."""
    for room in ("pairs", "patching", "cluster", "circuits", "viz", "study"):
        package = importlib.import_module(f"notice_lens.{room}")
        for name in package.__all__:
            assert importlib.util.find_spec(f"notice_lens.{room}.{name}") is None, f"{room}.{name}"
