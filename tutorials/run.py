"""Executes the tutorials in place: `python tutorials/run.py [notebook ...] [--hub]`, or `make tutorials` for all.

Each notebook gets a fresh kernel of this Python. A cell that fails, takes longer than `--timeout`, or writes to its
error stream (but for progress bars) stops the run, and its notebook is left as it was. Every cell runs, as it does by
"Run All" in Jupyter: one that fetches from the Hugging Face hub does so with `--hub` alone, which sets NOTICE_LENS_HUB
to 1; without it the hub is switched off for the kernel. What is stored depends on the cells and not on the machine: no
times, no versions, no progress bars.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class Failed(RuntimeError):
    """A notebook that did not run to its end; the message names the cell and what it said."""


def notebooks() -> list[Path]:
    """The tutorials, in their order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def executed(path: Path, folder: Path, *, hub: bool = False, timeout: int = 300) -> NotebookNode:
    """The notebook with fresh outputs; the file stays as it is.

    Args:
        path: Of the notebook.
        folder: The kernel's working folder.
        hub: Whether cells may fetch from the Hugging Face hub.
        timeout: Seconds that a cell may take.

    Raises:
        Failed: A cell fails, takes too long or writes to its error stream.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    with _environment(hub):
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError) as error:
            raise Failed(f"{path.name}: {error}") from error
    return normalised(notebook, path.name)


def normalised(notebook: NotebookNode, name: str) -> NotebookNode:
    """Outputs without progress bars, and metadata that is the same everywhere."""
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        cell.outputs = _kept(cell.outputs)
        if said := "".join(output.text for output in cell.outputs if output.get("name") == "stderr").strip():
            raise Failed(f"{name}: cell {number} writes to its error stream:\n{cell.source}\n\n{said}")
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return notebook


def _kept(outputs: Sequence[Any]) -> list[Any]:
    """Outputs that are no progress bar; pieces of one stream are one."""
    kept: list[Any] = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue
        if output.output_type == "stream":
            output.text = "".join(line for line in output.text.splitlines(keepends=True) if "%|" not in line)
            output.text = "" if not output.text.strip("\r\n") else output.text
            if not output.text:
                continue
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


@contextmanager
def _environment(hub: bool) -> Any:
    """What the kernel inherits: no hub unless asked for, no note of the debugger's about frozen modules."""
    before = dict(os.environ)
    os.environ |= (
        {"HF_HUB_OFFLINE": "0", "NOTICE_LENS_HUB": "1"} if hub else {"HF_HUB_OFFLINE": "1", "NOTICE_LENS_HUB": "0"}
    )
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Executes and rewrites; ends with 1 at the first notebook that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all tutorials where none is named")
    parser.add_argument("--hub", action="store_true", help="run the cells that fetch from the Hugging Face hub")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that a cell may take (300)")
    asked = parser.parse_args()
    for path in asked.notebooks or notebooks():
        start = time.perf_counter()
        try:
            notebook = executed(path, FOLDER, hub=asked.hub, timeout=asked.timeout)
        except Failed as error:
            sys.exit(str(error))
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
