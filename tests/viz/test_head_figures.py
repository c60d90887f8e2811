"""Figures of heads: the numbers, the frames, what is said on hover, and what is said to wrong results."""

import numpy as np
import plotly.io
import pytest
import xarray as xr

import made_results as made
from notice_lens import patching, viz
from notice_lens.pairs import mini_world


@pytest.fixture(scope="module")
def effects() -> xr.Dataset:
    return made.swept(mini_world("states", 6))


def frames(figure, dash: str) -> set[tuple[int, int]]:
    """Row and column of each frame of a kind."""
    found = [shape for shape in figure.layout.shapes if shape.line.dash == dash]
    return {(round((shape.y0 + shape.y1) / 2), round((shape.x0 + shape.x1) / 2)) for shape in found}


def test_effects_are_drawn_as_ratios_of_sums_at_the_correct_role(effects):
    figure = viz.heads(effects)
    expected = effects.logit_diff_change.sum("pair") / (effects.logit_diff_clean - effects.logit_diff_corrupt).sum()
    assert np.allclose(figure.data[0].z, expected.sel(role="correct"))
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax == pytest.approx(-abs(expected.sel(role="correct")).max())
    assert "restored" in axis.colorbar.title.text
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")
    assert "correct" in figure.layout.title.text
    other = viz.heads(effects, role="[CLS]", metric="logit_diff_change")
    assert np.allclose(other.data[0].z, effects.logit_diff_change.sel(role="[CLS]").mean("pair"))
    assert "logit" in other.layout.coloraxis.colorbar.title.text


def test_important_heads_are_framed_by_their_rules():
    important = made.important()
    important["significant"][:] = False
    important["significant"][1, 2] = True
    important["two_sigma"][:] = False
    important["two_sigma"][1, 2] = important["two_sigma"][2, 5] = True
    figure = viz.heads(important)
    assert frames(figure, "solid") == {(1, 2)}
    assert frames(figure, "dot") == {(2, 5)}
    hover = figure.data[0].customdata[1][2]
    assert "+31.0%" in hover
    assert "[+25.1%, +36.9%]" in hover
    assert "mismatched" in hover
    assert "q = 0.0003" in hover
    assert "states, image corruption" in figure.layout.title.text


def test_a_carried_share_is_not_called_a_share_of_the_gap(effects):
    carried = made.important()
    figure = viz.heads(carried)
    bar = figure.layout.coloraxis.colorbar.title.text.replace("<br>", " ")
    first, interval, gap, matched, mismatched, *_ = figure.data[0].customdata[1][2].split("<br>")[1:]
    assert bar == "share of what the donor leaves"
    assert first == f"+31.0% {bar}"
    assert interval.endswith("of what the donor leaves")
    assert gap == "+21.7% [+18.8%, +24.6%] of the gap"
    assert matched.endswith("] of the gap")
    assert mismatched.endswith("] of the gap")
    of_gap = viz.heads(carried, metric="effect_of_gap").layout.coloraxis.colorbar.title.text
    alone = viz.heads(made.important(share_of="the gap"))
    for title in (of_gap, alone.layout.coloraxis.colorbar.title.text):
        assert title.replace("<br>", " ") == "share of the gap restored"
    assert "donor" not in alone.data[0].customdata[1][2]
    swept = viz.heads(effects, important=carried).data[0].customdata[1][2].split("<br>")
    assert swept[1].endswith("share of the gap restored")
    assert swept[2].endswith("of what the donor leaves")


def test_each_condition_says_what_its_effects_are_shares_of():
    """With a text corruption there is no mismatched image: it is a share of the gap beside those that are not."""
    conditions = {"states, image": made.important(), "states, text": made.important(share_of="the gap")}
    shares = [one.attrs["share_of"] for one in conditions.values()]
    joined = made.universal(conditions).assign_coords(share_of=("condition", np.array(shares, object)))
    figure = viz.universal(joined)
    assert "of what the donor leaves" in figure.data[0].customdata[0][0]
    assert "share of the gap restored" in figure.data[0].customdata[0][1]
    bar = figure.layout.coloraxis.colorbar.title.text.replace("<br>", " ")
    assert bar == "share of the gap, or of what the donor leaves"
    one = viz.universal(joined.sel(condition=["states, image"])).layout.coloraxis.colorbar.title.text
    assert one.replace("<br>", " ") == "share of what the donor leaves"


def test_statistics_go_with_effects_by_label_not_by_place(effects):
    important = made.important().isel(layer=[2, 1, 0])
    assert frames(viz.heads(effects, important=important), "solid") == {(1, 2), (2, 5)}


def test_the_sign_can_be_read_without_colour():
    few = viz.heads(made.important())
    assert few.data[0].text[2][5] == "\N{MINUS SIGN}18"
    assert few.data[0].text[1][2] == "31"
    many = viz.heads(made.important(24, 24)).data[0].text
    assert many[1][2] == ""
    assert many[23][5] == "\N{MINUS SIGN}"


def test_an_array_and_nothing_at_all():
    figure = viz.heads(xr.DataArray(np.zeros((2, 2)), dims=("layer", "head")))
    assert figure.layout.coloraxis.cmax == 1
    empty = viz.heads(xr.DataArray(np.full((2, 2), np.nan), dims=("layer", "head")))
    assert empty.data[0].text[0][0] == ""


def test_figures_set_no_global_renderer_and_escape_names():
    before = plotly.io.renderers.default, plotly.io.templates.default
    figure = viz.heads(made.important(task="<b>$x$</b>"))
    assert (plotly.io.renderers.default, plotly.io.templates.default) == before
    assert "<b>" not in figure.layout.title.text
    assert "$" not in figure.layout.title.text


def test_messages(effects):
    with pytest.raises(ValueError, match=r"no metric or baseline 'patching_efect'; did you mean 'patching_effect'"):
        viz.heads(effects, metric="patching_efect")
    with pytest.raises(ValueError, match=r"no role of these effects 'corect'; did you mean 'correct'"):
        viz.heads(effects, role="corect")
    with pytest.raises(
        ValueError, match=r"no role of these effects 'correct': their .*role='\[CLS\]'.*positions='all'"
    ):
        viz.heads(effects.sel(role=["[CLS]", "[SEP]"]))
    with pytest.raises(ValueError, match="no dimension of this result 'rol'; did you mean 'role'"):
        viz.heads(effects, rol="correct")
    with pytest.raises(ValueError, match="this result has no dimension 'head'"):
        viz.heads(effects.isel(head=0, drop=True))
    with pytest.raises(TypeError, match="takes an xarray result, a Dataset or DataArray; got list"):
        viz.heads([1])


def test_universal_heads_come_first_and_are_framed():
    conditions = {name: made.important(seed=seed) for seed, name in enumerate(["states, image", "faces, image"])}
    figure = viz.universal(made.universal(conditions), top=5)
    assert list(figure.data[0].y[:2]) == ["L1.H2", "L2.H5"]
    assert list(figure.data[0].x) == list(conditions)
    assert np.allclose(figure.data[0].z[0], 0.31)
    assert figure.data[0].text[0][0] == "31*"
    assert figure.data[0].text[2][0][-1:] != "*"
    assert frames(figure, "solid") == {(0, 0), (0, 1), (1, 0), (1, 1)}
    null = "by their layers alone 0.3 would be expected (as many: p .012)"
    assert figure.layout.title.text == f"2 universal heads of 24; {null}"
    assert "No universal heads" in viz.universal(made.universal(conditions, none=True)).layout.title.text


def test_messages_of_universal():
    with pytest.raises(ValueError, match="takes a result of circuits.universal_heads, with 'universal'"):
        viz.universal(made.important())
    with pytest.raises(TypeError, match="got DataArray"):
        viz.universal(made.important().effect)
    with pytest.raises(ValueError, match="top=0: expected a number of heads, 1 or more"):
        viz.universal(made.universal({"one": made.important()}), top=0)


def test_what_a_real_sweep_gives(mini):
    pairs = mini_world("states", 2)
    figure = viz.heads(patching.patch_heads(mini, pairs, "text.cross_attn", layers=[1, 2], progress=False))
    assert list(figure.data[0].y) == ["1", "2"]
    assert len(figure.data[0].x) == 8


def test_small_shares_keep_their_digits():
    """Single paths are worth less than a percent each: a map of them is not one of zeros."""
    shown = {}
    for largest in (0.31, 0.031, 0.0031):
        effect = xr.DataArray([[largest, -largest / 3], [0.0, np.nan]], dims=("layer", "head"), name="effect")
        figure = viz.heads(effect.assign_coords(layer=[0, 1], head=[0, 1]))
        shown[largest] = (*figure.data[0].text[0], *figure.data[0].text[1], figure.layout.coloraxis.colorbar.tickformat)
    assert shown[0.31] == ("31", "\N{MINUS SIGN}10", "0", "", "+.0%")
    assert shown[0.031] == ("3.1", "\N{MINUS SIGN}1.0", "0", "", "+.1%")
    assert shown[0.0031] == ("0.31", "\N{MINUS SIGN}0.10", "0", "", "+.2%")
