"""Figures of modules, layers and paths."""

import numpy as np
import pytest
import xarray as xr

import made_results as made
from notice_lens import patching, viz
from notice_lens.pairs import mini_world


@pytest.fixture(scope="module")
def modules(mini) -> xr.Dataset:
    return patching.patch_modules(mini, mini_world("states", 3), "text", corruption="image", progress=False)


def test_a_panel_for_each_module_on_one_scale(modules):
    figure = viz.modules(modules)
    mean = patching.aggregate(modules)
    assert [note.text for note in figure.layout.annotations] == [
        "attention",
        "cross-attention",
        "MLP",
        "residual stream",
    ]
    for panel, site in enumerate(modules["site"].values):
        assert np.allclose(figure.data[panel].z, mean.sel(site=site).transpose("role", "layer"))
    assert list(figure.data[0].y) == modules["role"].values.tolist()
    assert figure.layout.coloraxis.cmax == pytest.approx(float(abs(mean).max()))


def test_one_module_alone(modules):
    figure = viz.modules(modules, site="text.hook_mlp_out", metric="kl")
    assert len(figure.data) == 1
    assert np.allclose(
        figure.data[0].z, modules.kl.sel(site="text.hook_mlp_out").mean("pair").transpose("role", "layer")
    )
    with pytest.raises(ValueError, match="no site 'text.hook_mlp'; did you mean 'text.hook_mlp_out'"):
        viz.modules(modules, site="text.hook_mlp")


def test_shares_by_layer_have_intervals_and_a_centre():
    profile = made.profile(6)
    figure = viz.profile(profile)
    bar = figure.data[0]
    assert np.allclose(bar.y, profile.share)
    assert np.allclose(bar.y + bar.error_y.array, profile.high)
    assert np.allclose(bar.y - bar.error_y.arrayminus, profile.low)
    assert "layer 1.10 [0.90, 1.30]" in figure.layout.title.subtitle.text
    assert [shape.x0 for shape in figure.layout.shapes] == [0.9, 1.1]
    several = viz.profile({"states": profile, "faces": profile})
    assert [trace.name for trace in several.data] == ["states", "faces"]
    assert len({trace.marker.pattern.shape for trace in several.data}) == 2, "to be told apart without colour"


def test_messages_of_profile():
    with pytest.raises(ValueError, match="draws `share` by layer; the result of 'a' has effect"):
        viz.profile({"a": made.important()[["effect"]]})
    with pytest.raises(ValueError, match="got no results"):
        viz.profile({})
    with pytest.raises(TypeError, match="takes a result of circuits.layer_profile; got int"):
        viz.profile(3)


def test_paths_from_sender_to_receiver():
    paths = made.paths()
    figure = viz.paths(paths)
    assert (
        list(figure.data[0].y)
        == list(figure.data[0].x)
        == [f"L{layer}.H{head}" for layer in (0, 1) for head in (0, 1, 2)]
    )
    assert np.allclose(figure.data[0].z, paths.patching_effect.values.reshape(6, 6))
    assert "<b>L0.H1 → L1.H0</b>" in figure.data[0].customdata[1][3]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("receiver", "sender")


def test_only_the_strongest_paths_where_there_are_many():
    paths = made.paths()
    paths.patching_effect[:] = 0.0
    paths.patching_effect[1, 1, 0, 2] = -0.5
    paths.patching_effect[0, 2, 1, 0] = 0.4
    figure = viz.paths(paths, top=2)
    assert list(figure.data[0].y) == ["L0.H2", "L1.H1"]
    assert list(figure.data[0].x) == ["L0.H2", "L1.H0"]
    assert "the 2 senders and 2 receivers" in figure.layout.title.subtitle.text


def test_senders_of_one_receiver():
    paths = made.paths()
    figure = viz.paths(paths, receiver_layer=1, receiver_head=2)
    assert np.allclose(figure.data[0].z, paths.patching_effect[:, :, 1, 2])
    with pytest.raises(ValueError, match="receiver_head 3 asked for; this result has the receiver_heads 0 to 2"):
        viz.paths(paths, receiver_layer=1, receiver_head=3)
    with pytest.raises(ValueError, match="this result has no dimension 'sender_layer'"):
        viz.paths(made.important())
