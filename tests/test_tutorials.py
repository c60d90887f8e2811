"""The tutorials run from a fresh kernel, and what is stored in them can be read on a page that runs no script."""

import ast
import base64
import importlib.util
import re
import struct
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from browsing import needs_browser

TUTORIALS = Path(__file__).parents[1] / "tutorials"
INTERACTIVE, PICTURE = "application/vnd.plotly.v1+json", "image/png"
QUICK = ("01",)
"""The notebook that `make test` runs; `make test-large` runs the others."""
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


NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")


def said(notebook: Any) -> list[str]:
    """What each code cell says in words and numbers: printed, or shown as text."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(output.get("text") or output.data.get("text/plain", "") for output in cell.outputs
                      if "data" in output or output.get("name") == "stdout") for cell in cells]  # fmt: skip


def differs(stored: str, fresh: str) -> str | None:
    """The first thing that two outputs say differently, or None.

    Words have to be the same, and whole numbers; other numbers to a unit and a half of the last digit that is printed.
    """
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (stored, fresh)]
    if words[0] != words[1]:
        return f"stored: {stored}\na run says: {fresh}"
    for ours, theirs in zip(NUMBER.findall(stored), NUMBER.findall(fresh), strict=True):
        mantissa, _, power = ours.rstrip("%").partition("e")
        digits = len(mantissa.partition(".")[2])
        whole = digits == 0 and not ours.endswith("%")
        unit = 0.0 if whole else 1.5 * 10.0 ** (int(power or 0) - digits)
        values = [float(text.rstrip("%").replace("\u2212", "-")) for text in (ours, theirs)]
        if abs(values[0] - values[1]) > unit + 1e-12:
            return f"stored: {ours}, a run says: {theirs}, in: {stored}"
    return None


def drawn(notebook: Any) -> list[np.ndarray]:
    """The numbers of every figure's traces, in their order."""
    traces = [trace for data in bundles(notebook) if INTERACTIVE in data for trace in data[INTERACTIVE]["data"]]
    return [_array(trace[axis]) for trace in traces for axis in ("x", "y", "z") if axis in trace]


def _array(values: Any) -> np.ndarray:
    if isinstance(values, dict):  # Plotly's own form of arrays
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(float)
    array = np.array(values).ravel()
    return array.astype(float) if array.dtype.kind in "biuf" else np.zeros(0)


def written(folder: Path, *cells: Any) -> Path:
    path = folder / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def code(source: str) -> Any:
    return nbformat.v4.new_code_cell(source)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem.startswith(QUICK) else pytest.mark.large)
        for path in run.notebooks()
    ],
)
def test_it_runs(path: Path, tmp_path: Path):
    before = path.read_bytes()
    fresh = run.executed(path, tmp_path)
    assert path.read_bytes() == before
    stored = nbformat.read(path, as_version=4)
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in stored.cells]
    found = [differs(ours, theirs) for ours, theirs in zip(said(stored), said(fresh), strict=True)]
    assert not any(found), "stale outputs (`make tutorials` writes them anew):\n" + "\n".join(filter(None, found))
    for ours, theirs in zip(drawn(stored), drawn(fresh), strict=True):
        assert np.allclose(
            ours, theirs, rtol=1e-3, atol=1e-3 * (np.nanmax(abs(ours), initial=0.0) or 1.0), equal_nan=True
        )


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
    assert len(counts) == len(cells)
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


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ("L2.H2: q 0.010", "L2.H2: q 0.011", True),
        ("L2.H2: q 0.010", "L2.H2: q 0.004", False),
        ("L2.H4: no label; peers (p = 0.053)", "L2.H4: no label; q = 0.071 over all claims", False),
        ("40 of 40 pairs", "39 of 40 pairs", False),
        ("restores 6.3%", "restores 6.2%", True),
        ("restores 6.3%", "restores 6.6%", False),
        ("right 90%", "right 91%", True),
        ("right 90%", "right 80%", False),
        ("gap \u22120.25", "gap 0.25", False),
        ("error 2.4e-07", "error 2.5e-07", True),
        ("error 2.4e-07", "error 2.4e-05", False),
        ("L2.H2", "L2.H4", False),
        ("  two   spaces", "two spaces", True),
        ("done", "", False),
    ],
)
def test_an_output_is_stale_where_it_says_something_else(stored, fresh, same):
    assert (differs(stored, fresh) is None) == same


@pytest.mark.parametrize("hub", [False, True])
def test_a_cell_can_tell_whether_it_may_fetch(tmp_path: Path, hub):
    names = "os.environ['HF_HUB_OFFLINE'], os.environ['NOTICE_LENS_HUB']"
    path = written(tmp_path, code(f"import os\nprint({names})"))
    (cell,) = run.executed(path, tmp_path, hub=hub).cells
    assert cell.outputs[0].text == ("0 1\n" if hub else "1 0\n")


def test_no_cell_fetches_unasked():
    """By "Run All" in Jupyter, which knows no tags and where nothing is set, a hub id is loaded by no cell."""
    loads = []
    for path in run.notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.metadata.get("tags"), "a tag guards nothing in Jupyter"
            if cell.cell_type != "code" or "from_pretrained" not in cell.source:
                continue
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("!", "%")))
            tree = ast.parse(source)
            guarded = {id(node) for each in tree.body if isinstance(each, ast.If) for node in ast.walk(each)}
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained":
                    name = ast.literal_eval(call.args[0])
                    loads.append(name)
                    assert "/" not in name or id(call) in guarded
    assert "Salesforce/blip-vqa-base" in loads


@needs_browser
def test_figures_get_a_picture_and_metadata_is_the_same_everywhere(tmp_path: Path):
    source = "import plotly.express as px\nfrom notice_lens import viz\n\nviz.show(px.imshow([[1, 2]], height=200))"
    notebook = run.executed(written(tmp_path, code(source)), tmp_path)
    (data,) = bundles(notebook)
    assert {INTERACTIVE, PICTURE} <= set(data)
    assert dict(notebook.metadata) == run.METADATA
    assert dict(notebook.cells[0].metadata) == {}
