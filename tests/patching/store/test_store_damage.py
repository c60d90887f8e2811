"""Damage on disk is named with store, array and pair, before anything is computed, and is never NaN."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import made_results
from made_stores import SETTINGS, effects
from notice_lens import HookedBLIP
from notice_lens.files import replacing
from notice_lens.pairs import mini_world
from notice_lens.pairs.web import downloader, report
from notice_lens.patching import Site, sweep
from notice_lens.patching.store.format import read
from notice_lens.patching.store.lock import Lock
from notice_lens.patching.store.store import Store
from notice_lens.study.tables import write_csv, write_tables

N_PAIRS = 70
"""Two chunks."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which pairs 0 to 65 are done."""
    path, result = tmp_path_factory.mktemp("stores") / "s", effects(N_PAIRS)
    with Store.open(path, result, SETTINGS) as store:
        store.write(slice(66), result.isel(pair=slice(66)))
    return path


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


def refused(path: Path) -> str:
    """The message about a damaged store, when it is read and when a sweep resumes from it."""
    with pytest.raises(ValueError, match="kl|change|done|pair|zarr") as read_only:
        read(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="name another folder|copied|checksum") as opened:
        Store.open(path, effects(N_PAIRS), SETTINGS)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert str(path) in str(read_only.value)
    assert str(opened.value).startswith(str(read_only.value)[:60])
    return str(read_only.value)


FILES = ["kl/c/0/0/0", "kl/c/1/0/0", "change/c/0/0/0", "below_floor/c/1/0/0", "n_tokens/c/0", "contrast/c/1"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_chunk_is_named_with_its_pairs(copied: Path, name: str) -> None:
    (copied / name).unlink()
    said = refused(copied)
    array, _, chunk = name.partition("/c/")
    assert f"{array!r} cannot be read at pairs " in said
    assert ("'p0', 'p1'" if chunk[0] == "0" else "'p64', 'p65':") in said
    assert "is missing" in said


@pytest.mark.parametrize("name", FILES)
def test_any_changed_or_cut_off_byte_of_a_chunk_is_named(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    places = np.unique(np.linspace(0, len(content) - 1, 9).astype(int)).tolist()
    changed = [content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] for place in places]
    for damaged in (*changed, content[:-1], content[:3], b"", content + b"\0"):
        (copied / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"'{name.partition('/')[0]}' cannot be read at pairs 'p"):
            read(copied)
    refused(copied)


@pytest.mark.parametrize("name", ["done/c/0", "pair/c/0", "layer/c/0", "site/c", "minimality/c/0"])
def test_flags_and_coordinates_are_checked_too(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    array = name.partition("/")[0]
    for damaged in (content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], content[:-1]):
        (copied / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{array!r} cannot be read"):
            Store.open(copied, effects(N_PAIRS), SETTINGS)
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"{array!r} cannot be read: {name} is missing"):
        read(copied)


def test_an_incomplete_or_edited_record_is_named(copied: Path) -> None:
    meta = copied / "zarr.json"
    found = json.loads(meta.read_text())
    record = found["attributes"]["notice_lens"]
    edits: list[dict[str, Any]] = [{key: value for key, value in record.items() if key != own} for own in record]
    edits += [{**record, "settings": {**record["settings"], "corruption": "text"}}, {**record, "missing": {}}]
    for edited in edits:
        if "format" not in edited:
            continue  # reported as another format
        meta.write_text(json.dumps({**found, "attributes": {**found["attributes"], "notice_lens": edited}}))
        assert "zarr.json is damaged or was edited" in refused(copied)


def test_an_arrays_description_is_checked(copied: Path) -> None:
    meta = copied / "kl" / "zarr.json"
    found = json.loads(meta.read_text())
    for edited in ({**found, "fill_value": 0.0}, {**found, "data_type": "int32"}, {**found, "shape": [7, 2, 3]}):
        meta.write_text(json.dumps(edited))
        assert "kl/zarr.json is damaged" in refused(copied)


def test_numbers_that_are_nan_are_stored_as_such(tmp_path: Path) -> None:
    result = effects()
    result["kl"] = xr.full_like(result.kl, np.nan)
    result["below_floor"] = xr.zeros_like(result.below_floor)
    with Store.open(tmp_path / "s", result, SETTINGS) as store:
        store.write(slice(None), result)
    xr.testing.assert_identical(read(tmp_path / "s"), result)
    (tmp_path / "s" / "kl" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(ValueError, match="'kl' cannot be read at pairs 'p0', 'p1', 'p2', 'p3', 'p4': kl/c/0/0/0 is"):
        read(tmp_path / "s")


def test_what_was_half_written_is_not_read(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, result = tmp_path / "s", effects()
    with Store.open(path, result, SETTINGS) as store:
        monkeypatch.setitem(store._arrays, "done", _Full())
        with pytest.raises(
            OSError, match=f"{path} cannot be written: No space left on device; pairs that are done are"
        ):
            store.write([1], result.isel(pair=[1]))
    assert read(path).kl.isnull().all()
    assert set(read(path).contrast.values) == {""}


class _Full:
    def __setitem__(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")


def test_damage_is_said_before_a_sweep(mini: HookedBLIP, tmp_path: Path) -> None:
    pairs, site = mini_world("states", 2, seed=1), Site.of(mini, "text.cross_attn", layers=2, heads=[1])
    options: dict[str, Any] = {"store": tmp_path / "s", "metrics": ["kl"], "controls": (), "progress": False}
    sweep(mini, pairs, site, **options)
    chunk = next((tmp_path / "s" / "kl" / "c").rglob("0/0/0/0"))
    chunk.unlink()
    with pytest.raises(ValueError, match="'kl' cannot be read at pairs 'test-states-1-0', "):
        sweep(mini, pairs, site, **options)


# Beside the store


@pytest.mark.parametrize("content", ["[[package]]\nname = 'torch'\n", "{}", '{"pid": 1}', "4711\n", '"x"', "\0" * 2000])
def test_somebody_elses_lock_file_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "poetry.lock").write_text(content)
    with pytest.raises(FileExistsError, match="poetry.lock is in the way.*name another folder"):
        Store.open(tmp_path / "poetry", effects(), SETTINGS)
    assert (tmp_path / "poetry.lock").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["poetry.lock"]


@pytest.mark.parametrize("kind", ["file", "nothing", "folder"])
def test_a_link_as_lock_file_is_not_followed(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("")
    elif kind == "folder":
        target.mkdir()
    (tmp_path / "s.lock").symlink_to(target)
    with pytest.raises(FileExistsError, match="s.lock is in the way: it is a link; move it, or name another folder"):
        Lock(tmp_path / "s")
    assert (tmp_path / "s.lock").is_symlink()
    assert target.exists() == (kind != "nothing")


def test_where_nothing_can_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to .*file/s: (File exists|Not a directory); name another folder"):
        Store.open(tmp_path / "file" / "s", effects(), SETTINGS)
    with pytest.raises(OSError, match="cannot write to /proc/s: .*; name another folder"):
        Store.open("/proc/s", effects(), SETTINGS)


# Files that are written whole


def half(path: Path, error: BaseException) -> None:
    """Write half of a file and fail."""
    with replacing(path) as beside:
        beside.write_text("half of")
        raise error


@pytest.mark.parametrize("earlier", [None, "before"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, earlier: str | None) -> None:
    path = tmp_path / "page.html"
    if earlier is not None:
        path.write_text(earlier)
    with pytest.raises(OSError, match="page.html cannot be written: No space left"):
        half(path, OSError(28, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        half(path, KeyboardInterrupt())
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if earlier is None else [earlier])
    (tmp_path / "link.html").symlink_to(path)
    with replacing(tmp_path / "link.html") as beside:
        beside.write_text("whole")
    assert (path.read_text(), (tmp_path / "link.html").is_symlink()) == ("whole", True)


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder cannot be written: Is a directory"):
        write_csv(pd.DataFrame({"a": [1]}), tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_tables_that_do_not_fit_on_the_disk_leave_the_earlier_ones(tmp_path: Path) -> None:
    important = {"states": made_results.important()}
    write_tables(important, {}, None, {}, tmp_path)
    before = {file: file.read_text() for file in tmp_path.iterdir()}
    assert {file.name for file in before} == {"heads.csv", "labels.csv"}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # no file may be longer
    try:
        with pytest.raises(OSError, match="heads.csv cannot be written: File too large"):
            write_tables({"states": made_results.important(seed=1)}, {}, None, {}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {file: file.read_text() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["probe.part", "PROBE.PART", "failed.csv.part"])
def test_downloads_leave_files_of_others_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert downloader.ignores_case(tmp_path) == (tmp_path / name.swapcase()).exists()
    report.write_csv([], tmp_path / "failed.csv")
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "failed.csv"])
