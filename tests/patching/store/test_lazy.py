"""Parts gathered without reading their numbers into memory: the same numbers, checked all the same."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from notice_lens import HookedBLIP, circuits, patching
from notice_lens.pairs import mini_world


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts of a sweep of thirty pairs."""
    folder = tmp_path_factory.mktemp("lazy") / "parts.zarr"
    model, pairs = HookedBLIP.mini(), mini_world("states", n=30, seed=5)
    for k in range(3):
        patching.patch_heads(model, pairs, positions=["correct"], progress=False, store=folder, part=(k, 3))
    return folder


def test_numbers_stay_on_disk_and_are_the_same(store) -> None:
    lazy, read = patching.gather(store, lazy=True), patching.gather(store)
    for name in ("logit_diff_change", "patching_effect", "patching_effect_mismatched", "carried_share", "below_floor"):
        assert lazy[name].chunks is not None, name
    assert lazy["logit_diff_change"].chunksizes["pair"] == (10, 10, 10), "a block is never larger than a part"
    xr.testing.assert_identical(lazy.compute(), read)


@pytest.mark.parametrize("metric", ["patching_effect", "carried_share", "logit_diff_change"])
def test_means_are_computed_a_block_at_a_time(store, metric) -> None:
    """Sums over blocks round otherwise than one sum, in the last digits of 64 bits."""
    lazy, read = patching.gather(store, lazy=True), patching.gather(store)
    for by in (None, "group"):
        found, whole = patching.aggregate(lazy, metric, by=by), patching.aggregate(read, metric, by=by)
        assert found.chunks is None
        assert found["n"].chunks is None
        np.testing.assert_array_equal(found["n"].values, whole["n"].values)
        np.testing.assert_allclose(found.values, whole.values, rtol=1e-12)
    assert lazy[metric].chunks is not None, "the result itself stays on disk"


@pytest.mark.filterwarnings("ignore:.*clusters")
def test_the_heads_that_matter_are_found_on_it(store) -> None:
    xr.testing.assert_identical(
        circuits.important_heads(patching.gather(store, lazy=True)), circuits.important_heads(patching.gather(store))
    )


def test_damage_is_named_before_anything_is_computed(store, tmp_path) -> None:
    shutil.copytree(store, tmp_path / "copy")
    chunk = tmp_path / "copy" / "part-1-of-3.zarr" / "logit_diff_change" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-1-of-3.zarr: 'logit_diff_change' cannot be read at pairs"):
        patching.gather(tmp_path / "copy", lazy=True)


def test_without_dask_it_says_what_to_install(store, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"a lazy read needs dask: pip install 'notice-lens\[dask\]'"):
        patching.gather(store, lazy=True)
