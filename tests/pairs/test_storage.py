"""Saved pairs hold their pictures: no path in a saved file is followed, whoever wrote it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from PIL import Image

from notice_lens.files import sealed, sha256
from notice_lens.pairs import MinimalPairs
from notice_lens.pairs.io.storage import to_dataset
from notice_lens.pairs.problems import IMAGE, Problem
from pair_rows import make_row, picture


def rewritten(file: Path, change) -> None:
    """Change the rows of a saved file, as whoever means it does: with checksums that fit."""
    table = Dataset.from_file(str(file)).with_format("arrow")[:]
    changed = pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=table.schema)
    file.unlink()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(changed)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][file.name] = sha256(file)
    (file.parent / "manifest.json").write_text(json.dumps(sealed(manifest)))


@pytest.fixture
def saved(folder) -> Path:
    with Image.open(folder / "5.png") as photo:
        photo.load()
    rows = [make_row(n, clean_image=folder / f"{n}.png", photo=photo) for n in range(3)]
    rows.append(make_row(3, clean_image=folder / "nowhere.png", photo=None))
    MinimalPairs.from_rows(rows, on_error="drop").save(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("column", ["clean_image", "corrupt_image", "donor_image", "photo"])
@pytest.mark.parametrize("path", ["secret.png", "../secret.png", "absolute"])
def test_a_path_in_saved_pairs_is_not_followed(saved, folder, monkeypatch, column, path):
    picture(9).save(folder / "secret.png")
    monkeypatch.chdir(folder)
    path = str(folder / "secret.png") if path == "absolute" else path

    def point_away(row):
        return {**row, column: {"path": path, "bytes": None}} if row["id"] == "pair-1" else row

    rewritten(saved / "pairs.arrow", point_away)
    with pytest.raises(ValueError, match=rf"pairs.arrow: {column} of pair 'pair-1' is a path without the picture"):
        MinimalPairs.load(saved)


def test_a_path_among_dropped_rows_is_not_followed(saved, folder):
    """Saving again wrote the bytes of whatever file was named there."""
    (folder / "secret.png").write_bytes(b"secret")
    away = {"path": str(folder / "secret.png"), "bytes": None}
    rewritten(saved / "dropped.arrow", lambda row: {**row, "clean_image": away})
    MinimalPairs.load(saved).save(folder / "again")
    assert b"secret" not in (folder / "again" / "dropped.arrow").read_bytes().replace(b"secret.png", b"")
    assert MinimalPairs.load(folder / "again").dropped[0]["reason"] == IMAGE


@pytest.mark.parametrize("last", [2**30, -1])
def test_texts_that_lie_outside_of_their_file_are_named(saved, last):
    """Version 0.1 wrote no checksums, and Arrow reads what is somewhere in memory, or ends the process."""
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key not in ("files", "sha256")}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert len(MinimalPairs.load(saved)) == 3
    ends, moved = (np.array([0, 6, 12, end], "<i4").tobytes() for end in (18, last))  # of "pair-0" and so on
    content = (saved / "pairs.arrow").read_bytes()
    (saved / "pairs.arrow").write_bytes(content.replace(ends, moved))
    with pytest.raises(ValueError, match="pairs.arrow cannot be read: .*offset"):
        MinimalPairs.load(saved)


def test_pictures_in_columns_of_one_s_own_are_saved_too(saved, folder):
    for file in folder.glob("*.png"):
        file.unlink()
    pairs = MinimalPairs.load(saved)
    assert pairs[2]["photo"].tobytes() == picture(5).tobytes()


def test_files_of_the_same_names_in_the_working_folder_change_nothing(folder, tmp_path_factory, monkeypatch):
    """`datasets` forgets the bytes of an image whose file's name it finds where Python happens to run."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number in range(6):
        picture(100 + number).save(elsewhere / f"{number}.png")
    rows = [make_row(n, clean_image=folder / f"{n}.png") for n in range(3)]
    monkeypatch.chdir(folder)
    MinimalPairs.from_rows(rows).save("saved")
    monkeypatch.chdir(elsewhere)
    loaded = MinimalPairs.load(folder / "saved")
    loaded.without([Problem("pair-0", IMAGE, "a detail")], "test").save(folder / "again")
    again = MinimalPairs.load(folder / "again")
    assert [pair.clean_image.tobytes() for pair in again] == [picture(n).tobytes() for n in (1, 2)]
    assert again.dropped[0]["clean_image"]["bytes"] == (folder / "0.png").read_bytes()
    from_data = MinimalPairs.from_dataset(loaded.dataset)
    assert [pair.clean_image.tobytes() for pair in from_data] == [picture(n).tobytes() for n in range(3)]


def test_the_code_of_a_table_is_that_of_its_values():
    """`datasets` names its caches by it, and a manifest says it."""
    rows = [{"id": str(n), "task": "colors", "flag": n > 1, "seen": n or None} for n in range(3)]
    others = {
        "the same": rows,
        "another value": [*rows[:2], {**rows[2], "task": "shapes"}],
        "the same letters": [{**rows[0], "id": "01", "task": "olors"}, *rows[1:]],
        "none for a number": [*rows[:2], {**rows[2], "seen": None}],
        "a flag": [{**rows[0], "flag": True}, *rows[1:]],
        "another order": rows[::-1],
        "a row less": rows[:2],
        "another column": [{**row, "note": "x"} for row in rows],
    }
    codes = {name: to_dataset(made)._fingerprint for name, made in others.items()}
    assert codes.pop("the same") == to_dataset([dict(row) for row in rows])._fingerprint
    assert len(set(codes.values()) - {to_dataset(rows)._fingerprint}) == len(codes)
