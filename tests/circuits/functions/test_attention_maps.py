"""Attention maps against runs of single pairs, worked out by hand."""

import numpy as np
import pytest
import torch
import xarray as xr

from conftest import make_pair
from made_up import made_up_pairs
from notice_lens import circuits
from notice_lens.circuits.functions.maps import relative_attention
from notice_lens.models import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("scenes", 4, seed=1)


@pytest.mark.parametrize("image", ["clean", "corrupt"])
def test_maps_are_those_of_each_pair_alone(mini: HookedBLIP, pairs: MinimalPairs, image: str):
    maps = circuits.attention_maps(mini, pairs, batch_size=3, image=image, progress=False)
    assert maps.weight.dims == ("maps", "pair", "role", "layer", "head", "patch")
    assert maps.attrs["grid"] == [8, 8]
    roles, weight, aside = maps.role.values.tolist(), maps.weight.values, maps.elsewhere.values
    assert maps["maps"].values.tolist() == ["attention", "value_weighted"]
    for number, spans in enumerate(pairs.token_spans(mini)):
        with torch.no_grad():
            _, cache = mini.run_with_cache(pairs[number : number + 1].prepare(mini, image=image))
        norm = cache["vision.blocks.3.hook_resid_post"][0, 1:].norm(dim=-1)
        assert maps.norm[number].values == pytest.approx(norm.numpy(), rel=1e-5)
        missing = [place for place, role in enumerate(roles) if role not in spans]
        assert np.isnan(weight[:, number, missing]).all()
        assert np.isnan(aside[:, number, missing]).all()
        for layer in range(3):
            leaf = f"text.blocks.{layer}.cross_attn"
            value, W_O = cache[f"{leaf}.hook_v"][0], mini.attention_of(f"{leaf}.hook_v").W_O
            norms = torch.stack([(value[:, head] @ W_O[head]).norm(dim=-1) for head in range(8)]).detach()
            for role, (first, last) in spans.items():
                pattern = cache[f"{leaf}.hook_pattern"][0, :, first:last].mean(1)
                for kind, expected in enumerate((pattern, pattern * norms)):
                    place = (kind, number, roles.index(role), layer)
                    got = np.concatenate([aside[place][:, None], weight[place]], axis=-1)
                    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_a_role_of_several_tokens_is_its_mean():
    model = make_pair("caption").model
    pairs = made_up_pairs("caption").with_column("roles", [[{"role": "all", "start": 0, "end": 12}]] * 3)
    maps = circuits.attention_maps(model, pairs, "decoder.cross_attn", roles="all", maps="attention", progress=False)
    first, last = pairs.token_spans(model)[1]["all"]
    assert last - first == 3
    _, cache = model.run_with_cache(pairs[1:2].prepare(model))
    layer = model.stack("decoder").cfg.n_layers - 1
    expected = cache[f"decoder.blocks.{layer}.cross_attn.hook_pattern"][0, :, first:last].mean(1)
    got = maps.sel(maps="attention", role="all", layer=layer).isel(pair=1)
    assert got.weight.values == pytest.approx(expected[:, 1:].detach().numpy(), rel=1e-4, abs=1e-6)
    total = maps.weight.sum("patch") + maps.elsewhere
    assert total.values == pytest.approx(1, abs=1e-5)


def test_relative_attention_keeps_names_and_sums_to_zero(mini: HookedBLIP, pairs: MinimalPairs):
    maps = circuits.attention_maps(mini, pairs, roles="correct", dtype="float64", progress=False)
    relative = relative_attention(maps)
    assert relative.dims == maps.weight.dims
    xr.testing.assert_equal(relative, relative_attention(maps.weight))
    assert float(abs(relative.mean(["layer", "head"])).max()) < 1e-12


@pytest.mark.usefixtures("unchecked")
def test_messages(mini: HookedBLIP, pairs: MinimalPairs):
    with pytest.raises(ValueError, match="no dtype of maps 'int8'"):
        circuits.attention_maps(mini, pairs, dtype="int8")
    with pytest.raises(ValueError, match="no kinds of map given"):
        circuits.attention_maps(mini, pairs, maps=[])
    with pytest.raises(ValueError, match="pairs have no donor_image|no image 'clena'"):
        circuits.attention_maps(mini, pairs, image="clena", progress=False)
