"""What no store takes, whom it lets in, and what it says of both."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from made_stores import SETTINGS, effects
from notice_lens.files import sealed, sha256
from notice_lens.patching.store import lock as store_lock
from notice_lens.patching.store.format import CREATING, read
from notice_lens.patching.store.store import Store


def refused(path: Path, template: xr.Dataset, settings: dict[str, Any]) -> str:
    """The differences in the one sentence that a store of another sweep is refused with."""
    with pytest.raises(ValueError, match="is the store of another sweep: ") as caught:
        Store.open(path, template, settings)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith("; name another folder, or repeat the call that it was made with")
    return said.partition(" is the store of another sweep: ")[2].rpartition("; name another folder")[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s", effects(), SETTINGS) as opened:
        yield opened


def test_other_settings_are_named(store: Store) -> None:
    store.close()
    other = {"model": {"fingerprint": "xyz", "layers": 12.0}, "corruption": "text", "metrics": ["kl"], "seed": None}
    assert refused(store.path, effects(), other) == (
        "model.fingerprint is 'abc' there and 'xyz' here, model.layers is 12 there and 12.0 here, and so on for "
        "corruption, metrics, seed"
    )
    swapped = {**SETTINGS, "metrics": ["kl", "prob_change"]}
    assert refused(store.path, effects(), swapped) == "metrics[1] is 'answer_prob' there and 'prob_change' here"
    Store.open(store.path, effects(), {**SETTINGS, "metrics": ("kl", np.str_("answer_prob"))}).close()


def test_settings_that_are_not_numbers_are_themselves(tmp_path: Path) -> None:
    for _ in range(2):
        Store.open(tmp_path / "s", effects(), {"nan": np.nan, "inf": [np.inf], "n": np.int64(3)}).close()


def test_other_pairs_are_named(store: Store) -> None:
    store.close()
    whole = effects()
    other = whole.assign_coords(pair=["p0", "p1", "q2", "p3", "p4"])
    assert refused(store.path, other, SETTINGS) == "pair.labels[2] is 'p2' there and 'q2' here"
    assert refused(store.path, effects(n_pairs=12), SETTINGS).startswith("pair.labels is ['p0', 'p1', 'p2', 'p3',")
    assert refused(store.path, effects(n_pairs=40), SETTINGS).startswith("pair.labels has 5 entries there and 40 here")
    turned = refused(store.path, whole.isel(pair=[1, 0, 2, 3, 4]), SETTINGS)
    assert turned.startswith("pair.labels[0] is 'p0' there and 'p1' here (the first of 2), ")


def test_other_coordinates_are_named(store: Store) -> None:
    store.close()
    other = effects().assign_coords(minimality=("pair", np.full(5, 0.5)), site="text.attn").drop_vars("kept")
    assert refused(store.path, other.assign_coords(task=("pair", ["a"] * 5)), SETTINGS) == (
        "minimality.labels[3] is None there and 0.5 here, kept is there, and not here, and so on for "
        "site.labels[0], task"
    )
    dims = effects().drop_vars("kept").assign_coords(kept=("layer", [True, False]))
    assert "kept.dims[0] is 'pair' there and 'layer' here" in refused(store.path, dims, SETTINGS)


def test_other_variables_are_named(store: Store) -> None:
    store.close()
    other = effects().drop_vars("n_tokens")
    other["kl"] = other.kl.astype("float64")
    assert refused(store.path, other, SETTINGS) == (
        "variables.kl.dtype is 'float32' there and 'float64' here, variables.n_tokens is there, and not here"
    )


def test_a_second_writer_is_refused(store: Store) -> None:
    with pytest.raises(RuntimeError, match="this very process is writing to this store"):
        Store.open(store.path, effects(), SETTINGS)
    store.write([0], effects().isel(pair=[0]))
    store.close()
    store.close()
    Store.open(store.path, effects(), SETTINGS).close()
    with pytest.raises(RuntimeError, match="this store was closed; open it anew to write"):
        store.write([1], effects().isel(pair=[1]))
    assert store.load().kl.notnull().any()


def test_another_process_that_writes_is_named_and_its_lock_ends_with_it(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from notice_lens.patching.store.lock import Lock
        lock = Lock(Path(sys.argv[1]))
        print("locked", flush=True)
        sys.stdin.read()"""
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=f"process {other.pid} on .* is writing to this store; wait for it"):
            Store.open(tmp_path / "s", effects(), SETTINGS)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert (tmp_path / "s.lock").exists()
    with Store.open(tmp_path / "s", effects(), SETTINGS):
        assert str(os.getpid()) in (tmp_path / "s.lock").read_text()
    assert not (tmp_path / "s.lock").exists()


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, places = store_lock._lock, []

    def slowly(descriptor: int) -> bool:
        if not places:  # between our opening of the file and our lock, its holder takes it away
            (tmp_path / "s.lock").unlink()
        places.append(descriptor)
        return lock(descriptor)

    monkeypatch.setattr(store_lock, "_lock", slowly)
    held = store_lock.Lock(tmp_path / "s")
    assert len(places) == 2
    with pytest.raises(RuntimeError, match="this very process is writing"):
        store_lock.Lock(tmp_path / "s")
    held.release()


def test_a_fork_frees_no_lock(tmp_path: Path) -> None:
    held = store_lock.Lock(tmp_path / "s")
    store_lock._release(-1, tmp_path / "s.lock", pid=os.getpid() + 1)
    assert (tmp_path / "s.lock").exists()
    held.release()


def test_a_lock_is_freed_when_opening_fails_and_when_nobody_has_the_store(tmp_path: Path) -> None:
    Store.open(tmp_path / "s", effects(), SETTINGS)  # nobody has it
    refused(tmp_path / "s", effects(), {})
    Store.open(tmp_path / "s", effects(), SETTINGS).close()


@pytest.mark.parametrize("name", ["notes.txt", "zarr.json", ".zgroup"])
def test_a_folder_that_is_no_store_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(FileExistsError, match="not a store of a sweep.*; it is left as it is; name another folder"):
        Store.open(tmp_path / "s", effects(), SETTINGS)
    assert [path.name for path in (tmp_path / "s").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(FileExistsError, match="not a store of a sweep"):
        Store.open(tmp_path / "s", effects(), SETTINGS)
    assert (tmp_path / "s").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="nothing is there"):
        read(tmp_path / "t")


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    Store.open(str(tmp_path / "s"), effects(), SETTINGS).close()
    assert read(tmp_path / "s").sizes["pair"] == 5


def test_the_place_where_stores_are_built_is_cleared_of_ours_only(tmp_path: Path) -> None:
    beside = tmp_path / "s.creating"
    (beside / "store").mkdir(parents=True)
    (beside / "store" / "zarr.json").write_text('{"cut o')
    with pytest.raises(FileExistsError, match="s.creating is in the way"):
        Store.open(tmp_path / "s", effects(), SETTINGS)
    assert (beside / "store" / "zarr.json").exists()
    (beside / CREATING).touch()
    Store.open(tmp_path / "s", effects(), SETTINGS).close()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_that_is_damaged_is_said_to_be(store: Store) -> None:
    store.close()
    meta = store.path / "zarr.json"
    text = meta.read_text()
    meta.write_text(text[:100])
    with pytest.raises(ValueError, match="zarr.json cannot be read: it is cut off.*it is left as it is"):
        Store.open(store.path, effects(), SETTINGS)
    assert meta.read_text() == text[:100]
    meta.write_text(text)
    (store.path / "kl" / "zarr.json").rename(store.path / "kl" / "gone")
    with pytest.raises(ValueError, match="kl/zarr.json is missing; was all of the folder copied"):
        read(store.path)


def test_a_store_of_another_version_is_said_to_be(store: Store) -> None:
    store.close()
    meta, array = store.path / "zarr.json", store.path / "kl" / "zarr.json"
    found = json.loads(meta.read_text())
    record = found["attributes"]["notice_lens"]

    def written(change: dict[str, Any], zarr_format: int = 3) -> None:
        own = sealed({name: value for name, value in {**record, **change}.items() if name != "sha256"})
        changed = {**found, "zarr_format": zarr_format, "attributes": {**found["attributes"], "notice_lens": own}}
        meta.write_text(json.dumps(changed))

    for formats in ((1, 3), (99, 3), (2, 4)):
        written({"format": formats[0], "version": "9.8"}, formats[1])
        said = "has format {} in Zarr format {}, written by notice-lens 9.8; .* reads format 2 in Zarr format 3; name"
        with pytest.raises(ValueError, match=said.format(*formats)):
            Store.open(store.path, effects(), SETTINGS)
    array.write_text(json.dumps({**json.loads(array.read_text()), "codecs": [{"name": "of the future"}]}))
    written({"files": {**record["files"], "kl/zarr.json": sha256(array)}})
    with pytest.raises(ValueError, match="Zarr cannot read it \\(written with Zarr .*, read with .*of the future"):
        read(store.path)


@pytest.mark.parametrize(
    ("pairs", "change", "error", "message"),
    [
        ([0, 5, -1], {}, IndexError, "pairs 5, -1: the store has pairs 0 to 4"),
        ([1, 1], {}, ValueError, "pairs 1, 1: one is given twice"),
        ([True, False], {}, ValueError, "pairs are a slice or a list of whole numbers; got bool of shape \\(2,\\)"),
        ([4, 3], {}, ValueError, "pairs 4, 3 are done; finished pairs are kept"),
        ([0, 1], {"kl": None}, ValueError, "the part lacks 'kl'"),
        ([0, 1], {"kll": ("pair", [1, 2])}, ValueError, "no variable 'kll'; did you mean 'kl'\\?"),
        (
            [0, 1],
            {"n_tokens": ("layer", [1, 2])},
            ValueError,
            "'n_tokens' has the dims \\('layer',\\); the store's are",
        ),
        ([0, 1], {"n_tokens": ("pair", [1, 2])}, ValueError, "int64 of shape \\[2\\]; expected int16 of \\[2\\]"),
        ([0], {}, ValueError, "'kl' is float32 of shape \\[2, 2, 3\\]; expected float32 of \\[1, 2, 3\\]"),
        (
            [1, 2],
            {},
            ValueError,
            "the part is of other pairs or places: pair.labels\\[0\\] is 'p1' there and 'p0' here \\(the first of 2",
        ),
        ([0, 1], {"layer": [0, 10]}, ValueError, "layer.labels\\[1\\] is 11 there and 10 here"),
        ([0, 1], {"contrast": ("pair", np.array(["a", 3], object))}, TypeError, "'contrast' holds 3, a int"),
    ],
)
def test_a_part_that_does_not_fit_writes_nothing(
    store: Store, pairs: list[int], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    whole = effects()
    store.write([3, 4], whole.isel(pair=[3, 4]))
    part = whole.isel(pair=[0, 1])
    gone = [name for name, value in change.items() if value is None]
    part = part.drop_vars(gone).assign({name: value for name, value in change.items() if value is not None})
    with pytest.raises(error, match=message):
        store.write(pairs, part)
    assert store.done.tolist() == [False, False, False, True, True]
    assert store.load().kl[:3].isnull().all()


def test_a_part_may_have_its_axes_in_any_order(store: Store) -> None:
    whole = effects()
    part = whole.transpose("role", "layer", "pair")
    store.write(slice(None), part.drop_vars(["group", "pair"]))
    xr.testing.assert_identical(store.load(), whole)
    assert part.kl.dims == ("role", "layer", "pair")


def test_no_pairs_at_all(tmp_path: Path) -> None:
    none = effects(n_pairs=3).isel(pair=slice(0))
    with Store.open(tmp_path / "s", none, {}) as store:
        store.write([], none)
        assert store.done.shape == (0,)
        assert store.load().kl.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        ({"late": (("layer", "pair"), np.zeros((2, 5)))}, {}, ValueError, "dims \\('layer', 'pair'\\); `pair` must be"),
        ({"done": ("pair", np.zeros(5))}, {}, ValueError, "'done': a store has one of its own"),
        ({"wave": ("pair", np.zeros(5, complex))}, {}, TypeError, "'wave': a store cannot hold complex128"),
        ({}, {"a": {"b": [1, {3}]}}, TypeError, "settings.a.b\\[1\\] is a set, which JSON cannot hold"),
        ({}, {"a": {1: 2}}, TypeError, "settings.a: the key 1 is a int; keys are strings"),
        ({}, {"path": Path("x")}, TypeError, "settings.path is a PosixPath"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Store.open(tmp_path / "s", effects().assign(change), settings)
    assert list(tmp_path.iterdir()) == []


def test_coordinates_and_attributes_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    odd = effects().assign_coords(group=("pair", np.array(["a", 1, "b", "c", "d"], object)))
    with pytest.raises(TypeError, match="'group' holds 1, a int; a store holds text or numbers"):
        Store.open(tmp_path / "s", odd, {})
    with pytest.raises(TypeError, match="attribute.when is a Timestamp"):
        Store.open(tmp_path / "s", effects().assign_attrs(when=pd.Timestamp(0)), {})
    with pytest.raises(ValueError, match="a sweep has a dimension `pair`; this template has layer"):
        Store.open(tmp_path / "s", xr.Dataset(coords={"layer": [1]}), {})
    assert list(tmp_path.iterdir()) == []
