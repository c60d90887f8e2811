"""Names of the stores of conditions stay in their folder, differ where the conditions do, and fit any file system."""

from pathlib import Path

import pytest

from notice_lens.study.runner import store_name


@pytest.mark.parametrize("task", ["states", "../states", "/etc/x", "ä" * 400, "x" * 300, "..", "a\0b", "\n"])
def test_names_of_stores(tmp_path: Path, task: str):
    names = {store_name(f"{task}, {corruption}") for corruption in ("image", "text", "Gaussian noise")}
    assert len(names) == 3
    for name in names:
        path = tmp_path / f"{name}, all positions.zarr"
        path.mkdir()
        assert path.parent == tmp_path


def test_short_names_are_as_they_were():
    assert store_name("states, image") == "states, image"
