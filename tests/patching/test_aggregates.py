from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from notice_lens import HookedBLIP, patching
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching.results import aggregate, carried, gap, mediation, to_carry

nan = float("nan")
FINITE = st.floats(-8, 8, width=32)


def result(
    change: Any,
    clean: Any,
    corrupt: Any,
    direction: str = "denoise",
    control: Any = None,
    min_gap: float = 1e-3,
    **others: Any,
) -> xr.Dataset:
    """A result of patches of heads, its patching effects worked out pair by pair."""
    arrays = {"logit_diff_change": np.array(change, float)}
    if control is not None:
        arrays["logit_diff_change_mismatched"] = np.array(control, float)
    full = np.subtract(clean, corrupt) * (1 if direction == "denoise" else -1)
    for name, values in list(arrays.items()):
        shape = (-1, *[1] * (values.ndim - 1))
        usable = np.where(np.abs(full) < min_gap, nan, full).reshape(shape)
        arrays[name.replace("logit_diff_change", "patching_effect")] = values / usable
    dims = ("pair", "layer", "head")
    return xr.Dataset(
        {
            **{name: (dims[: values.ndim], values) for name, values in arrays.items()},
            **{name: (dims[: np.ndim(values)], np.array(values, float)) for name, values in others.items()},
            "logit_diff_clean": ("pair", np.array(clean, float)),
            "logit_diff_corrupt": ("pair", np.array(corrupt, float)),
            "below_floor": (dims[: np.ndim(change)], np.zeros(np.shape(change), bool)),
        },
        coords={"pair": [f"p{index}" for index in range(len(clean))]},
        attrs={"direction": direction, "min_gap": min_gap},
    )


# Means


def test_the_mean_of_patching_effects_is_a_ratio_of_sums() -> None:
    # gaps 4 and 1: (2 + 1) / (4 + 1), where the mean of the ratios .5 and 1 is .75
    effects = result([[2, 0], [1, 0.5]], clean=[3, 1], corrupt=[-1, 0])
    mean = aggregate(effects)
    assert mean.dims == ("layer",)
    assert mean.values.tolist() == [0.6, 0.1]
    assert mean.n.values.tolist() == [2, 2]
    assert mean.name == "patching_effect"
    assert mean.attrs["direction"] == "denoise"
    xr.testing.assert_identical(aggregate(effects.drop_vars("patching_effect")), mean)


@pytest.mark.parametrize(("direction", "sign"), [("denoise", 1), ("noise", -1)])
def test_all_is_one_in_both_directions(direction: str, sign: int) -> None:
    clean, corrupt = np.array([3.0, 1.0, 2.0]), np.array([-1.0, 0.5, -6.0])
    everything = sign * (clean - corrupt)
    effects = result(np.stack([everything, 0 * everything], 1), clean, corrupt, direction)
    np.testing.assert_allclose(aggregate(effects), [1, 0])
    np.testing.assert_allclose(gap(effects), everything)
    np.testing.assert_allclose(effects.patching_effect[:, 0], 1)


def test_what_is_missing_is_left_out_of_both_sums() -> None:
    # p1 has no second role; p2's gap is too small; p3's gap is min_gap itself
    effects = result([[1, 1], [2, nan], [9, 9], [0.5, 0]], clean=[2, 8, 0.1, 0.5], corrupt=[0, 0, 0, 0], min_gap=0.5)
    mean = aggregate(effects)
    np.testing.assert_allclose(mean, [3.5 / 10.5, 1 / 2.5])
    assert mean.n.values.tolist() == [3, 2]


def test_nothing_at_all_is_nan_without_a_warning() -> None:
    effects = result([[1, nan], [2, nan]], clean=[1, 1], corrupt=[0, 0], kl=[[nan, 1], [nan, 2]])
    mean = aggregate(effects)
    assert mean.values[0] == 1.5
    assert np.isnan(mean.values[1])
    assert mean.n.values.tolist() == [2, 0]
    assert np.isnan(aggregate(effects, "kl").values[0])
    none = effects.isel(pair=slice(0))
    assert aggregate(none).isnull().all()
    assert aggregate(none, "kl").isnull().all()


def test_gaps_that_cancel_give_nan_and_never_infinity() -> None:
    effects = result([1, 1], clean=[1, 0], corrupt=[0, 1])
    assert np.isnan(aggregate(effects))
    assert np.isnan(aggregate(result([1, 1], clean=[1, 0], corrupt=[0, 0.999], min_gap=1e-3)))
    assert aggregate(result([1, 1], clean=[1, 0], corrupt=[0, 0.9])).item() == pytest.approx(20)
    assert np.isnan(aggregate(result([1, 1], clean=[1, 0], corrupt=[0, 1], min_gap=0)))  # zero over zero


def test_gaps_of_the_smallest_size_that_counts_are_enough_together() -> None:
    effects = result([0.05] * 6, clean=[0.1] * 6, corrupt=[0] * 6, min_gap=0.1)
    assert aggregate(effects).item() == pytest.approx(0.5)


def test_other_metrics_are_plain_means() -> None:
    effects = result(np.zeros((3, 2)), clean=[1, 1, 1], corrupt=[0, 0, 0], kl=[[1, nan], [2, 4], [6, 0]])
    assert aggregate(effects, "kl").values.tolist() == [3, 2]
    assert aggregate(effects, "kl").n.values.tolist() == [3, 2]
    assert aggregate(effects, "logit_diff_clean").item() == 1
    del effects.attrs["min_gap"], effects.attrs["direction"]
    assert aggregate(effects, "kl").values.tolist() == [3, 2]


def test_the_control_is_a_ratio_of_its_own_sums() -> None:
    effects = result([[2], [1]], clean=[4, 1], corrupt=[0, 0], control=[[1], [nan]])
    assert aggregate(effects, "patching_effect_mismatched").values.tolist() == [0.25]
    assert aggregate(effects, "patching_effect_mismatched").n.values.tolist() == [1]


def test_over_several_dimensions() -> None:
    effects = result([[2, 0], [1, nan]], clean=[4, 1], corrupt=[0, 0])
    mean = aggregate(effects, over=["pair", "layer"])
    assert mean.item() == pytest.approx(3 / 9)
    assert mean.n.item() == 3
    by_pair = aggregate(effects, over="layer")
    assert by_pair.values.tolist() == [0.25, 1]
    assert by_pair.pair.values.tolist() == ["p0", "p1"]


def test_by_group() -> None:
    effects = result([[2, 0], [1, 1], [3, nan], [5, 5]], clean=[4, 1, 4, 1], corrupt=[0, 0, 0, 0])
    groups = np.array(["size", "colour", "size", None], object)
    effects = effects.assign_coords(group=("pair", groups))
    mean = aggregate(effects, by="group")
    assert mean.dims == ("group", "layer")
    assert mean.group.values.tolist() == ["colour", "size"]
    assert mean.values.tolist() == [[1, 1], [5 / 8, 0]]
    assert mean.n.values.tolist() == [[1, 1], [2, 1]]
    alone = aggregate(effects.isel(pair=[0, 2]))
    xr.testing.assert_equal(mean.sel(group="size", drop=True), alone)


@st.composite
def results(draw: st.DrawFn, same_gap: bool = False) -> xr.Dataset:
    n_pairs = draw(st.integers(1, 6))
    change = draw(hnp.arrays(float, (n_pairs, 2), elements=st.one_of(FINITE, st.just(nan))))
    corrupt = draw(hnp.arrays(float, n_pairs, elements=FINITE))
    gaps = draw(hnp.arrays(float, n_pairs, elements=st.floats(0.125, 8, width=32)))
    gaps = np.full(n_pairs, gaps[0]) if same_gap else gaps
    return result(change, corrupt + gaps, corrupt, kl=np.abs(change))


@given(results(same_gap=True))
@settings(deadline=None, max_examples=40)
def test_with_equal_gaps_it_is_the_mean(effects: xr.Dataset) -> None:
    np.testing.assert_allclose(aggregate(effects), effects.patching_effect.mean("pair"), rtol=1e-9, atol=1e-12)


@given(results())
@settings(deadline=None, max_examples=40)
def test_it_is_the_mean_weighted_by_the_gaps(effects: xr.Dataset) -> None:
    weighted = effects.patching_effect.weighted(gap(effects)).mean("pair")
    np.testing.assert_allclose(aggregate(effects), weighted, rtol=1e-9, atol=1e-12)


@given(results(), st.randoms(use_true_random=False), st.sampled_from(["patching_effect", "kl"]))
@settings(deadline=None, max_examples=40)
def test_the_order_of_pairs_changes_nothing(effects: xr.Dataset, random: Any, metric: str) -> None:
    order = list(range(effects.sizes["pair"]))
    random.shuffle(order)
    shuffled = aggregate(effects.isel(pair=order), metric)
    xr.testing.assert_allclose(shuffled, aggregate(effects, metric), rtol=1e-9, atol=1e-12)
    assert (shuffled.n == aggregate(effects, metric).n).all()


@given(results(), st.floats(0.25, 4))
@settings(deadline=None, max_examples=40)
def test_scaling_the_logits_changes_no_share(effects: xr.Dataset, factor: float) -> None:
    logits = ["logit_diff_change", "logit_diff_clean", "logit_diff_corrupt"]
    scaled = effects.assign({name: effects[name] * factor for name in logits})
    np.testing.assert_allclose(aggregate(scaled), aggregate(effects), rtol=1e-9, atol=1e-12)
    changes = [aggregate(data, "logit_diff_change") for data in (scaled, effects)]
    np.testing.assert_allclose(changes[0], changes[1] * factor, rtol=1e-9, atol=1e-12)


@given(results())
@settings(deadline=None, max_examples=40)
def test_turning_the_direction_turns_the_changes(effects: xr.Dataset) -> None:
    turned = effects.assign(logit_diff_change=-effects.logit_diff_change).assign_attrs(direction="noise")
    np.testing.assert_allclose(aggregate(turned), aggregate(effects))


# Carrying


def test_carried_is_matched_minus_mismatched() -> None:
    # p1 has no donor, p2 has neither (it is not done)
    control = [[1, 1], [nan, nan], [nan, nan], [0, nan]]
    effects = result(
        [[3, 1], [2, 2], [nan, nan], [1, 1]], clean=[4, 1, 1, 2], corrupt=[0, 0, 0, 0], control=control, other=[0] * 4
    )
    found = carried(effects)
    np.testing.assert_equal(found.logit_diff_change.values, [[2, 0], [nan, nan], [nan, nan], [1, nan]])
    np.testing.assert_equal(found.patching_effect.values, [[0.5, 0], [nan, nan], [nan, nan], [0.5, nan]])
    assert found.attrs == {"direction": "denoise", "min_gap": 1e-3, "pairs_without_donor": 1}
    assert set(found.data_vars) == {"logit_diff_change", "patching_effect", "logit_diff_clean", "logit_diff_corrupt"}
    assert found.pair.values.tolist() == effects.pair.values.tolist()
    mean = aggregate(found)
    assert mean.values.tolist() == [3 / 6, 0]  # of p0 and p3: the gaps are 4 and 2
    assert mean.n.values.tolist() == [2, 1]
    assert "pairs_without_donor" not in effects.attrs


def test_carried_counts_donors_and_not_small_gaps() -> None:
    effects = result([1, 1], clean=[1, 0], corrupt=[0, 0], control=[0, 0])
    assert carried(effects).attrs["pairs_without_donor"] == 0
    assert np.isnan(carried(effects).patching_effect.values[1])


def test_carried_of_another_metric() -> None:
    effects = result([1, 1], clean=[1, 1], corrupt=[0, 0], kl=[1, 2], kl_mismatched=[0.5, nan])
    found = carried(effects, metric="kl")
    np.testing.assert_equal(found.kl.values, [0.5, nan])
    assert "logit_diff_change" not in found
    assert found.attrs["pairs_without_donor"] == 1
    assert aggregate(found, "kl").item() == 0.5


def with_donor(direction: str = "denoise") -> xr.Dataset:
    """Complete patches of three pairs, whose donors leave 1 of 4, all of 2, and nothing to be carried."""
    sign = 1 if direction == "denoise" else -1
    clean, corrupt, said = np.array([3.0, 1.0, 2.0]), np.array([-1.0, -1.0, 1.0]), np.array([2.0, -1.0, 2.5])
    if direction == "noise":
        clean, corrupt = corrupt, clean
    base, other = (corrupt, clean) if sign > 0 else (clean, corrupt)
    effects = result((other - base)[:, None], clean, corrupt, direction, control=(said - base)[:, None])
    return effects.assign(logit_diff_donor=("pair", said))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_complete_patch_scores_one_of_what_the_donor_leaves(direction: str) -> None:
    effects = with_donor(direction)
    np.testing.assert_equal(to_carry(effects).values, [1, 2, nan])
    found = carried(effects)
    np.testing.assert_equal(found.carried_share.values, [[1], [1], [nan]])
    for of in (found, effects):
        mean = aggregate(of, "carried_share")
        assert (mean.values.tolist(), mean.n.values.tolist()) == ([1], [2])
    assert aggregate(found).item() == pytest.approx((1 + 2 - 0.5) / (4 + 2 + 1))
    with pytest.raises(ValueError, match="'logit_diff_donor'"):
        aggregate(effects.drop_vars("logit_diff_donor"), "carried_share")


# Mediation


def both() -> tuple[xr.Dataset, xr.Dataset]:
    # Totals 4 and 1. Denoising restores 3 and 0 of them; noising loses 2 and 1.
    denoise = result([[3], [0]], clean=[3, 1], corrupt=[-1, 0])
    noise = result([[-2], [-1]], clean=[3, 1], corrupt=[-1, 0], direction="noise")
    return denoise, noise


def test_mediation_by_hand() -> None:
    found = mediation(*both())
    assert found.total_effect.values.tolist() == [4, 1]
    assert found.indirect_effect.values.tolist() == [[3], [0]]
    assert found.total_minus_direct.values.tolist() == [[2], [1]]
    assert found.direct_effect.values.tolist() == [[2], [0]]
    assert found.indirect_effect_share.values.tolist() == [0.6]
    assert found.total_minus_direct_share.values.tolist() == [0.6]
    assert found.direct_effect_share.values.tolist() == [0.4]
    assert found.direct_effect_n.values.tolist() == [2]
    assert found.pair.values.tolist() == ["p0", "p1"]
    assert len(found.data_vars) == 10


def test_each_direction_alone_gives_its_own_effects() -> None:
    denoise, noise = both()
    assert set(mediation(denoise).data_vars) == {
        "total_effect", "indirect_effect", "indirect_effect_share", "indirect_effect_n",
    }  # fmt: skip
    found = mediation(effects_noise=noise)
    assert found.total_effect.values.tolist() == [4, 1]
    assert not [name for name in found.data_vars if str(name).startswith("indirect")]
    xr.testing.assert_equal(found, mediation(denoise, noise)[list(found.data_vars)])


def test_mediation_of_a_model_that_can_be_written_down() -> None:
    # Y(x, m) = 2 x + 3 m + x m with M(x) = x, and x from 0 (corrupt) to 1 (clean)
    def y(x: float, m: float) -> float:
        return 2 * x + 3 * m + x * m

    clean, corrupt = y(1, 1), y(0, 0)
    found = mediation(
        result([y(0, 1) - corrupt], [clean], [corrupt]),
        result([y(1, 0) - clean], [clean], [corrupt], direction="noise"),
    )
    assert (found.total_effect.item(), found.indirect_effect.item(), found.direct_effect.item()) == (6, 3, 2)
    assert found.total_minus_direct.item() == 4  # with the interaction, that the indirect effect is without
    assert found.indirect_effect_share.item() == 0.5


@given(results())
@settings(deadline=None, max_examples=40)
def test_direct_and_what_is_lost_are_the_total(effects: xr.Dataset) -> None:
    found = mediation(effects_noise=effects.assign_attrs(direction="noise"))
    whole = (found.direct_effect + found.total_minus_direct).dropna("pair")
    np.testing.assert_allclose(whole, found.total_effect.sel(pair=whole.pair).broadcast_like(whole), atol=1e-9)
    shares = (found.direct_effect_share + found.total_minus_direct_share).dropna("layer")
    np.testing.assert_allclose(shares, 1)


def test_directions_are_never_mixed() -> None:
    denoise, noise = both()
    with pytest.raises(
        ValueError, match="effects_denoise has the direction 'noise': .*no number is of both. Pass effects_noise"
    ):
        mediation(noise)
    with pytest.raises(ValueError, match="effects_noise has the direction 'denoise': .* Pass effects_denoise"):
        mediation(denoise, denoise)
    with pytest.raises(ValueError, match="mediation needs a result: effects_denoise, effects_noise, or both"):
        mediation()


def test_results_of_other_pairs_are_refused() -> None:
    denoise, noise = both()
    with pytest.raises(ValueError, match="of other pairs: 2 denoised, 1 noised"):
        mediation(denoise, noise.isel(pair=[0]))
    with pytest.raises(ValueError, match="of other pairs: 2 denoised, 2 noised"):
        mediation(denoise, noise.isel(pair=[1, 0]))
    other = noise.assign(logit_diff_clean=noise.logit_diff_clean + np.array([0, 1]))
    with pytest.raises(ValueError, match="other pairs or models: 1 of 2 total effects differ, first number 1"):
        mediation(denoise, other)
    mediation(denoise, noise.assign(logit_diff_clean=noise.logit_diff_clean + 1e-6))
    places = (denoise.assign_coords(layer=[3]), noise.assign_coords(layer=[4]))
    with pytest.raises(ValueError, match="effects_denoise and effects_noise are of other places"):
        mediation(*places)


# Messages


def test_what_is_missing_is_named() -> None:
    effects = result([[1], [1]], clean=[1, 1], corrupt=[0, 0], kl=[[1], [1]])
    effects = effects.assign_coords(group=("pair", ["a", "b"]), layer=[3])
    with pytest.raises(
        ValueError, match="no metric or baseline 'patching_efect'; did you mean 'patching_effect'\\? valid: "
    ):
        aggregate(effects, "patching_efect")
    with pytest.raises(ValueError, match="no metric or baseline 'below_floor'"):
        aggregate(effects, "below_floor")
    with pytest.raises(ValueError, match="no dimension of 'kl' 'layr'; did you mean 'layer'"):
        aggregate(effects, "kl", over="layr")
    with pytest.raises(
        ValueError, match="no coordinate along `pair` 'grup'; did you mean 'group'\\? valid: 'pair', 'group'"
    ):
        aggregate(effects, by="grup")
    with pytest.raises(ValueError, match="no coordinate along `pair` 'layer'"):
        aggregate(effects, by="layer")
    with pytest.raises(ValueError, match="by='group' groups pairs, and over='layer' averages over something else"):
        aggregate(effects, over="layer", by="group")
    with pytest.raises(ValueError, match="no pair has a value of the coordinate 'group'"):
        aggregate(effects.assign_coords(group=("pair", [nan, nan])), by="group")
    with pytest.raises(ValueError, match="no control 'kl_mismatched': this result was made without a mismatched donor"):
        carried(effects, "kl")
    with pytest.raises(ValueError, match="no control 'kl_mismatched'; .*valid: 'answer_prob_mismatched'"):
        carried(effects.assign(answer_prob_mismatched=effects.kl), "kl")
    with pytest.raises(ValueError, match="no metric or baseline 'klm'; did you mean 'kl'"):
        carried(effects, "klm")
    with pytest.raises(ValueError, match="no metric or baseline 'logit_diff_corrupt'; did you mean 'logit_diff_c"):
        aggregate(effects.drop_vars("logit_diff_corrupt"))
    with pytest.raises(ValueError, match="no metric or baseline 'logit_diff_change'"):
        mediation(effects.drop_vars("logit_diff_change"))


def test_attributes_that_are_missing_are_named() -> None:
    effects = result([1], clean=[1], corrupt=[0])
    with pytest.raises(
        ValueError, match="no direction 'denoising'; did you mean 'denoise'\\? valid: 'denoise', 'noise'"
    ):
        aggregate(effects.assign_attrs(direction="denoising"))
    for name in ("direction", "min_gap"):
        short = effects.copy()
        del short.attrs[name]
        with pytest.raises(ValueError, match=f"no attribute of this result '{name}'"):
            aggregate(short)


# A sweep's own result


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_of_the_image_at_once_carries_everything(mini: HookedBLIP, direction: str) -> None:
    pairs = mini_world("states", 6, seed=1)
    site = patching.Site.of(mini, "vision.resid_post", layers=[0, 3], positions="all")
    effects = patching.sweep(mini, pairs, site, direction=direction, progress=False)
    own = aggregate(carried(effects), "carried_share")
    np.testing.assert_allclose(own, 1, rtol=1e-4)
    np.testing.assert_allclose(aggregate(effects, "carried_share"), own)
    np.testing.assert_allclose(effects.carried_share, 1, rtol=1e-4)
    # The donor's picture moves the answer too, so the share of the gap falls short of all.
    assert abs(aggregate(carried(effects)) - 1).min() > 0.1
    # What the donor's own run says is what a patch of everything from it gives.
    base = effects.logit_diff_corrupt if direction == "denoise" else effects.logit_diff_clean
    change = effects.logit_diff_change_mismatched
    np.testing.assert_allclose((base + change).transpose(*change.dims) - effects.logit_diff_donor, 0, atol=1e-3)
    assert effects.answer_prob_donor.notnull().all()


def test_a_pair_without_a_donor_has_no_answer_of_one(mini: HookedBLIP) -> None:
    rows = [dict(pair.record) for pair in mini_world("states", 3, seed=1)]
    rows[1] = {**rows[1], "donor_image": None, "donor_digest": None}
    site = patching.Site.of(mini, "text.cross_attn", layers=2, heads=[1])
    effects = patching.sweep(mini, MinimalPairs.from_rows(rows), site, progress=False)
    assert effects.logit_diff_donor.isnull().values.tolist() == [False, True, False]
    assert effects.carried_share.isnull().all(["layer", "head", "role"]).values.tolist() == [False, True, False]
    plain = patching.sweep(mini, MinimalPairs.from_rows(rows), site, controls=("self",), progress=False)
    assert not {"logit_diff_donor", "carried_share"} & {*plain.data_vars}


def test_a_sweep_of_its_own(mini: HookedBLIP) -> None:
    pairs = mini_world("states", 4, seed=1)
    site = patching.Site.of(mini, "text.cross_attn", layers=2, heads=[1, 2])
    effects = patching.sweep(mini, pairs, site, progress=False)
    full = effects.logit_diff_clean - effects.logit_diff_corrupt
    xr.testing.assert_allclose(gap(effects), full)
    mean = patching.aggregate(effects)
    assert mean.dims == ("layer", "head", "role")
    assert mean.sel(role="correct").n.values.tolist() == [[4, 4]]
    np.testing.assert_allclose(mean, effects.logit_diff_change.sum("pair") / full.sum(), rtol=1e-5)
    np.testing.assert_allclose(patching.aggregate(effects, "kl"), effects.kl.mean("pair"))
    grouped = patching.aggregate(effects, by="group")
    assert grouped.group.values.tolist() == sorted(set(effects.group.values))
    own = patching.carried(effects)
    np.testing.assert_allclose(
        own.logit_diff_change, effects.logit_diff_change - effects.logit_diff_change_mismatched, rtol=1e-6
    )
    assert patching.aggregate(own).notnull().all()
    noised = patching.sweep(mini, pairs, site, direction="noise", progress=False)
    found = patching.mediation(effects, noised)
    total = found.direct_effect + found.total_minus_direct
    np.testing.assert_allclose(total, found.total_effect.broadcast_like(total), rtol=1e-5)
    np.testing.assert_allclose(found.indirect_effect_share, mean)


def test_a_sweep_of_patching_effects_alone_can_be_averaged(mini: HookedBLIP) -> None:
    pairs = mini_world("states", 3, seed=1)
    site = patching.Site.of(mini, "text.cross_attn", layers=2, heads=2)
    effects = patching.sweep(mini, pairs, site, metrics="patching_effect", progress=False)
    whole = patching.sweep(mini, pairs, site, progress=False)
    xr.testing.assert_equal(patching.aggregate(effects), patching.aggregate(whole))
    xr.testing.assert_equal(patching.aggregate(patching.carried(effects)), patching.aggregate(patching.carried(whole)))
