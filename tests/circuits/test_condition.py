"""What a condition's numbers are: read at one role, of the pairs that count, as shares of the gap."""

import numpy as np
import pytest
import xarray as xr

from notice_lens import patching
from notice_lens.circuits import important_heads
from notice_lens.circuits.condition import DIFFERENCE, MATCHED_ALONE, read_condition
from notice_lens.stats.synthetic import synthetic_effects

ROLES = ["[CLS]", "noun", "correct"]


def with_roles(pairs: int = 20) -> xr.Dataset:
    """Effects at three roles; every third pair lacks a donor, and one has no gap."""
    parts = [synthetic_effects(np.full((2, 3), 0.1 * number), pairs, seed=7) for number in range(3)]
    effects = parts[0].drop_vars("logit_diff_change").assign_coords(role=np.array(ROLES, object))
    change = np.moveaxis(np.stack([part.logit_diff_change.values for part in parts]), 0, -1)
    effects["logit_diff_change"] = (("pair", "layer", "head", "role"), change)
    donor = np.random.default_rng(1).normal(size=change.shape)
    donor[::3] = np.nan
    effects = effects.assign_coords(donor_digest=("pair", [f"donor {number}" for number in range(pairs)]))
    effects["logit_diff_change_mismatched"] = (("pair", "layer", "head", "role"), donor)
    effects["logit_diff_clean"][4] = effects["logit_diff_corrupt"][4] + 1e-4
    return effects


def test_effects_are_ratios_of_sums_at_the_role() -> None:
    effects = with_roles()
    expected = patching.aggregate(patching.carried(effects, "logit_diff_change")).sel(role="correct")
    condition = read_condition(effects, "correct")
    np.testing.assert_allclose(condition.share(condition.change), expected.values.ravel())
    assert condition.attrs()["ranked_by"] == DIFFERENCE
    # seven pairs without a donor, and pair 4 without a gap
    assert (condition.attrs()["pairs"], condition.left_out) == (12, 8)
    plain = read_condition(effects, "correct", control=False)
    np.testing.assert_allclose(
        plain.share(plain.change), patching.aggregate(effects).sel(role="correct").values.ravel()
    )
    assert len(plain.gap) == 19


def test_both_parts_are_of_the_same_pairs() -> None:
    table = important_heads(with_roles(60), n_permutations=199, n_bootstrap=50)
    np.testing.assert_allclose(table.effect, table.effect_matched - table.effect_mismatched)
    assert table.attrs["share_of"] == "the gap"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_complete_patch_carries_all_that_the_donor_leaves(direction: str) -> None:
    """The donor restores half of the gap and more by itself, so matched minus mismatched is less than half of it."""
    effects = synthetic_effects(np.array([[1.0, 0.1, 0.0]]), 60, restored=0.55, spread=0.0)
    if direction == "noise":
        # The base run is the clean one, and the donor's answer lies as far from it as from the corrupted one before.
        names = [name for name in effects if str(name).startswith("logit_diff_change")]
        turned = {name: -effects[name] for name in names} | {"logit_diff_donor": -effects.logit_diff_donor}
        effects = effects.assign(turned).assign_attrs(direction="noise")
    table = important_heads(effects, n_permutations=199, n_bootstrap=50)
    np.testing.assert_allclose(table.effect, [[1, 0.1, 0]], atol=1e-12)
    np.testing.assert_allclose(table.effect_of_gap, [[0.45, 0.045, 0]], atol=1e-12)
    assert table.attrs["share_of"] == "what the mismatched donor leaves of the gap"
    assert table.significant.values.tolist() == [[True, True, False]]


def test_pairs_whose_donor_leaves_nothing_are_left_out() -> None:
    effects = synthetic_effects(np.full((1, 2), 0.2), 60, restored=0.3)
    effects["logit_diff_donor"][[3, 8]] = effects["logit_diff_clean"][[3, 8]] + np.array([0.0, 2.0])
    condition = read_condition(effects, None)
    assert (len(condition.gap), condition.left_out) == (58, 2)
    assert condition.left is not None
    np.testing.assert_allclose(condition.left, 0.7 * condition.gap)
    assert len(read_condition(effects, None, control=False).gap) == 60


def test_probabilities_are_shares_of_what_the_donor_leaves_of_them() -> None:
    effects = synthetic_effects(np.zeros((1, 1)), 3, restored=0.5, spread=0.0)
    change = np.array([[[0.4]], [[0.3]], [[0.2]]])
    effects["prob_change"] = (("pair", "layer", "head"), change)
    effects["prob_change_mismatched"] = effects["prob_change"] / 2
    effects["answer_prob_clean"], effects["answer_prob_corrupt"] = ("pair", [0.9, 0.8, 1.0]), ("pair", [0.1, 0.2, 0.1])
    effects["answer_prob_donor"] = ("pair", [0.5, 0.4, 0.2])
    condition = read_condition(effects, None, "prob_change")
    np.testing.assert_allclose(condition.effect(), 0.45 / (0.4 + 0.4 + 0.8))


def test_other_corruptions_are_ranked_by_the_matched_change() -> None:
    effects = with_roles().assign_attrs(corruption="text")
    assert read_condition(effects, "noun").ranked_by == MATCHED_ALONE
    assert read_condition(effects, "noun", control=True).ranked_by == DIFFERENCE
    assert read_condition(effects.drop_vars("logit_diff_change_mismatched"), "noun").mismatched is None


def test_noising_is_the_mirror_of_denoising() -> None:
    effects = synthetic_effects(np.full((2, 2), 0.2), 20)
    turned = effects.assign(logit_diff_change=-effects.logit_diff_change).assign_attrs(direction="noise")
    one, other = read_condition(effects, None), read_condition(turned, None)
    np.testing.assert_allclose(other.change, one.change)
    np.testing.assert_allclose(other.gap, one.gap)


def test_probabilities_have_a_gap_of_their_own() -> None:
    effects = synthetic_effects(np.zeros((1, 2)), 3)
    effects["prob_change"] = (("pair", "layer", "head"), np.array([[[0.1, 0.2]], [[0.3, 0.0]], [[0.2, 0.1]]]))
    effects["answer_prob_clean"], effects["answer_prob_corrupt"] = ("pair", [0.9, 0.8, 1.0]), ("pair", [0.1, 0.2, 0.1])
    condition = read_condition(effects, None, "prob_change")
    np.testing.assert_allclose(condition.share(condition.change), [0.6 / 2.3, 0.3 / 2.3])


def test_a_role_that_was_selected_before_is_said() -> None:
    effects = with_roles().sel(role="noun")
    assert read_condition(effects, None).attrs()["role"] == read_condition(effects, "noun").attrs()["role"] == "noun"
    with pytest.raises(
        ValueError, match="role 'correct' was given, but these effects are those of 'noun'; pass role='noun'"
    ):
        read_condition(effects, "correct")


@pytest.mark.usefixtures("unchecked")
def test_messages() -> None:
    effects = with_roles()
    with pytest.raises(
        ValueError, match=r"no role of these effects 'corect'; did you mean 'correct'\? valid: '\[CLS\]'"
    ):
        important_heads(effects, role="corect")
    with pytest.raises(ValueError, match="role 'correct' was given, .* all words at once; pass role='all'"):
        important_heads(synthetic_effects(np.zeros((1, 2))), role="correct")
    with pytest.raises(ValueError, match="no metric that is a share of a gap 'kl'; valid: 'logit_diff_change'"):
        important_heads(effects, metric="kl")
    with pytest.raises(ValueError, match="no metric of these effects 'prob_change'; "):
        important_heads(effects, metric="prob_change")
    with pytest.raises(ValueError, match=r"dimensions region besides .* select one of each, such as effects.isel"):
        important_heads(effects.expand_dims(region=2))
    with pytest.raises(ValueError, match="no dimension of these effects 'head'"):
        important_heads(effects.isel(head=0))
    with pytest.raises(ValueError, match="control=True asks for matched minus mismatched, and no pair"):
        important_heads(synthetic_effects(np.zeros((1, 2))), role=None, control=True)
    with pytest.raises(TypeError, match="effects are of type dict; expected the Dataset"):
        important_heads({})
    with pytest.raises(ValueError, match="none of 3 pairs has a gap and an effect of every head at this role: 'noun'"):
        important_heads(effects.isel(pair=slice(0, 3)).where(effects.role != "noun"), role="noun")
    half = synthetic_effects(np.zeros((1, 2)), 2)
    half["logit_diff_clean"], half["logit_diff_corrupt"] = ("pair", [1.0, -1.0]), ("pair", [0.0, 0.0])
    with pytest.raises(ValueError, match=r"the gaps of 2 pairs cancel \(their mean is 0\): no share"):
        important_heads(half, role=None)
