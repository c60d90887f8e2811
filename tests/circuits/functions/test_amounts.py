"""Amounts of attention: next to nothing is nothing, whatever its rank says."""

import numpy as np
import pytest
import xarray as xr

from known_attention import HEADS, LAYERS, SIDE, attention, boxes, found
from notice_lens.circuits.functions.amounts import amounts, by_habit, enough
from notice_lens.circuits.functions.scores import score_maps

N = 40
HEAD = (1, 4)
HAIR = 1e-7


def preferring(times: float, masks: np.ndarray, beside: np.ndarray | None = None) -> xr.DataArray:
    """Random maps, but for one head, which gives each patch of the masks so many times what others get."""
    weight = attention(len(masks), seed=1)
    own = np.where(masks, times, 1.0) * (1 if beside is None else beside)
    weight[:, 0, *HEAD] = own / own.sum(-1, keepdims=True)
    return weight


@pytest.mark.parametrize(
    ("times", "label"),
    [
        (1 + HAIR, None), (1.01, None), (1.5, None), (3, "segmentation"), (100, "segmentation"),
        (1 - HAIR, None), (0.99, None), (0.75, None), (0.3, "avoidance"), (0, "avoidance"),
    ],
)  # fmt: skip
def test_a_preference_has_to_be_large_enough(times: float, label: str | None):
    masks = boxes(N, seed=1)
    scores = score_maps(preferring(times, masks), {"object": masks})
    for name in ("segmentation", "avoidance"):
        assert (HEAD in found(scores, name)) == (name == label)
    one = scores.isel(role=0, region=0).sel(layer=HEAD[0], head=HEAD[1])
    # The rank is perfect all the same.
    assert one.auroc == pytest.approx(float(times > 1))
    share = 4 / SIDE**2
    assert one.attention_ratio == pytest.approx(times / (1 + (times - 1) * share))
    assert one.attention_ratio_low == pytest.approx(one.attention_ratio_high)
    side = "segmentation" if times > 1 else "avoidance"
    assert one[f"p_{side}_rank"] < 1e-6
    assert one[f"p_{side}"] == max(one[f"p_{side}_rank"], one[f"p_{side}_amount"])


@pytest.mark.parametrize(("times", "shuns"), [(1 - HAIR, False), (0.9, False), (0.75, False), (0.3, True), (0, True)])
def test_outliers_have_to_get_little_enough(times: float, shuns: bool):
    masks, rng = boxes(N, seed=2), np.random.default_rng(2)
    outlier = np.zeros(masks.shape, bool)
    for pair in range(N):
        outlier[pair, rng.choice(np.flatnonzero(~masks[pair]))] = True
    scores = score_maps(preferring(times, outlier), {"object": masks}, np.where(outlier, 50.0, 10.0))
    assert (HEAD in found(scores, "outlier")) == shuns
    one = scores.isel(role=0).sel(layer=HEAD[0], head=HEAD[1])
    assert one.p_outlier_rank < 1e-6
    n_outside = SIDE**2 - 4
    assert one.outlier_attention == pytest.approx(times * n_outside / (n_outside - 1 + times))
    assert one.outlier_attention_low <= one.outlier_attention <= one.outlier_attention_high


def test_a_habit_of_place_and_a_hair_are_no_segmentation():
    rng = np.random.default_rng(3)
    middle = np.zeros((SIDE, SIDE))
    middle[1:-1, 1:-1] = 1
    masks = np.zeros((N, SIDE, SIDE), bool)
    for mask, (row, column) in zip(masks, rng.integers(1, SIDE - 2, (N, 2)), strict=True):
        mask[row : row + 2, column : column + 2] = True
    masks = masks.reshape(N, -1)
    scores = score_maps(preferring(1 + HAIR, masks, 1 + 4 * middle.ravel()), {"object": masks})
    one = scores.isel(role=0, region=0).sel(layer=HEAD[0], head=HEAD[1])
    assert one.attention_ratio == pytest.approx(1.8)
    assert one.attention_expected == pytest.approx(1.8)
    assert one.p_segmentation_rank < 1e-6
    assert HEAD not in found(scores, "segmentation")
    truly = score_maps(preferring(4, masks, 1 + 4 * middle.ravel()), {"object": masks})
    assert HEAD in found(truly, "segmentation")


def test_regions_that_are_most_of_the_image_can_be_looked_at():
    share = np.linspace(0, 0.999, 50)
    for factor in (1.1, 1.5, 3.0):
        assert (enough(share, factor) < 1).all()
    assert enough(np.array([0.1, 0.5, 0.8]), 1.5) == pytest.approx([0.15, 0.75, 0.9])
    masks = ~boxes(N, seed=4, size=3)
    scores = score_maps(preferring(100, masks), {"scene": masks})
    assert HEAD in found(scores, "segmentation")
    assert HEAD not in found(score_maps(preferring(1.5, masks), {"scene": masks}), "segmentation")


def test_a_ratio_is_one_of_sums_over_pairs():
    rng = np.random.default_rng(5)
    masks = rng.random((N, SIDE**2)) < rng.uniform(0.02, 0.3, (N, 1))
    masks[:, 0] = True
    weight = attention(N, seed=5)
    found = score_maps(weight, {"object": masks}).isel(role=0, region=0)
    inside = (weight[:, 0].values * masks[:, None, None]).sum(-1).sum(0)
    assert found.attention_ratio.values == pytest.approx(inside / masks.mean(-1).sum())
    others = np.stack([np.delete(weight[:, 0].values, pair, axis=0).mean(0) for pair in range(N)])
    habit = (others * masks[:, None, None]).sum(-1).sum(0)
    assert found.attention_expected.values == pytest.approx(habit / masks.mean(-1).sum())
    assert (found.attention_ratio_low < found.attention_ratio).all()
    assert (found.attention_ratio < found.attention_ratio_high).all()


@pytest.mark.parametrize("clusters", [20, 40])
@pytest.mark.parametrize("spread", [5.0, 100.0])
def test_at_the_bound_amounts_are_called_enough_as_often_as_they_may_be(clusters: int, spread: float):
    draws, share, rng = 2000, 0.1, np.random.default_rng(6)
    labels = np.repeat(np.arange(clusters), 2)
    even = np.full((2 * clusters, draws), share)
    for bound, name in ((1.5 * share, "p_more"), (share / 1.5, "p_less")):
        mass = rng.beta(spread * bound, spread * (1 - bound), (clusters, draws)).repeat(2, axis=0)
        habit = np.zeros_like(mass) if name == "p_more" else np.ones_like(mass)
        p = getattr(amounts(mass[:, :200], even[:, :200], habit[:, :200], labels), name)
        once = getattr(amounts(mass[::2], even[::2], habit[::2], np.arange(clusters)), name)
        assert p == pytest.approx(once[:200])
        assert (once <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws)


def test_amounts_without_spread_are_certain():
    share = np.full((20, 1), 0.1)
    for times, more, less in ((3.0, 0, 1), (1.0, 1, 1), (0.2, 1, 0)):
        found = amounts(times * share, share, share, np.arange(20))
        assert (found.p_more.item(), found.p_less.item()) == pytest.approx((more, less))
        assert found.low == found.high == found.ratio == pytest.approx(times)


def test_a_habit_is_of_other_clusters():
    maps, masks = np.random.default_rng(7).random((5, 2, 9)), np.random.default_rng(8).random((5, 9)) < 0.5
    found = by_habit(maps, masks, np.array([0, 0, 1, 2, 2]))
    assert found[0] == pytest.approx((maps[2:] * masks[0]).sum(-1).mean(0))
    assert found[2] == pytest.approx((maps[[0, 1, 3, 4]] * masks[2]).sum(-1).mean(0))
    assert np.isnan(by_habit(maps, masks, np.zeros(5, int))).all()


@pytest.mark.parametrize("ratio", [1.0, 0.5, float("nan")])
def test_a_smallest_ratio_is_above_one(ratio: float):
    with pytest.raises(ValueError, match="expected a smallest_ratio above 1 .*, got"):
        score_maps(attention(20), {"object": boxes(20)}, smallest_ratio=ratio)
    assert (LAYERS, HEADS) == (2, 8)
