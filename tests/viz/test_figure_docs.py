"""The blocks of docs/figures.md run as printed, in their order."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "figures.md"


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    figures, report, notebook = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(figures, names)
    assert names["figure"].data[0].z.shape == (3, 8)
    assert names["other"].layout.title.text == "At the noun"
    assert len(names["modules"].data) == 4
    exec(report, names)
    assert names["path"] == tmp_path / "report.html"
    assert {path.name for path in (tmp_path / "report_data").iterdir()} == {"report.json", "attention.npz", "pictures"}
    assert len(names["look"].data) == 4
    exec(notebook, names)
    assert len(names["widget"].data["pairs"]) == 6
