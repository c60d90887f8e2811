"""Attention maps of runs, kept in 8 bits, and their overlays."""

import numpy as np
import pytest
import xarray as xr

from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.report.maps import MAP_STEPS, maps_of_runs, packed, unpacked


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 5)


@pytest.fixture(scope="module")
def maps(mini, pairs) -> xr.DataArray:
    return maps_of_runs(mini, pairs, runs=("clean", "image", "text"), batch_size=2, progress=False)


def test_maps_are_the_patterns_of_each_run(mini, pairs, maps):
    for run, (image, prompt) in {
        "clean": ("clean", "clean"),
        "image": ("corrupt", "clean"),
        "text": ("clean", "corrupt"),
    }.items():
        one = pairs[3]
        inputs = mini.prepare(getattr(one, f"{image}_image"), getattr(one, f"{prompt}_prompt"))
        _, cache = mini.run_with_cache(inputs)
        first, last = pairs.token_spans(mini)[3]["noun"]
        pattern = cache["text.blocks.2.cross_attn.hook_pattern"][0, 5, first:last].mean(0).detach().numpy()
        found = maps.sel(run=run, role="noun", layer=2, head=5).isel(pair=3)
        assert np.allclose(found, pattern[1:], atol=1e-6)
        assert float(found.elsewhere) == pytest.approx(float(pattern[0]), abs=1e-6)
    assert np.allclose(maps.sum("patch") + maps.elsewhere, 1, atol=1e-5)


def test_a_pair_without_the_run_or_the_role_has_no_map(mini, pairs):
    columns = ("id", "task", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
    row = {column: pairs[0][column] for column in columns} | {"roles": {"noun": list(pairs[0].roles["noun"])}}
    few = MinimalPairs.from_rows([row], progress=False)
    found = maps_of_runs(mini, few, runs=("clean", "text"), progress=False)
    assert found.sel(run="text").isnull().all()
    assert found.sel(run="clean").notnull().all()
    with pytest.raises(ValueError, match="no run 'texts'; did you mean 'text'"):
        maps_of_runs(mini, few, runs=("texts",), progress=False)
    with pytest.raises(ValueError, match="no role of these pairs 'nuon'; did you mean 'noun'"):
        maps_of_runs(mini, few, roles=["nuon"], progress=False)


def test_eight_bits_are_close_and_keep_what_is_missing(maps):
    holed = maps.copy()
    holed[0, 1] = np.nan
    kept = packed(holed)
    assert kept.attention.dtype == np.uint8
    assert int(kept.attention.max()) == MAP_STEPS
    back = unpacked(kept)
    assert (abs(back - holed).max("patch") <= holed.max("patch") / 500).where(holed.max("patch").notnull(), True).all()
    assert back[0, 1].isnull().all()
    assert np.allclose(back.elsewhere[1:], holed.elsewhere[1:])
    assert back.dims == maps.dims


def test_overlays_lie_on_both_images_with_the_class_token_apart(pairs, maps):
    figure = viz.attention(maps.sel(run=["clean", "image"]), pairs, 1, layer=2, head=2, role="noun")
    overlays = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len([trace for trace in figure.data if trace.type == "image"]) == len(overlays) == 2
    for overlay, run in zip(overlays, ("clean", "image"), strict=True):
        expected = maps.sel(run=run, role="noun", layer=2, head=2).isel(pair=1)
        assert np.allclose(overlay.z, expected.values.reshape(8, 8))
        assert (overlay.x[0], overlay.x[-1]) == (3.5, 59.5), "patches of 8 pixels, centred"
    said = [note.text for note in figure.layout.annotations]
    token = float(maps.sel(run="clean", role="noun", layer=2, head=2).elsewhere.isel(pair=1))
    assert f"class token {token:.1%}" in said[0]
    assert pairs[1].correct_answer in said[0]
    assert pairs[1].incorrect_answer in said[1]
    assert figure.layout.coloraxis.cmin == 0
    assert pairs[1].clean_prompt in figure.layout.title.subtitle.text


def test_relative_attention_sums_to_zero_over_heads(pairs, maps):
    drawn = [
        np.array(viz.attention(maps.sel(run=["clean"]), pairs, 0, layer=layer, head=head, relative=True).data[1].z)
        for layer in range(3)
        for head in range(8)
    ]
    assert np.allclose(sum(drawn), 0, atol=1e-6)
    figure = viz.attention(maps.sel(run=["clean"]), pairs, 0, layer=0, head=0, relative=True)
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert "\N{MINUS SIGN}" in np.array(figure.data[1].text)


def test_maps_in_their_other_forms_are_the_same(pairs, maps):
    clean = maps.sel(run="clean", drop=True)
    expected = viz.attention(maps.sel(run=["clean"]), pairs, 2, layer=1, head=0).data[1].z
    kinds = xr.concat([clean.drop_vars("elsewhere"), clean.drop_vars("elsewhere") * 9], "maps").assign_coords(
        maps=["attention", "value_weighted"]
    )
    token = xr.concat([clean.elsewhere.drop_vars("elsewhere")] * 2, "maps")
    dataset = xr.Dataset({"weight": kinds, "elsewhere": token}, attrs={"grid": [8, 8]})
    for form in (clean, dataset, {"clean": dataset}):
        assert np.allclose(viz.attention(form, pairs, 2, layer=1, head=0).data[1].z, expected)
    both = viz.attention({"clean": clean, "image": clean}, pairs, pairs[2].id, layer=1, head=0)
    assert np.allclose(both.data[3].z, expected)


def test_messages(pairs, maps):
    with pytest.raises(ValueError, match="layer 3 asked for; this result has the layers 0 to 2"):
        viz.attention(maps, pairs, 0, layer=3, head=0)
    with pytest.raises(ValueError, match="no role 'corect'; did you mean 'correct'"):
        viz.attention(maps, pairs, 0, layer=0, head=0, role="corect")
    with pytest.raises(ValueError, match="pair 5 asked for; there are 5, from 0 on"):
        viz.attention(maps, pairs, 5, layer=0, head=0)
    with pytest.raises(ValueError, match="no pair 'test-states-0-x'; did you mean"):
        viz.attention(maps, pairs, "test-states-0-x", layer=0, head=0)
    with pytest.raises(ValueError, match="has no attention map at the role 'noun'"):
        viz.attention(maps * np.nan, pairs, 0, layer=0, head=0, role="noun")
    with pytest.raises(TypeError, match="takes attention maps, an array with a dimension `patch`; got Dataset"):
        viz.attention(packed(maps), pairs, 0, layer=0, head=0)
    with pytest.raises(ValueError, match="no run 'corrupt'"):
        viz.attention({"corrupt": maps}, pairs, 0, layer=0, head=0)
    with pytest.raises(ValueError, match="63 patches do not form a square"):
        viz.attention(maps.isel(patch=slice(1, None)).drop_attrs(), pairs, 0, layer=0, head=0)
