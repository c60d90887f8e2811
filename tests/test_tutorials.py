"""The tutorials run from a fresh kernel, and what is stored in them can be read on a page that runs no script."""

import base64
import importlib.util
import re
import struct
from pathlib import Path
from typing import Any

import nbformat
import pytest

from browsing import needs_browser

TUTORIALS = Path(__file__).parents[1] / "tutorials"
INTERACTIVE, PICTURE = "application/vnd.plotly.v1+json", "image/png"
LARGEST = 1_500_000
"""Bytes of a notebook."""
OF_A_MACHINE = re.compile(r"/(home|work|root|tmp|Users|usr)/[\w.-]+")


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("tutorials_run", TUTORIALS / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = _module()
NOTEBOOKS = pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)


def bundles(notebook: Any) -> list[dict[str, Any]]:
    """What code cells display, by MIME type."""
    return [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]


def written(folder: Path, *cells: Any) -> Path:
    path = folder / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def code(source: str, *tags: str) -> Any:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


@NOTEBOOKS
def test_it_runs(path: Path, tmp_path: Path):
    before = path.read_bytes()
    fresh = run.executed(path, tmp_path)
    assert path.read_bytes() == before
    stored = nbformat.read(path, as_version=4)
    shown, kept = (["".join(sorted(data)) for data in bundles(one) if INTERACTIVE in data] for one in (fresh, stored))
    assert len(shown) == len(kept)
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in stored.cells]


@NOTEBOOKS
def test_its_stored_outputs(path: Path):
    """As `make tutorials` left them: complete, in order, with a picture of every figure, nothing of a machine."""
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < LARGEST
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells if cell.execution_count is not None]
    assert counts == list(range(1, len(counts) + 1))
    for cell in cells:
        if run.NEEDS_HUB in cell.metadata.get("tags", []):
            assert [output.text for output in cell.outputs] == [run.REASON + "\n"]
        else:
            assert cell.execution_count is not None
    assert any(cell.outputs for cell in cells)
    for data in (figures := [data for data in bundles(notebook) if INTERACTIVE in data]):
        assert "data" in data[INTERACTIVE]
        width, height = struct.unpack(">II", base64.b64decode(data[PICTURE])[16:24])
        assert min(width, height) >= 200
    assert figures
    assert not [found.group() for found in OF_A_MACHINE.finditer(_without_pictures(notebook))]


def _without_pictures(notebook: Any) -> str:
    """Its JSON without base64, which may spell anything."""
    for data in bundles(notebook):
        data.pop(PICTURE, None)
    return re.sub(r"data:image/\w+;base64,[\w+/=]+|\"bdata\": ?\"[\w+/=]+\"", "", nbformat.writes(notebook))


def test_it_teaches():
    """Every tutorial asks, predicts before it measures, and says what was learnt; the list has each of them."""
    listed = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    for path in run.notebooks():
        prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        assert prose[0].startswith("# ")
        for word in ("**Question.**", "**Prediction.**", "**What we learn.**"):
            assert any(word in text for text in prose), f"{path.name} has no {word}"
        assert f"({path.name})" in listed


def test_a_cell_that_fails_is_named(tmp_path: Path):
    path = written(tmp_path, code("x = 1"), code("x / 0"))
    with pytest.raises(run.Failed, match=r"(?s)one\.ipynb: .*x / 0.*ZeroDivisionError"):
        run.executed(path, tmp_path)


def test_a_cell_that_takes_too_long_is_named(tmp_path: Path):
    path = written(tmp_path, code("import time\ntime.sleep(60)"))
    with pytest.raises(run.Failed, match=r"(?s)one\.ipynb: .*time\.sleep\(60\)"):
        run.executed(path, tmp_path, timeout=1)


def test_warnings_stop_it_and_progress_bars_do_not(tmp_path: Path):
    bar = code("from tqdm import tqdm\nfor _ in tqdm(range(3), desc='bar'):\n    pass\nprint('done')")
    (cell,) = run.executed(written(tmp_path, bar), tmp_path).cells
    assert [output.text for output in cell.outputs] == ["done\n"]
    with pytest.raises(run.Failed, match=r"(?s)cell 1 writes to its error stream:\nimport warn.*UserWarning: careful"):
        run.executed(written(tmp_path, bar, code("import warnings\nwarnings.warn('careful')")), tmp_path)


def test_cells_that_need_the_hub_say_why_they_are_skipped(tmp_path: Path):
    path = written(tmp_path, code("1 / 0", run.NEEDS_HUB), code("import os\nprint(os.environ['HF_HUB_OFFLINE'])"))
    skipped, after = run.executed(path, tmp_path).cells
    assert skipped.outputs[0].text == run.REASON + "\n"
    assert (skipped.execution_count, after.execution_count) == (None, 1)
    assert after.outputs[0].text == "1\n"
    with pytest.raises(run.Failed, match="ZeroDivisionError"):
        run.executed(path, tmp_path, hub=True)


@needs_browser
def test_figures_get_a_picture_and_metadata_is_the_same_everywhere(tmp_path: Path):
    source = "import plotly.express as px\nfrom notice_lens import viz\n\nviz.show(px.imshow([[1, 2]], height=200))"
    notebook = run.executed(written(tmp_path, code(source)), tmp_path)
    (data,) = bundles(notebook)
    assert {INTERACTIVE, PICTURE} <= set(data)
    assert dict(notebook.metadata) == run.METADATA
    assert dict(notebook.cells[0].metadata) == {}
