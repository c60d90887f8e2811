"""What is built for release: the wheel has what it needs, says under which licence, and has nothing else."""

import re
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

import notice_lens

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "notice_lens"
MOST = 17_000_000
"""Bytes of a wheel that is still quick to fetch: three small models are most of it."""
WEIGHTS = ("weights", "blip_weights", "llava_weights")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return ZipFile(built)


def info(wheel: ZipFile, name: str) -> str:
    return wheel.read(f"notice_lens-{notice_lens.__version__}.dist-info/{name}").decode()


def test_it_holds_the_package_and_nothing_else(wheel: ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    there = {
        f"notice_lens/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".DS_Store"
    }
    assert packed == there
    weights = {f"notice_lens/mini/{folder}/model.safetensors" for folder in WEIGHTS}
    assert {"notice_lens/py.typed", "notice_lens/mini/pictures/emoji.webp", *weights} <= packed
    assert {Path(name).suffix for name in packed} == {
        ".py", ".typed", ".txt", ".toml", ".json", ".safetensors", ".md", ".j2", ".css", ".js", ".jinja", ".webp",
    }  # fmt: skip


def test_it_is_small(wheel: ZipFile) -> None:
    assert Path(str(wheel.filename)).stat().st_size <= MOST


def test_licences_come_along(wheel: ZipFile) -> None:
    assert info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "License-Expression: MIT" in info(wheel, "METADATA")
    for folder in WEIGHTS:
        assert "MIT licence" in wheel.read(f"notice_lens/mini/{folder}/README.md").decode(), folder
    assert "Copyright (c) Microsoft Corporation" in wheel.read("notice_lens/mini/pictures/LICENSE.md").decode()


def test_it_is_no_editable_install_and_has_the_command(wheel: ZipFile) -> None:
    assert "notice-lens = notice_lens.cli.commands:main" in info(wheel, "entry_points.txt")
    assert not [name for name in wheel.namelist() if name.endswith(".pth")]


def test_one_version_everywhere() -> None:
    version = notice_lens.__version__
    pages = {
        name: (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
    }
    assert f'\nversion = "{version}"\n' in pages["pyproject.toml"]
    assert f"\nversion: {version}\n" in pages["CITATION.cff"]
    (released,) = re.findall(r"^date-released: (\S+)$", pages["CITATION.cff"], re.MULTILINE)
    newest = re.search(r"^## (\d.+)$", pages["CHANGELOG.md"], re.MULTILINE)
    assert newest
    assert newest[1] == f"{version} ({released})"
