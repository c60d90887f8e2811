"""Paths that are written in files: no text leads out of its folder, and links do only where they are not confined."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notice_lens.files import inside

OUT = ["../x", "a/../../x", "..", "/etc/passwd", "a/../../photos-2/x", "./.././x", "//etc/x", "a/b/../../../x"]
IN = {"x": "x", "a/../x": "x", "./x": "x", ".": ".", "a//b": "a/b", "..x": "..x", "...": "...", "a/..b/x": "a/..b/x"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize("written", OUT)
def test_no_text_leads_out(photos: Path, written: str):
    with pytest.raises(ValueError, match="leads out of the folder 'photos'; expected one in it"):
        inside(photos, written)


@pytest.mark.parametrize("written", IN)
def test_text_that_stays(photos: Path, written: str):
    assert inside(photos, written) == photos / IN[written]
    assert inside(photos, str(photos / written)) == photos / IN[written]


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", " "])))
def test_any_text_stays_or_is_refused(parts: list[str]):
    depths = [0]
    for part in parts:
        depths.append(depths[-1] + {"..": -1, ".": 0, "": 0}.get(part, 1))
    text = "/".join(parts)
    if text.startswith("/") or depths[-1] < 0:
        with pytest.raises(ValueError, match="leads out"):
            inside("photos", text)
    elif min(depths) >= 0:
        assert len(inside("photos", text).relative_to(Path.cwd() / "photos").parts) == depths[-1]


def test_a_folder_of_links(photos: Path, tmp_path: Path):
    """As in a hub's cache, where every file is a link to a blob beside its folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").touch()
    (photos / "1.jpg").symlink_to("../blobs/1")
    (photos / "disk").symlink_to(tmp_path / "blobs", target_is_directory=True)
    (photos / "again.jpg").symlink_to("here.jpg")
    for name in ("1.jpg", "disk/1"):
        assert inside(photos, name).is_file()
        with pytest.raises(
            ValueError, match=f"'{name}' is a link that leads out of 'photos', and confine=True follows"
        ):
            inside(photos, name, confine=True)
    assert inside(photos, "again.jpg", confine=True) == photos / "again.jpg"
    # Up from a link is up from where it stands: the way to what lies beside its target is closed.
    assert inside(photos, "disk/../x") == photos / "x"


def test_a_folder_that_is_a_link_itself(photos: Path, tmp_path: Path):
    (tmp_path / "linked").symlink_to(photos)
    assert inside(tmp_path / "linked", "1.jpg", confine=True) == tmp_path / "linked" / "1.jpg"
    assert inside(tmp_path / "linked", str(photos / "1.jpg"), confine=True) == photos / "1.jpg"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a\0b", "has a NUL character in it"),
        ("a\ud800", "is not valid Unicode"),
        (7, "expected a path as text, got int"),
        (None, "got NoneType"),
        (b"x", "got bytes"),
    ],
)
def test_what_is_no_path(photos: Path, written, message: str):
    with pytest.raises(ValueError, match=message):
        inside(photos, written)


def test_links_in_a_circle_and_names_that_are_no_text(photos: Path):
    (photos / "loop").symlink_to("loop")
    assert inside(photos, "loop", confine=True) == photos / "loop"
    assert inside(photos, os.fsdecode(b"\xff.png"), confine=True).name == "\udcff.png"
