"""Every block of the docs runs as printed, page by page, in the order of the page.

Published checkpoints cannot be fetched where tests run, so the mini model stands where a page names one, and the CPU
for `cuda`; downloads are made up (`made_downloads`). A block below a comment `not run: ...` says why it cannot run, and
is compiled. Pages whose numbers are asserted have a test of their own: `OWN`.
"""

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import click
import pytest

import made_downloads
from notice_lens.cli.commands import main
from notice_lens.mini import mini_folder

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OWN = {
    "ablation.md": "patching/test_docs.py",
    "attribution.md": "patching/test_attribution_docs.py",
    "circuits.md": "circuits/test_circuits_page.py",
    "figures.md": "viz/test_figure_docs.py",
    "head_functions.md": "circuits/functions/test_head_function_docs.py",
    "pairs.md": "test_readme.py",
    "patching.md": "patching/test_docs.py",
    "vision_language_models.md": "models/vlm/test_vlm_docs.py",
}
BLOCK = re.compile(
    r"(?:<!-- (?P<why>not run: .+?) -->\n)?^(?P<indent> *)```python\n(?P<code>.*?)^ *```", re.DOTALL | re.MULTILINE
)
LINE = re.compile(r"^\| .+ \| (.+) \|$", re.MULTILINE)
COMMAND = re.compile(r"^\$ notice-lens (.+?)(?: +#.*)?$", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str | None, str]]:
    """Why it is not run, or None, and the code."""
    return [(found["why"], found["code"]) for found in BLOCK.finditer(text_of(page))]


PAGES = sorted(page.name for page in DOCS.glob("*.md") if blocks(page) and page.name not in OWN)
LONG = ("big_sweeps.md", "cluster.md", "ten_minutes.md")
"""Pages that take half a minute each."""


def as_here(code: str) -> str:
    """The code, with the mini model in place of checkpoints that cannot be fetched."""
    for named in ("Salesforce/blip-vqa-base", "path/to/folder"):
        code = code.replace(f'"{named}"', repr(str(mini_folder())))
    return code.replace('"cuda"', '"cpu"').replace("n=120", "n=36")  # a third of the pairs says as much to a test


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An empty namespace, in a folder with the files that pages name."""
    made_downloads.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    return {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.large) if name in LONG else name for name in PAGES]
)
def test_the_blocks_of_a_page_run(name: str, names: dict[str, Any]) -> None:
    for number, (why, code) in enumerate(blocks(DOCS / name), 1):
        compiled = compile(as_here(code), f"{name}, block {number}", "exec")
        if why is None:
            with warnings.catch_warnings():
                # Few pairs, so that it is quick: intervals without p-values.
                warnings.filterwarnings("ignore", category=UserWarning, message=".*clusters")
                exec(compiled, names)


def test_pages_with_a_test_of_their_own_are_named_there() -> None:
    for page, test in OWN.items():
        assert page in text_of(ROOT / "tests" / test), f"{test} does not run {page}"


def test_every_line_of_the_table_for_those_who_come_from_transformer_lens_runs(names: dict[str, Any]) -> None:
    page = DOCS / "from_transformerlens.md"
    exec(as_here(blocks(page)[0][1]), names)
    lines = [code for cell in LINE.findall(text_of(page))[1:] for code in re.findall(r"`(.+?)`", cell)]
    assert len(lines) > 25
    for line in lines:
        ast.parse(line, mode="eval")
        exec(as_here(line), names)


def test_commands_of_the_docs_exist() -> None:
    """Every option and argument is read by click; nothing is carried out."""
    seen = []
    for page in (*DOCS.glob("*.md"), ROOT / "README.md"):
        for line in COMMAND.findall(text_of(page)):
            command: click.Command = main
            words = line.split()
            while isinstance(command, click.Group):
                assert words[0] in command.commands, f"{page.name}: notice-lens {line}"
                command = command.commands[words.pop(0)]
            options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
            used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
            assert used <= options, f"{page.name}: notice-lens {line}"
            seen.append(line)
    assert len(seen) > 10
