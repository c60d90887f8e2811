"""Saved pairs: read back they are the same, damage is named, and nothing else is overwritten."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.pairs.problems import IMAGE
from pair_rows import make_row, picture, some


def test_what_is_derived_of_a_saved_folder_leaves_it_alone(tmp_path):
    folder = mini_world("states", 6).save(tmp_path / "saved")
    before = sorted(path.name for path in folder.iterdir())
    loaded = MinimalPairs.load(folder)
    small = loaded.resize(32)
    changed = loaded.shuffle(1).with_column("corrupt_answer", list("abcdef"))
    assert small[3].clean_image.size == (32, 32)
    assert changed["corrupt_answer"] == list("abcdef")
    assert sorted(changed["id"]) == sorted(loaded["id"])
    assert sorted(path.name for path in folder.iterdir()) == before
    assert loaded.save(folder, overwrite=True) == folder
    assert len(MinimalPairs.load(folder)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@settings(max_examples=20, deadline=None)
@given(task=st.sampled_from(["scenes", "states", "faces"]), seed=st.integers(0, 9), size=st.sampled_from([32, 64]))
def test_saved_and_loaded_pairs_are_the_same(task, seed, size, tmp_path_factory):
    pairs = mini_world(task, 3, seed=seed, size=size)
    pairs = pairs.without([pairs_problem(pairs["id"][1])], "test")
    place = tmp_path_factory.mktemp("pairs") / "saved"
    assert pairs.save(place) == place
    loaded = MinimalPairs.load(place)
    assert loaded.dataset.features == pairs.dataset.features
    assert loaded.manifest == pairs.manifest
    assert loaded.dropped.to_list() == pairs.dropped.to_list()
    for ours, theirs in zip(pairs, loaded, strict=True):
        assert ours.record == theirs.record
        assert ours.clean_image.tobytes() == theirs.clean_image.tobytes()
        assert ours.donor_image.tobytes() == theirs.donor_image.tobytes()
        for region, mask in ours.corrupt_regions.items():
            np.testing.assert_array_equal(mask, theirs.corrupt_regions[region])


def pairs_problem(name):
    from notice_lens.pairs.problems import Problem

    return Problem(name, IMAGE, "a detail")


def test_a_saved_folder_needs_nothing_beside_it(folder, tmp_path_factory):
    rows = [make_row(0, clean_image=folder / "0.png", corrupt_image=folder / "1.png", donor_image=folder / "2.png")]
    rows.append(make_row(1, clean_image=folder / "nowhere.png"))
    place = tmp_path_factory.mktemp("elsewhere") / "saved"
    MinimalPairs.from_rows(rows, on_error="drop").save(place)
    for path in folder.iterdir():
        path.unlink()
    loaded = MinimalPairs.load(place)
    assert loaded[0].clean_image.tobytes() == picture(0).tobytes()
    assert loaded[0].record["clean_image"]["path"] == "0.png"
    assert loaded.dropped[0]["reason"] == IMAGE
    assert str(folder) not in (place / "manifest.json").read_text()


def test_saving_never_replaces_what_it_should_not(tmp_path):
    pairs = some(2)
    pairs.save(tmp_path / "saved")
    with pytest.raises(FileExistsError, match=r"is there already; overwrite=True \(--overwrite\) replaces it"):
        pairs.save(tmp_path / "saved")
    pairs[:1].save(tmp_path / "saved", overwrite=True)
    assert len(MinimalPairs.load(tmp_path / "saved")) == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="it is no folder of pairs alone, so it is never replaced"):
        pairs.save(tmp_path / "thesis", overwrite=True)
    with pytest.raises(FileNotFoundError, match="no pairs in .*thesis: expected a folder that MinimalPairs.save wrote"):
        MinimalPairs.load(tmp_path / "thesis")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "thesis"]


@pytest.mark.parametrize("name", ["manifest.json", "pairs.arrow", "dropped.arrow"])
def test_damaged_pairs_are_named(tmp_path, name):
    folder = some(2).save(tmp_path / "saved")
    content = (folder / name).read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], b""):
        (folder / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} (is damaged|cannot be read)"):
            MinimalPairs.load(folder)
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name} is missing|no pairs in"):
        MinimalPairs.load(folder)


def test_pairs_of_version_0_1_are_read_and_their_damage_is_named(tmp_path):
    pairs = some(2)
    folder = pairs.save(tmp_path / "saved")
    manifest = json.loads((folder / "manifest.json").read_text())
    old = {name: value for name, value in manifest.items() if name not in ("files", "sha256")}
    (folder / "manifest.json").write_text(json.dumps(old))
    assert MinimalPairs.load(folder).fingerprint == pairs.fingerprint
    (folder / "pairs.arrow").write_bytes((folder / "pairs.arrow").read_bytes()[:100])
    with pytest.raises(ValueError, match="pairs.arrow cannot be read"):
        MinimalPairs.load(folder)
    for wrong, said in [
        ({}, "it has no 'builder'"),
        ([], "expected a JSON object, got list"),
        ({**old, "steps": None}, "'steps' is None; expected a list"),
        ({name: value for name, value in old.items() if name != "kept"}, "it has no 'kept'"),
        ({**old, "files": ["pairs.arrow"]}, "'files' are not digests by names"),
        ({**old, "files": {"pairs.arrow": 1}}, "'files' are not digests by names"),
    ]:
        (folder / "manifest.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"manifest.json cannot be read: {said}"):
            MinimalPairs.load(folder)


@pytest.mark.parametrize("name", ["notes.txt", "pairs.arrow.bak"])
def test_a_folder_with_more_than_pairs_is_never_replaced(tmp_path, name):
    pairs = some(2)
    folder = pairs.save(tmp_path / "saved")
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match="it is no folder of pairs alone, so it is never replaced"):
        pairs.save(folder, overwrite=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "manifest.json").write_text('{"name": "an app", "version": "0.1.0"}')
    (tmp_path / "theirs" / "pairs.arrow").write_text("somebody else's")
    with pytest.raises(FileExistsError, match="never replaced"):
        pairs.save(tmp_path / "theirs", overwrite=True)
    assert (folder / name).read_text() == "mine"


def test_a_fingerprint_tells_pairs_apart(tmp_path):
    pairs = mini_world("states", 4)
    assert pairs.fingerprint == mini_world("states", 4).fingerprint
    assert MinimalPairs.load(pairs.save(tmp_path / "saved")).fingerprint == pairs.fingerprint
    others = [
        pairs[:3],
        pairs.select([1, 0, 2, 3]),
        mini_world("states", 4, seed=1),
        pairs.with_column("corrupt_answer", [None] * 4),
        pairs.with_column("donor_image", [row["clean_image"] for row in pairs.dataset]),
        pairs.resize(32),
    ]
    assert len({other.fingerprint for other in [pairs, *others]}) == 7
