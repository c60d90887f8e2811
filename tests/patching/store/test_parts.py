"""Parts of a sweep that are computed apart, gathered: as one call, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from notice_lens import HookedBLIP, HookedVLM, MinimalPairs
from notice_lens.pairs import Noise, mini_world
from notice_lens.patching import attribute, gather, patch_heads, screen, sweep
from notice_lens.patching.store.format import read
from notice_lens.patching.store.parts import pairs_of_part

MEMORY = 200_000_000


@pytest.fixture(scope="module")
def llava() -> HookedVLM:
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def things() -> MinimalPairs:
    return mini_world("states", n=7, seed=5, world="pictures")


def swept(model: Any, pairs: MinimalPairs, store: Path | None = None, part: Any = None, **options: Any) -> xr.Dataset:
    given = {"positions": ["last"], "progress": False, "memory": MEMORY, **options}
    return patch_heads(model, pairs, store=store, part=part, **given)


def same(parts: xr.Dataset, whole: xr.Dataset) -> None:
    """Both to the last bit, attributes included, but for how the sweep was cut up."""
    cut = ("rows_at_a_time", "pairs_at_a_time")
    xr.testing.assert_identical(parts, whole.assign_attrs({}).drop_attrs().assign_attrs(
        {name: value for name, value in whole.attrs.items() if name not in cut}
    ))  # fmt: skip


def test_every_pair_is_in_one_part_and_parts_are_of_one_size() -> None:
    for n_pairs in (3, 8, 100):
        for n in range(1, n_pairs + 1):
            parts = [pairs_of_part(n_pairs, (k, n)) for k in range(n)]
            assert [number for one in parts for number in one] == list(range(n_pairs))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_of_a_chat_model_are_one_call_to_the_last_bit(llava, things, tmp_path) -> None:
    whole = swept(llava, things, tmp_path / "whole.zarr")
    for k in (2, 0, 1):
        own = swept(llava, things, tmp_path / "parts.zarr", (k, 3))
        assert own["pair"].values.tolist() == things["id"][slice(*[(0, 2), (2, 4), (4, 7)][k])]
    same(gather(tmp_path / "parts.zarr"), whole)


@pytest.mark.parametrize(
    "options",
    [{"corruption": Noise(samples=2, seed=3)}, {"source": "mean"}, {"source": "resample"}],
    ids=["noise", "mean", "resample"],
)
def test_what_all_pairs_decide_is_decided_by_all(llava, things, tmp_path, options) -> None:
    """The amount of the noise, means and examples are those of the whole sweep, and not of a part's pairs."""
    given = {"controls": (), **options}
    for k in range(3):
        swept(llava, things, tmp_path / "parts.zarr", (k, 3), **given)
    same(gather(tmp_path / "parts.zarr"), swept(llava, things, tmp_path / "whole.zarr", **given))


def test_parts_of_blip_are_one_call(mini: HookedBLIP, tmp_path) -> None:
    """Pairs go through BLIP together, and products of other sizes round differently in the last digits."""
    pairs = mini_world("scenes", n=9, seed=1)
    options = {"positions": "roles", "corruption": "text"}
    for k in range(4):
        swept(mini, pairs, tmp_path / "parts.zarr", (k, 4), **options)
    found, whole = gather(tmp_path / "parts.zarr"), swept(mini, pairs, tmp_path / "whole.zarr", **options)
    assert found["role"].values.tolist() == whole["role"].values.tolist(), "roles are those of all pairs"
    for name in set(whole.data_vars) - {"noise_floor", "below_floor"}:  # of rounding alone
        np.testing.assert_allclose(found[name].values, whole[name].values, atol=2e-4, rtol=1e-4, err_msg=str(name))


def test_a_part_that_was_killed_resumes(llava, things, tmp_path, batches) -> None:
    store = tmp_path / "parts.zarr"
    batches.stop = lambda pairs: pairs[0] == 6
    swept(llava, things, store, (0, 2))
    with pytest.raises(KeyboardInterrupt):
        swept(llava, things, store, (1, 2))
    with pytest.raises(ValueError, match=r"part-1-of-2.zarr is not complete: 3 of 4 pairs are done; run it again"):
        gather(store)
    batches.begun.clear()
    batches.go_on()
    swept(llava, things, store, (1, 2))
    assert batches.begun == [[6]]
    assert np.isfinite(read(store / "part-1-of-2.zarr")["logit_diff_change"].values).all()
    assert gather(store).sizes["pair"] == 7


def test_the_call_without_a_part_gathers_what_is_its_own(llava, things, tmp_path, batches) -> None:
    store = tmp_path / "parts.zarr"
    for k in range(2):
        swept(llava, things, store, (k, 2))
    batches.refuse("all pairs are done")
    xr.testing.assert_identical(swept(llava, things, store), gather(store))
    with pytest.raises(
        ValueError, match="has the parts of another sweep: direction is 'denoise' there and 'noise' here"
    ):
        swept(llava, things, store, direction="noise")


def test_parts_of_another_metric_of_the_same_name_are_not_gathered(llava, things, tmp_path) -> None:
    store = tmp_path / "parts.zarr"
    for k in range(2):
        swept(llava, things, store, (k, 2), metrics={"score": lambda logits: logits[:, 0, 3]})
    with pytest.raises(ValueError, match=r"has the parts of another sweep: metric_code\.score"):
        swept(llava, things, store, metrics={"score": lambda logits: logits[:, 0, 4]})
    assert gather(store)["score"].notnull().all()


def test_attribution_has_parts_at_every_site(llava, things, tmp_path) -> None:
    sites = ["language.attn.hook_z"]
    options = {"progress": False, "memory": MEMORY}
    whole = attribute(llava, things, sites, store=tmp_path / "whole", **options)
    for k in range(2):
        attribute(llava, things, sites, store=tmp_path / "parts", part=(k, 2), **options)
    (name,) = whole.children
    found = gather(tmp_path / "parts" / name)
    np.testing.assert_array_equal(found["logit_diff_change"].values, whole[name]["logit_diff_change"].values)
    again = attribute(llava, things, sites, store=tmp_path / "parts", **options)
    xr.testing.assert_identical(again[name].to_dataset(), found)


def test_what_does_not_belong_together_is_not_gathered(llava, things, tmp_path) -> None:
    store = tmp_path / "parts.zarr"
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        gather(store)
    swept(llava, things, store, (0, 3))
    with pytest.raises(FileNotFoundError, match=r"lacks 2 of 3 parts: 1, 2; run part=\(1, 3\)"):
        gather(store)
    swept(llava, things, store, (1, 3), direction="noise")
    swept(llava, things, store, (2, 3))
    with pytest.raises(ValueError, match=r"part-1-of-3.zarr is a part of another sweep than .*direction is 'denoise'"):
        gather(store)
    swept(llava, things, store, (0, 2))
    with pytest.raises(ValueError, match="has parts of 2 and of 3"):
        gather(store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected part-0-of-8.zarr"):
        gather(tmp_path / "empty")
    swept(llava, things[:2], tmp_path / "whole.zarr")
    with pytest.raises(ValueError, match="is the store of a whole sweep, and not of parts"):
        gather(tmp_path / "whole.zarr")
    with pytest.raises(FileExistsError, match="parts need a folder of their own"):
        swept(llava, things, tmp_path / "whole.zarr", (0, 2))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((2, 2), r"part=\(2, 2\): expected \(k, n\), part k of n, counted from 0: \(0, 8\) to \(7, 8\)"),
        ((-1, 2), "counted from 0"), ((0, 2, 3), "counted from 0"), (3, "counted from 0"),
        ((True, 2), "counted from 0"), ((0, 8), "there are 7 pairs; expected at most as many parts"),
    ],
)  # fmt: skip
def test_a_part_that_there_is_not(llava, things, tmp_path, part, message) -> None:
    with pytest.raises(ValueError, match=message):
        swept(llava, things, tmp_path / "parts.zarr", part)


def test_parts_need_a_store_and_verbs_that_look_at_all_pairs_take_none(llava, things, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"part=\(0, 2\) needs store"):
        sweep(llava, things, "language.attn.hook_z", part=(0, 2))
    with pytest.raises(TypeError, match="part is not an option of screen"):
        screen(llava, things, "language.attn.hook_z", store=tmp_path / "screened", part=(0, 2))
