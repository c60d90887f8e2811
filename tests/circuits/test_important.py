"""Important heads: what the table says, what it does not depend on, and what it refuses."""

import numpy as np
import pytest
import xarray as xr

from notice_lens.circuits import DependentPairs, FewClusters, important_heads
from notice_lens.circuits.important import two_sigma
from notice_lens.stats.synthetic import synthetic_effects

QUICK = {"role": None, "n_permutations": 499, "n_bootstrap": 200}
PLANTED = np.zeros((4, 6))
PLANTED[1, 2], PLANTED[2, 0], PLANTED[3, 5] = 0.12, -0.09, 0.06


@pytest.fixture(scope="module")
def effects() -> xr.Dataset:
    return synthetic_effects(PLANTED, 100, 80, spread=0.04, seed=1)


@pytest.fixture(scope="module")
def table(effects: xr.Dataset) -> xr.Dataset:
    return important_heads(effects, **QUICK)


def test_the_planted_heads_are_found(table: xr.Dataset) -> None:
    np.testing.assert_array_equal(table.significant, PLANTED != 0)
    np.testing.assert_array_equal(table.sign.values[PLANTED != 0], [1, -1, 1])
    assert [int(table["rank"].values[place]) for place in ((1, 2), (2, 0), (3, 5))] == [1, 2, 3]
    assert sorted(table["rank"].values.ravel().tolist()) == list(range(1, 25))
    assert (table.low < table.effect).all()
    assert (table.effect < table.high).all()
    assert (table.q >= table.p).all()
    attrs = table.attrs
    assert (attrs["pairs"], attrs["clusters"], attrs["role"]) == (100, 80, "all")
    assert "larger than 0.02 of the gap" in attrs["rule_significant"]
    assert "family-wise error rate (max-T, step-down) at most 0.05" in attrs["rule_significant"]


@pytest.mark.parametrize("control", [True, False])
def test_both_parts_have_the_interval_that_each_has_by_itself(control: bool) -> None:
    """Four pairs share a donor, so the mismatched part has 20 clusters of them, whatever heads are ranked by."""
    effects = synthetic_effects(PLANTED, 80, shared={"donor_digest": np.arange(80) // 4}, restored=0.4, seed=2)
    table = important_heads(effects, control=control, **QUICK)
    by_donor = effects.assign_coords(clean_digest=effects.donor_digest, corrupt_digest=effects.donor_digest)
    alone = {
        "effect_matched": by_donor if control else effects,
        "effect_mismatched": by_donor.assign(logit_diff_change=effects.logit_diff_change_mismatched),
        "effect_of_gap": by_donor.assign(logit_diff_change=effects.logit_diff_change
                                         - effects.logit_diff_change_mismatched) if control else effects,
    }  # fmt: skip
    for name, own in alone.items():
        expected = important_heads(own, control=False, **QUICK)
        assert expected.attrs["clusters"] == (20 if control or name == "effect_mismatched" else 80)
        np.testing.assert_allclose(table[name], expected.effect)
        np.testing.assert_allclose(table[f"{name}_low"], expected.low)
        np.testing.assert_allclose(table[f"{name}_high"], expected.high)


def test_the_interval_of_the_mismatched_part_holds_what_is_planted() -> None:
    """A donor restores 40 % of what each head carries; pairs of one donor are one piece of evidence."""
    covered = []
    for seed in range(12):
        shared = {"donor_digest": np.arange(120) // 3}
        effects = synthetic_effects(PLANTED, 120, shared=shared, restored=0.4, of_shared=0.5, seed=seed)
        table = important_heads(effects, **QUICK)
        truth = 0.4 * PLANTED
        covered.append(((table.effect_mismatched_low <= truth) & (truth <= table.effect_mismatched_high)).mean())
    assert np.mean(covered) >= 0.92


def test_without_donors_the_mismatched_part_has_neither_value_nor_interval(table: xr.Dataset) -> None:
    for name in ("effect_mismatched", "effect_mismatched_low", "effect_mismatched_high"):
        assert table[name].isnull().all()
    np.testing.assert_array_equal(table.effect_matched_low, table.low)
    np.testing.assert_array_equal(table.effect_matched_high, table.high)


def test_false_discovery_control_is_benjamini_and_hochbergs(effects: xr.Dataset, table: xr.Dataset) -> None:
    found = important_heads(effects, method="fdr", **QUICK)
    assert found.significant.values[PLANTED != 0].all()
    assert "false-discovery rate (BH) at most 0.05" in found.attrs["rule_significant"]
    np.testing.assert_array_equal(found.p, table.p)
    # Among the heads that are not set aside, their p divided by the chance of that.
    kept = found.q.values.ravel() < 1
    np.testing.assert_array_equal(kept, PLANTED.ravel() != 0)
    p = found.p.values.ravel()[kept]
    order = np.argsort(p)
    by_hand = np.minimum.accumulate((p[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    ratio = found.q.values.ravel()[kept][order] / by_hand
    np.testing.assert_allclose(ratio, ratio[0])
    assert 1 / 0.55 < ratio[0] < 1 / 0.4


def test_heads_in_another_order_give_the_same_numbers(effects: xr.Dataset, table: xr.Dataset) -> None:
    order = [3, 5, 0, 1, 4, 2]
    mixed = important_heads(effects.isel(head=order), **QUICK)
    xr.testing.assert_allclose(mixed, table.isel(head=order))


def test_turned_effects_turn_the_signs_alone(effects: xr.Dataset, table: xr.Dataset) -> None:
    turned = important_heads(effects.assign(logit_diff_change=-effects.logit_diff_change), **QUICK)
    np.testing.assert_allclose(turned.effect, -table.effect)
    np.testing.assert_array_equal(turned.sign, -table.sign)
    for name in ("p", "q", "rank", "two_sigma"):
        np.testing.assert_allclose(turned[name], table[name])
    np.testing.assert_allclose(turned.low, -table.high)


def test_logits_in_another_unit_change_nothing(effects: xr.Dataset, table: xr.Dataset) -> None:
    scaled = effects.copy()
    for name in effects.data_vars:
        scaled[name] = effects[name] * 8
    xr.testing.assert_allclose(important_heads(scaled, **QUICK), table)


def test_pairs_of_one_image_pair_are_one_piece_of_evidence(effects: xr.Dataset, table: xr.Dataset) -> None:
    again = xr.concat([effects.assign_coords(pair=[f"{name} {copy}" for name in effects["pair"].values])
                       for copy in range(3)], "pair")  # fmt: skip
    again = again.assign_coords(clean_digest=again.corrupt_digest, corrupt_digest=again.clean_digest)
    thrice = important_heads(again, **QUICK)
    assert (thrice.attrs["pairs"], thrice.attrs["clusters"]) == (300, 80)
    xr.testing.assert_allclose(thrice, table)
    # By themselves they would be taken for three times the evidence.
    alone = again.assign_coords(alone=("pair", again["pair"].values))
    with pytest.warns(DependentPairs, match="cluster='alone': 160 images .* 300 clusters; 80 by cluster='shared'"):
        naive = important_heads(alone, cluster="alone", **QUICK)
    assert ((naive.high - naive.low) < 0.8 * (table.high - table.low)).mean() > 0.9


def test_two_way_intervals_see_what_pairs_of_a_noun_share(effects: xr.Dataset) -> None:
    noun = np.arange(100) % 20
    shift = np.random.default_rng(0).normal(0, 0.08, (20, 4, 6))[noun] * 20
    made = effects.assign(logit_diff_change=effects.logit_diff_change + shift)
    made = made.assign_coords(noun=("pair", [f"noun {one}" for one in noun]))
    by_pair, both = (important_heads(made, cluster=own, **QUICK) for own in ("pair", ("image", "noun")))
    assert ((both.high - both.low) > 1.3 * (by_pair.high - by_pair.low)).mean() > 0.9
    clear = by_pair.p < 0.2
    assert clear.sum() >= 3
    assert (both.p >= by_pair.p).values[clear].all()
    assert (both.attrs["cluster"], both.attrs["clusters"]) == ("image and noun", 20)


def test_intervals_hold_the_truth() -> None:
    truth, covered = np.linspace(-0.1, 0.3, 144).reshape(12, 12), []
    for seed in range(12):
        made = synthetic_effects(truth, 60, 40, skewness=2.0, seed=seed)
        table = important_heads(made, role=None, method="max_t", n_permutations=39, n_bootstrap=400)
        covered.append(((table.low <= truth) & (truth <= table.high)).mean().item())
    assert np.mean(covered) >= 0.92


def test_the_methods_rule_by_hand() -> None:
    far, threshold = two_sigma(np.array([0.1] * 9 + [-0.6]))
    # |effect|: mean .15, standard deviation .15
    assert threshold == pytest.approx(0.45)
    assert far.tolist() == [False] * 9 + [True]
    assert not two_sigma(np.zeros(5))[0].any()


def test_few_clusters_have_intervals_and_no_p(effects: xr.Dataset) -> None:
    with pytest.warns(FewClusters, match=r"14 clusters of pairs \(14 pairs\): below 15 intervals are rough, and "):
        table = important_heads(synthetic_effects(PLANTED, 14), **QUICK)
    assert table.p.isnull().all()
    assert table.q.isnull().all()
    assert not table.significant.any()
    assert table.low.notnull().all()
    with pytest.warns(FewClusters):
        alone = important_heads(effects.isel(pair=[0]), **QUICK)
    assert alone.low.isnull().all()


def exact(gaps_vary: bool) -> xr.Dataset:
    """Forty pairs without noise: three heads with 50, -30 and 5 % of each gap; others in two pairs, one, or none."""
    effects = synthetic_effects(np.zeros((4, 6)), 40, spread=0.0)
    if not gaps_vary:
        effects["logit_diff_clean"], effects["logit_diff_corrupt"] = (
            ("pair", np.full(40, 3.0)),
            ("pair", np.full(40, -1)),
        )
    gap = (effects.logit_diff_clean - effects.logit_diff_corrupt).values
    change = np.zeros((40, 4, 6))
    for place, share in (((1, 2), 0.5), ((2, 0), -0.3), ((3, 5), 0.05)):
        change[(slice(None), *place)] = share * gap
    change[7, 0, :], change[11, 3, :5], change[12, 3, :5] = 0.8 * gap[7], -0.5 * gap[11], 0.2 * gap[12]
    return effects.assign(logit_diff_change=(effects.logit_diff_change.dims, change))


@pytest.mark.parametrize("method", ["max_t", "fdr"])
@pytest.mark.parametrize("smallest", [0.0, 0.001, 0.02])
@pytest.mark.parametrize("gaps_vary", [True, False])
def test_circuits_without_noise_come_out_as_they_were_planted(method: str, smallest: float, gaps_vary: bool) -> None:
    table = important_heads(exact(gaps_vary), **QUICK, method=method, smallest_effect=smallest)
    assert np.argwhere(table.significant.values).tolist() == [[1, 2], [2, 0], [3, 5]]
    assert (table.q.values[[1, 2, 3], [2, 0, 5]] <= 0.05).all()
    np.testing.assert_allclose(table.low.values[[1, 2, 3], [2, 0, 5]], [0.5, -0.3, 0.05])
    np.testing.assert_allclose(table.high.values[[1, 2, 3], [2, 0, 5]], [0.5, -0.3, 0.05])


def test_coarse_p_values_are_refused() -> None:
    effects = synthetic_effects(np.zeros((12, 12)), 20)
    message = r"1000 sign flips: the smallest p is 0.001, and at alpha=0.05 over 144 heads 0.00035 is needed; n_perm"
    with pytest.raises(ValueError, match=message + r"utations=2879 or more can reject"):
        important_heads(effects, role=None, method="fdr", n_permutations=1000)
    important_heads(effects, role=None, method="fdr", n_permutations=2879, n_bootstrap=2)
    with pytest.raises(ValueError, match="n_permutations=39 or more can reject"):
        important_heads(effects, role=None, method="max_t", n_permutations=38)
    with pytest.raises(ValueError, match="n_permutations=19 or more can reject"):
        important_heads(effects, role=None, method="max_t", n_permutations=18, smallest_effect=0.0)
    with pytest.raises(ValueError, match=r"15 clusters: the smallest p of their sign flips is 3.1e-05, .* 19 clusters"):
        important_heads(synthetic_effects(np.zeros((12, 12)), 15), role=None, method="fdr", alpha=3e-4,
                        n_permutations=480_000)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "max-t"}, "no method 'max-t'; did you mean 'max_t'"),
        ({"alpha": 5.0}, "alpha=5.0: expected a number between 0 and 1"),
        ({"confidence": 1.0}, "confidence=1.0: expected a number between 0 and 1"),
        ({"smallest_effect": -0.1}, "smallest_effect=-0.1: expected a share of what `share_of` names, 0 or more"),
        ({"n_bootstrap": 1}, "n_bootstrap=1: expected a whole number, 2 or more"),
        (
            {"cluster": ("pair", "pair")},
            "expected 'shared', 'image', 'pair', a coordinate along `pair`, or two of these",
        ),
        ({"cluster": 3}, "cluster=3: expected 'shared'"),
        ({"cluster": "clean_digst"}, "by 'clean_digst'; did you mean 'clean_digest'"),
        ({"cluster": ("image", "verb")}, "1 of 100 pairs have no 'verb' to be clustered by"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_messages(effects: xr.Dataset, options: dict, message: str) -> None:
    effects = effects.assign_coords(verb=("pair", np.array([None, *["is"] * 99], object)))
    with pytest.raises(ValueError, match=message):
        important_heads(effects, role=None, **options)


def test_results_can_be_stored(table: xr.Dataset, tmp_path) -> None:
    table.to_zarr(tmp_path / "table.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "table.zarr", consolidated=False) as again:
        assert again.attrs == table.attrs
