"""The paper's own rule, by hand."""

import numpy as np
import pytest
import xarray as xr

from notice_lens.circuits import important_heads, paper_rule
from notice_lens.patching import patch_heads, patch_modules
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums
from planted import light_and_dark, planted


def some(seed=0, pairs=30):
    """Changes of probabilities by pair, layer, head and role; one head moves them either way, another one way."""
    g = np.random.default_rng(seed)
    change = g.normal(0, 0.01, (pairs, 4, 6, 2))
    change[:, 1, 2, 0] = 0.4 * g.choice([-1, 1], pairs)
    change[:, 3, 5, 0] = g.normal(0.3, 0.05, pairs)
    base = g.uniform(0.4, 0.6, pairs)
    digests = [f"i{number // 2}" for number in range(pairs)]
    return xr.Dataset(
        {
            "prob_change": (("pair", "layer", "head", "role"), change),
            "answer_prob": (("pair", "layer", "head", "role"), base[:, None, None, None] + change),
            "answer_prob_corrupt": ("pair", base), "answer_prob_clean": ("pair", base + 0.4),
        },
        coords={
            "pair": np.arange(pairs), "layer": np.arange(4), "head": np.arange(6), "role": ["correct", "noun"],
            "clean_digest": ("pair", digests), "corrupt_digest": ("pair", digests),
        },
        attrs={"direction": "denoise", "corruption": "image"},
    )  # fmt: skip


def test_heads_two_standard_deviations_above_the_mean_absolute_change():
    effects = some()
    found = paper_rule(effects)
    size = abs(effects.prob_change.sel(role="correct")).mean("pair").values
    np.testing.assert_allclose(found["magnitude"], size)
    threshold = size.mean() + 2 * size.std()
    assert found.attrs["threshold"] == pytest.approx(threshold)
    assert np.argwhere(found.selected.values).tolist() == np.argwhere(size >= threshold).tolist() == [[1, 2], [3, 5]]
    assert (found["rank"].values[1, 2], found["rank"].values[3, 5]) == (1, 2)
    np.testing.assert_allclose(found["change"], effects.prob_change.sel(role="correct").mean("pair"))
    by_image = ratio_of_sums(abs(effects.prob_change[..., 0].values), np.ones(30), clusters_of(effects))
    np.testing.assert_allclose(found["low"], by_image.low)
    np.testing.assert_allclose(found["high"], by_image.high)
    assert (found.attrs["pairs"], found.attrs["clusters"], found.attrs["role"]) == (30, 15, "correct")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_probabilities_give_the_same_as_their_changes(direction):
    effects = some(1)
    base = effects.answer_prob_corrupt if direction == "denoise" else effects.answer_prob_clean
    effects = effects.assign(answer_prob=effects.prob_change + base).assign_attrs(direction=direction)
    expected = paper_rule(effects, metric="prob_change")
    xr.testing.assert_allclose(paper_rule(effects.drop_vars("prob_change"), metric="answer_prob"), expected)
    assert paper_rule(effects, role="noun").attrs["role"] == "noun"
    assert not paper_rule(effects, sigmas=6).selected.any()


def test_a_pair_without_the_role_is_left_out():
    effects = some(2)
    effects.prob_change[4] = np.nan
    found = paper_rule(effects)
    assert (found.attrs["pairs"], found.attrs["pairs_left_out"]) == (29, 1)
    expected = abs(effects.prob_change.isel(pair=[n for n in range(30) if n != 4], role=0)).mean("pair")
    np.testing.assert_allclose(found["magnitude"], expected)


def test_modules_have_figures_by_site_and_layer(mini, pairs):
    effects = patch_modules(mini, pairs, positions=["correct"], controls=(), progress=False)
    found = paper_rule(effects)
    assert found["magnitude"].dims == ("site", "layer")
    np.testing.assert_allclose(found["magnitude"], abs(effects.prob_change.isel(role=0)).mean("pair"))


def test_both_rules_read_the_answers_probability():
    """Planted: L0.H1 says twice what L1.H0 does. The test and the paper's rule name it by its probability."""
    model = planted({(0, 1): 0, (1, 0): 1}, {0: 2.0, 1: 1.0})
    effects = patch_heads(model, light_and_dark(n=16), positions="all", progress=False)
    tested = important_heads(effects, role="all", metric="answer_prob")
    xr.testing.assert_identical(tested, important_heads(effects, role="all", metric="prob_change"))
    found = paper_rule(effects, sigmas=1)
    assert np.argwhere(found.selected.values).tolist() == [[0, 1]]
    expected = abs(effects.answer_prob - effects.answer_prob_corrupt).mean("pair")
    np.testing.assert_allclose(found["magnitude"], expected, atol=1e-12)


def test_messages(unchecked):
    effects = some()
    with pytest.raises(ValueError, match="no metric of the paper's rule 'answer_probs'; did you mean 'answer_prob'"):
        paper_rule(effects, metric="answer_probs")
    with pytest.raises(ValueError, match="the paper's rule needs 'prob_change'"):
        paper_rule(effects.drop_vars(["prob_change", "answer_prob"]))
    with pytest.raises(ValueError, match="'corect'"):
        paper_rule(effects, role="corect")
    with pytest.raises(ValueError, match="role 'noun' was given, but these effects are those of 'correct'"):
        paper_rule(effects.isel(role=0), role="noun")
    with pytest.raises(ValueError, match="confidence=95"):
        paper_rule(effects, confidence=95)
    with pytest.raises(ValueError, match="none of 30 pairs"):
        paper_rule(effects.assign(prob_change=effects.prob_change * np.nan))
