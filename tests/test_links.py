"""What README and docs point at is there: pages, headings, pictures, tests, public names."""

import re
import runpy
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *sorted(REFERENCE.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PACKAGES = ("", ".models", ".pairs", ".patching", ".cluster", ".circuits", ".viz", ".study", ".mini")


def anchors(page: Path) -> set[str]:
    """Headings as they are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        place = (page.parent / target).resolve() if target else page
        if place.parent == DOCS / "notebooks":  # pages that the build makes of the tutorials
            place = ROOT / "tutorials" / place.name
        assert place.exists(), f"{page.name} points at {target}"
        is_name = anchor.startswith("notice_lens.") and f":: {anchor}\n" in place.read_text(encoding="utf-8")
        assert not anchor or is_name or anchor in anchors(place), f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_table_of_contents_once() -> None:
    trees = re.findall(
        r"```\{toctree\}\n(?::[^\n]+\n)*\n(.+?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL
    )
    listed = [page for tree in trees for page in tree.split()]
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")
    below = re.findall(r"^reference/(\w+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(below) == sorted(page.stem for page in REFERENCE.glob("*.md"))


def test_tests_that_pages_name_exist() -> None:
    found = [one for page in PAGES for one in TEST.findall(page.read_text(encoding="utf-8"))]
    assert len(found) > 40
    for file, test in found:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_what_the_docs_call_experimental_says_so_itself() -> None:
    """Every public name on the list, and no other, has the word in its docstring."""
    section = (DOCS / "validity.md").read_text(encoding="utf-8").partition("## Experimental")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    named = {name for one in listed for name in re.findall(r"`(?:[\w.]+\.)?(\w+)`", one)}
    modules = [import_module("notice_lens" + package) for package in PACKAGES]
    public = {name: getattr(module, name) for module in modules for name in dir(module) if name[0] != "_"}
    marked = {name for name, value in public.items() if callable(value) and "Experimental:" in (value.__doc__ or "")}
    assert len(listed) >= 6
    assert marked == named & set(public)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_every_public_name(package: str) -> None:
    module = import_module("notice_lens" + package)
    page = REFERENCE / f"{package[1:]}.md" if package else DOCS / "reference.md"
    said = page.read_text(encoding="utf-8")
    rooms = {name for name in module.__all__ if isinstance(getattr(module, name), ModuleType)}
    elsewhere = (
        {"__version__", "HookedBLIP", "HookedVLM", "MinimalPairs"} | rooms if not package else set()
    )  # of the packages below
    missing = [
        name for name in module.__all__ if name not in elsewhere and f":: {module.__name__}.{name}\n" not in said
    ]
    assert not missing, f"docs/{page.relative_to(DOCS)} lacks {missing} of {module.__name__}"
    assert all(f"notice_lens.{name}" in said for name in elsewhere)


@pytest.mark.parametrize("package", [".patching", ".circuits"])
def test_every_verb_has_one_page_that_explains_it_with_an_example(package: str) -> None:
    """The reference's table has a row for each; the page and section it points at use the name, verbs in a block."""
    module = import_module("notice_lens" + package)
    said = (REFERENCE / f"{package[1:]}.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(\S+\) \| .+? \| \[.+?\]\(\.\./(\w+\.md)(?:#([\w-]+))?\) \|$", said, re.MULTILINE
    )
    assert sorted(name for name, _, _ in rows) == sorted(module.__all__)
    for name, page, _ in rows:
        text = (DOCS / page).read_text(encoding="utf-8")
        is_warning = isinstance(getattr(module, name), type) and issubclass(getattr(module, name), Warning)
        blocks = [text] if is_warning else re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert any(re.search(rf"\b{name}\b", block) for block in blocks), f"docs/{page} has no example of {name}"


def test_pictures_have_words_for_those_who_do_not_see_them() -> None:
    for page in PAGES:
        for words, source in re.findall(r"!\[(.*?)\]\((.+?)\)", page.read_text(encoding="utf-8")):
            assert len(words) > 10, f"{page.name}: {source}"


def test_the_wavefront_is_the_drawing_of_the_code() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_wavefront.py"))["wavefront"]()
    assert drawn == (DOCS / "figures" / "wavefront.svg").read_text(encoding="utf-8")
