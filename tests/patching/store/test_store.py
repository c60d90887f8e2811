"""Stores: what is written is loaded, whenever the writer was killed."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import killed_sweep
from made_stores import SETTINGS, effects, empty
from notice_lens.patching.store.format import read
from notice_lens.patching.store.store import Store


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    whole = effects()
    with Store.open(tmp_path / "deep" / "sweep.zarr", empty(whole), SETTINGS) as store:
        for pairs in (slice(3, None), [2, 0], np.array([1])):
            rows = range(5)[pairs] if isinstance(pairs, slice) else pairs
            store.write(pairs, whole.isel(pair=list(rows)))
        loaded = store.load()
    assert store.done.all()
    xr.testing.assert_identical(loaded, whole)
    assert {name: (v.dtype, v.dims) for name, v in loaded.variables.items()} == {
        name: (v.dtype, v.dims) for name, v in whole.variables.items()
    }
    assert list(loaded.coords) == list(whole.coords)
    assert repr(loaded.attrs) == repr(whole.attrs)


def test_xarray_opens_it(tmp_path: Path) -> None:
    whole = effects().drop_vars("group")  # xarray knows no missing text
    with Store.open(tmp_path / "s", empty(whole), SETTINGS) as store:
        store.write(slice(None), whole)
    with xr.open_zarr(tmp_path / "s", consolidated=False, chunks=None) as opened:
        found = opened.load().drop_vars("done")
    assert set(found.coords) == set(whole.coords)
    xr.testing.assert_equal(found.drop_vars("contrast"), whole.drop_vars("contrast"))
    assert found.contrast.values.tolist() == whole.contrast.values.tolist()


def test_pairs_that_are_not_done_are_empty(tmp_path: Path) -> None:
    whole = effects()
    with Store.open(tmp_path / "s", whole, SETTINGS) as store:
        assert not store.done.any()
        store.write([1], whole.isel(pair=[1]))
        assert store.done.tolist() == [False, True, False, False, False]
        loaded = read(tmp_path / "s")
        assert repr(store).endswith("1 of 5 pairs done)")
    others = loaded.isel(pair=[0, 2, 3, 4])
    assert others.kl.isnull().all()
    assert not others.below_floor.any()
    assert not others.n_tokens.any()
    assert set(others.contrast.values) == {""}
    xr.testing.assert_identical(loaded.isel(pair=[1]), whole.isel(pair=[1]))


def test_a_huge_sweep_takes_no_room_before_it_is_written(tmp_path: Path) -> None:
    shape = (3_000_000, 1000, 1000, 100)
    huge = xr.Dataset({"kl": (("pair", "layer", "head", "role"), np.broadcast_to(np.float32(0), shape))})
    Store.open(tmp_path / "s", huge, {}).close()
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 20_000


def test_going_on(tmp_path: Path) -> None:
    whole = effects(n_pairs=70, seed=1)  # more than one chunk
    for start in range(0, 70, 9):
        with Store.open(tmp_path / "s", empty(whole), SETTINGS) as store:
            assert store.done.tolist() == [index < start for index in range(70)]
            store.write(slice(start, start + 9), whole.isel(pair=slice(start, start + 9)))
    xr.testing.assert_identical(read(tmp_path / "s"), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_columns_of_pandas_are_coordinates(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b", None], "n": [1, 2, 3]})
    whole = xr.Dataset({"kl": ("pair", np.zeros(3))}, coords={"id": ("pair", table["id"]), "n": ("pair", table["n"])})
    for _ in range(2):
        with Store.open(tmp_path / "s", whole, {}) as store:
            loaded = store.load()
    assert loaded.id.values.tolist()[:2] == ["a", "b"]
    assert pd.isna(loaded.id.values[2])
    assert loaded.n.values.tolist() == [1, 2, 3]


# Killed


def check_killed(folder: Path, moments: list[list[float]]) -> None:
    """Runs sweeps in a process of its own, with warnings as errors; checks what is left in the end."""
    command = [sys.executable, "-W", "error", killed_sweep.__file__, str(folder), json.dumps(moments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (ended.stderr, ended.returncode) == ("", 0)
    for number, runs in enumerate(json.loads(ended.stdout)):
        assert runs == [signal.SIGKILL] * (len(runs) - 1) + [0]
        place = folder / str(number)
        xr.testing.assert_identical(read(place / "sweep.zarr"), read(folder / "unbroken" / "sweep.zarr"))
        xr.testing.assert_identical(read(place / "sweep.zarr"), killed_sweep.result())
        assert sorted(path.name for path in place.iterdir()) == ["sweep.log", "sweep.zarr"]
        check_log(place / "sweep.log")


def check_log(log: Path) -> None:
    """What is done stays done, and is not done again."""
    done: set[int] = set()
    for line in log.read_text().splitlines():
        for what, pairs in json.loads(line).items():
            assert what == "begun" or done <= set(pairs)
            assert what == "done" or not done & set(pairs)
            done |= set(pairs) if what == "done" else set()


def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    g = random.Random(0)
    at_ten_moments: list[list[float]] = [[g.random(), 0] for _ in range(10)]
    # Going on takes some 15 moments of its own, so a run that is killed after 25 has done something.
    ten_times = [5, 60, 30, 100, 20, 25, 2, 16, 24, 29, 0]
    check_killed(tmp_path, [*at_ten_moments, ten_times])


@pytest.mark.parametrize(("first", "second"), [(2, 2), pytest.param(9, 5, marks=pytest.mark.large)])
def test_a_creation_killed_at_any_moment_is_begun_anew(tmp_path: Path, first: int, second: int) -> None:
    # Half of a creation, then the removal of that half is killed too.
    moments = [[moment, 0] for moment in range(first, 72, 14)]
    check_killed(tmp_path, moments + [[50, moment, 0] for moment in range(second, 26, 6)])


def test_a_pair_killed_between_two_variables_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, write, written = effects(), zarr.Array.__setitem__, []

    def dies(array: zarr.Array, where: Any, values: Any) -> None:
        if array.basename == "below_floor":
            raise KeyboardInterrupt
        written.append(array.basename)
        write(array, where, values)

    with Store.open(tmp_path / "s", empty(whole), SETTINGS) as store:
        store.write([0], whole.isel(pair=[0]))
        monkeypatch.setattr(zarr.Array, "__setitem__", dies)
        with pytest.raises(KeyboardInterrupt):
            store.write([1, 2], whole.isel(pair=[1, 2]))
        monkeypatch.undo()
        assert written == ["kl", "change"]
        assert store.done.tolist() == [True, False, False, False, False]
    with Store.open(tmp_path / "s", empty(whole), SETTINGS) as store:
        assert store.done.tolist() == [True, False, False, False, False]
        store.write(slice(1, None), whole.isel(pair=slice(1, None)))
        xr.testing.assert_identical(store.load(), whole)


def test_the_done_flag_is_the_last_thing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, write, written = effects(), zarr.Array.__setitem__, []

    def noted(array: zarr.Array, where: Any, values: Any) -> None:
        written.append(array.basename)
        write(array, where, values)

    with Store.open(tmp_path / "s", whole, SETTINGS) as store:
        monkeypatch.setattr(zarr.Array, "__setitem__", noted)
        store.write([0, 1, 3], whole.isel(pair=[0, 1, 3]))
    assert written == [*(name for name in whole.data_vars for _ in range(2)), "done"]
