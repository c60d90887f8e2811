"""Interactions are named no more often than they should be, by clusters, and with messages that help."""

import warnings

import numpy as np
import pytest
import xarray as xr

from notice_lens import circuits
from notice_lens.circuits.interplay import INTERACTION_KINDS, interactions

HEADS = [f"text.cross_attn.L1.H{number}" for number in range(4)]


def made(rng, singles, joint=None, pairs=40, spread=0.3, images=None):
    """Effects of heads that add up but for `joint`: extra shares of the gap by direction and pair of heads."""
    size = len(singles)
    gap = 4 + rng.gamma(4, 0.5, pairs)
    own = rng.normal(0, spread, (pairs, 2, size)) + np.asarray(singles)
    share = own[..., :, None] + own[..., None, :]
    share[..., np.arange(size), np.arange(size)] = own
    for (direction, one, two), extra in (joint or {}).items():
        noise = rng.normal(0, spread, pairs)
        for place in ((one, two), (two, one)):
            share[:, direction, *place] += extra + noise
    sign = np.array([1, -1])[:, None, None]
    digests = [f"i{number}" for number in (range(pairs) if images is None else images)]
    return xr.Dataset(
        {
            "logit_diff_change": (("pair", "direction", "node", "other"), share * sign * gap[:, None, None, None]),
            "logit_diff_clean": ("pair", gap / 2),
            "logit_diff_corrupt": ("pair", -gap / 2),
        },
        coords={
            "pair": [f"p{number}" for number in range(pairs)], "direction": ["denoise", "noise"],
            "node": HEADS[:size], "other": HEADS[:size], "clean_digest": ("pair", digests),
            "corrupt_digest": ("pair", [f"{name} corrupt" for name in digests]),
        },
        attrs={"min_gap": 1e-3},
    )  # fmt: skip


def test_heads_that_add_up_are_hardly_ever_called_anything_else():
    """At the smallest effect of interest itself, over six pairs of heads, in 120 runs."""
    rng, wrong = np.random.default_rng(0), 0
    for seed in range(120):
        # Every interaction is exactly as large as what is not of interest.
        joint = {(direction, 0, two): 0.05 for direction in (0, 1) for two in (1, 2, 3)}
        found = interactions(made(rng, [0.3, 0.2, -0.2, 0.0], joint), n_bootstrap=500, seed=seed)
        wrong += bool(set(found.kind.values) & {"AND", "OR", "backup", "majority", "series", "other"})
    assert wrong / 120 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)


@pytest.mark.parametrize(
    ("singles", "joint", "kind"),
    [
        ([[0, 0], [0.6, 0.6]], (0.6, -0.6), "AND"),
        ([[0.6, 0.6], [0, 0]], (-0.6, 0.6), "OR"),
        ([[0.6, 0.0], [0.0, 0.0]], (0.0, 0.6), "backup"),
        ([[0, 0], [0, 0]], (0.6, 0.6), "majority"),
        ([[0.6, 0.6], [0.6, 0.6]], (-0.6, -0.6), "series"),
        ([[0.6, 0.4], [0.6, 0.4]], (0.0, 0.0), "independent"),
        ([[0.6, -0.4], [0.6, -0.4]], (0.0, 0.0), "negative"),
        ([[0.6, -0.4], [0.6, -0.4]], (0.4, 0.4), "negative"),
        ([[-0.4, -0.4], [-0.4, -0.4]], (0.4, 0.4), "other"),
        ([[0.6, 0.0], [0.6, 0.0]], (0.0, 0.0), "single"),
        ([[0, 0], [0, 0]], (0.0, 0.0), "nothing"),
        ([[0, 0], [0, 0]], (0.6, 0.0), "other"),
    ],
)
def test_the_table_of_kinds_with_noise(singles, joint, kind):
    """Each kind by its two interactions and what single heads do, in the shares that the module's table says."""
    rng = np.random.default_rng(1)
    extra = {(direction, 0, 1): value for direction, value in enumerate(joint)}
    found = interactions(made(rng, singles, extra, pairs=200, spread=0.05))
    assert found.kind.values.tolist() == [kind]
    assert kind in INTERACTION_KINDS
    np.testing.assert_allclose(found.interaction[0], joint, atol=0.05)
    ends = found.interaction_low[0].values, found.interaction_high[0].values
    assert (ends[0] < found.interaction[0]).all()
    assert (found.interaction[0] < ends[1]).all()
    assert found.about.values.tolist() == [{"backup": HEADS[1], "negative": HEADS[1], "single": HEADS[0]}.get(kind, "")]


def test_too_much_spread_is_undecided():
    rng = np.random.default_rng(2)
    found = interactions(made(rng, [[0, 0], [0.6, 0.6]], {(0, 0, 1): 0.3, (1, 0, 1): -0.3}, pairs=20, spread=2.0))
    assert found.kind.values.tolist() == ["undecided"]


def test_pairs_that_share_images_are_one_piece_of_evidence():
    effects = made(np.random.default_rng(3), [0.5, 0.5], pairs=80, spread=0.1)
    once = effects.isel(pair=slice(20))
    many = xr.concat([once] * 4, dim="pair").assign_coords(pair=effects.pair.values)
    found, alone = interactions(many), interactions(once)
    assert (found.attrs["pairs"], found.attrs["clusters"], alone.attrs["clusters"]) == (80, 20, 20)
    for name in ("interaction_low", "interaction_high", "asymmetry_low"):
        np.testing.assert_allclose(found[name], alone[name], atol=1e-9)
    named = many.assign_coords(noun=("pair", [f"n{number % 40}" for number in range(80)]))
    assert interactions(named, cluster="noun").attrs["clusters"] == 40


def test_few_clusters_are_not_named():
    effects = made(np.random.default_rng(4), [[0, 0], [0.6, 0.6]], {(0, 0, 1): 0.6, (1, 0, 1): -0.6}, 14, 0.01)
    with pytest.warns(circuits.FewClusters, match="14 clusters of pairs: below 15"):
        found = interactions(effects)
    assert found.kind.values.tolist() == ["undecided"]
    np.testing.assert_allclose(found.interaction[0], [0.6, -0.6], atol=0.05)


def test_pairs_without_an_effect_or_a_gap_are_left_out():
    effects = made(np.random.default_rng(5), [0.5, 0.2])
    change = effects.logit_diff_change.copy()
    change[3, 1, 0, 1] = np.nan
    effects = effects.assign(logit_diff_change=change)
    effects["logit_diff_clean"][5] = effects["logit_diff_corrupt"][5]
    found = interactions(effects)
    assert (found.attrs["pairs"], found.attrs["pairs_left_out"]) == (38, 2)
    # Gaps of the other sign say the same.
    turned = effects.map(lambda values: -values if values.dtype.kind == "f" else values)
    turned.attrs = effects.attrs
    xr.testing.assert_allclose(interactions(turned).drop_vars(["kind", "about"]), found.drop_vars(["kind", "about"]))


def test_messages(unchecked):
    effects = made(np.random.default_rng(6), [0.5, 0.2])
    with pytest.raises(TypeError, match="of type dict; expected the result of patching.pairs_of_heads"):
        interactions({})
    with pytest.raises(ValueError, match="no logit_diff_change along `direction`"):
        interactions(effects.isel(direction=0))
    with pytest.raises(ValueError, match="of the direction 'denoise' alone; kinds of interaction need both directions"):
        interactions(effects.isel(direction=[0]))
    with pytest.raises(ValueError, match="smallest_effect=0: expected a share of the gap"):
        interactions(effects, smallest_effect=0)
    with pytest.raises(ValueError, match="confidence=95: expected a number between 0 and 1"):
        interactions(effects, confidence=95)
    with pytest.raises(ValueError, match="cluster by 'clean_digst'; did you mean 'clean_digest'"):
        interactions(effects, cluster="clean_digst")
    with pytest.raises(ValueError, match="none of 40 pairs has a gap"):
        interactions(effects.assign(logit_diff_clean=effects.logit_diff_corrupt))
    cancel = effects.assign(logit_diff_clean=("pair", np.tile([2.0, -2.0], 20)))
    with pytest.raises(ValueError, match="the gaps of 40 pairs cancel"):
        interactions(cancel.assign(logit_diff_corrupt=("pair", np.zeros(40))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interactions(effects)
