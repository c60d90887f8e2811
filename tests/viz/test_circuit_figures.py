"""Figures of circuits, from made-up numbers: lines, bands, the headline, and heads with their intervals."""

import numpy as np
import pytest
import xarray as xr

from notice_lens import viz
from notice_lens.viz.circuit_figures import headline


def made_curve(share=(0, 0.5, 0.82, 1), random=0.3, mismatched=0.2) -> xr.Dataset:
    sizes = np.arange(len(share))
    by_direction = np.stack([share, np.asarray(share) ** 2])
    ends = {"_low": -0.05, "_high": 0.05}
    both = ("direction", "size")
    chance = np.full(by_direction.shape, random)
    variables = {
        "share": (both, by_direction), **{f"share{end}": (both, by_direction + by) for end, by in ends.items()},
        "turned": (both, by_direction), "mismatched": ("size", np.full(len(share), mismatched)),
        "random": (both, chance), "random_low": (both, chance - 0.1), "random_high": (both, chance + 0.1),
        "order": (("half", "rank"), np.array([["text.cross_attn.L0.H1", "text.cross_attn.L1.H0"]] * 2, object)),
    }  # fmt: skip
    coords = {"direction": ["denoise", "noise"], "size": sizes}
    return xr.Dataset(variables, coords, {"n_nodes": 3, "n_random": 7, "pairs": 30, "clusters": 28})


def drawn(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_a_curve_has_both_shares_with_their_bands_and_what_stands_beside_them():
    result = made_curve()
    figure = viz.curve(result)
    np.testing.assert_allclose(drawn(figure, "restored by clean heads").y, [0, 0.5, 0.82, 1])
    np.testing.assert_allclose(drawn(figure, "lost by corrupted heads").y, np.array([0, 0.5, 0.82, 1]) ** 2)
    band = next(trace for trace in figure.data if trace.fill and trace.legendgroup == "restored by clean heads")
    np.testing.assert_allclose(band.y, [0.05, 0.55, 0.87, 1.05, 0.95, 0.77, 0.45, -0.05])
    np.testing.assert_allclose(drawn(figure, "from a mismatched donor").y, 0.2)
    np.testing.assert_allclose(drawn(figure, "7 random orders").y, 0.3)
    said = figure.layout.title.subtitle.text.replace("&#37;", "%").replace("<br>", " ")
    assert said == (
        "2 of 3 heads carry 82% [77, 87] of the answer; as many at random 30%; these heads from an unrelated picture "
        "20% (30 pairs in 28 clusters)"
    )


def test_the_headline_says_all_heads_where_fewer_do_not_reach_the_share():
    assert headline(made_curve((0, 0.1, 0.5, 0.6))).startswith("3 of 3 heads carry 60% [55, 65] of the answer")
    one = headline(made_curve((0, 0.9), np.nan, np.nan))
    assert one == "1 of 3 heads carries 90% [85, 95] of the answer (30 pairs in 28 clusters)"
    mixed = made_curve()
    mixed["order"] = (("half", "rank"), np.array([["text.mlp.L0", "text.attn.L0.H0"]] * 2, object))
    assert headline(mixed).startswith("2 of 3 nodes carry 82%")


def test_without_donors_and_random_orders_neither_is_drawn():
    names = {trace.name for trace in viz.curve(made_curve(random=np.nan, mismatched=np.nan)).data}
    assert names >= {"restored by clean heads", "answers turned"}
    assert not {name for name in names if name and ("donor" in name or "random" in name)}


def test_several_curves_are_one_line_each():
    figure = viz.curve({"<states>": made_curve(), "scenes": made_curve((0, 0.2, 0.4, 1))})
    np.testing.assert_allclose(drawn(figure, "scenes").y, [0, 0.2, 0.4, 1])
    assert drawn(figure, "&lt;states&gt;").line.color != drawn(figure, "scenes").line.color


def made_heads(tested=True) -> xr.Dataset:
    effect = np.array([[0.02, -0.3], [0.1, 0.0]])
    both = ("layer", "head")
    p = np.full(effect.shape, 0.01 if tested else np.nan)
    return xr.Dataset(
        {"effect": (both, effect), "low": (both, effect - 0.04), "high": (both, effect + 0.02), "p": (both, p),
         "significant": (both, np.abs(effect) > 0.05)},
        {"layer": [0, 1], "head": [0, 1]}, {"smallest_effect": 0.02, "pairs": 30, "clusters": 30},
    )  # fmt: skip


def test_a_forest_has_the_largest_heads_first_with_their_intervals():
    (trace,) = viz.forest(made_heads(), top=3).data
    assert list(trace.y) == ["L0.H1", "L1.H0", "L0.H0"]
    np.testing.assert_allclose(trace.x, [-0.3, 0.1, 0.02])
    np.testing.assert_allclose(trace.error_x.array, 0.02)
    np.testing.assert_allclose(trace.error_x.arrayminus, 0.04)
    assert list(trace.marker.symbol) == ["circle", "circle", "circle-open"]
    assert "the 3 largest of 4; 30 pairs; " in viz.forest(made_heads(), top=3).layout.title.subtitle.text


def test_what_was_not_tested_is_not_called_insignificant():
    untested = made_heads(tested=False)
    untested["significant"] = untested["significant"] & False
    (trace,) = viz.forest(untested).data
    assert {*trace.marker.symbol} == {"x-thin-open"}
    assert all("not tested" in text for text in trace.customdata)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: viz.curve({}), ValueError, "got no results"),
        (lambda: viz.curve({"a": [1]}), TypeError, "got list of 'a'"),
        (lambda: viz.curve(made_heads()), ValueError, "the result has effect, low, high"),
        (lambda: viz.curve(made_curve(), share=80.0), ValueError, "share=80.0: expected a share of the gap"),
        (lambda: viz.forest([1]), TypeError, "got list"),
        (lambda: viz.forest(made_curve()), ValueError, "viz.forest draws `effect`, `low` and `high`"),
        (lambda: viz.forest(made_heads(), top=0), ValueError, "top=0"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
