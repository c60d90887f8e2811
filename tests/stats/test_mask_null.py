"""Areas and their null, against counting, Mann-Whitney and all permutations."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm, pearson3

from notice_lens.circuits.functions.amounts import inside
from notice_lens.stats.clusters import members
from notice_lens.stats.masks import THRESHOLDS, areas, by_cluster, crossfitted_iou, pointing, tails


def some_maps(n: int, heads: int = 2, patches: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.4, size=(n, heads, patches))


def some_masks(n: int, patches: int = 16, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.isin(np.arange(patches), rng.permutation(patches)[: rng.integers(1, 6)]) for _ in range(n)])


def test_areas_are_those_of_mann_and_whitney():
    maps, region = some_maps(5).round(1), some_masks(5)
    other = some_masks(5, seed=2) & ~region
    (found,) = areas(maps, [region], ~region & ~other)
    for head in range(2):
        for pair in range(5):
            for mask in range(5):
                own, outside = maps[pair, head][region[mask]], maps[pair, head][~region[mask] & ~other[mask]]
                expected = mannwhitneyu(own, outside).statistic / (len(own) * len(outside))
                assert found[head, pair, mask] == pytest.approx(expected, abs=1e-12)
    assert (maps[:, 0, :, None] == maps[:, 0, None, :]).sum() > 5 * 16, "the maps have ties"


def test_an_area_without_patches_is_nan():
    region = some_masks(3)
    region[0] = False
    outside = ~region
    outside[1] = False
    (found,) = areas(some_maps(3), [region], outside)
    assert np.isnan(found[:, :, :2]).all()
    assert not np.isnan(found[:, :, 2]).any()


def test_moments_are_those_of_all_permutations():
    sums = np.random.default_rng(3).gamma(0.5, size=(1, 6, 6))
    every = np.array([sum(sums[0, row, column] for row, column in enumerate(own)) for own in permutations(range(6))])
    found = tails(sums, 6)
    apart = every - every.mean()
    assert found.mean[0] == pytest.approx(every.mean() / 6)
    spread = np.sqrt((apart**2).mean())
    z, skew = (sums[0].trace() - every.mean()) / spread, (apart**3).mean() / spread**3
    assert found.above[0] == pytest.approx(max(norm.sf(z), pearson3.sf(z, skew)))
    assert found.below[0] == pytest.approx(max(norm.sf(-z), pearson3.sf(-z, -skew)))


def test_tails_are_those_of_drawn_permutations():
    maps, masks = some_maps(30, 150, seed=8), some_masks(30)
    maps[0] += 0.05 * masks[0]
    (values,) = areas(maps, [masks], ~masks)
    found = tails(values, 30)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(30), (10000, 1)), axis=1)
    drawn = values[:, np.arange(30), order].sum(-1)
    seen = values.trace(axis1=1, axis2=2)[:, None]
    for got, expected in ((found.above, (drawn >= seen).mean(-1)), (found.below, (drawn <= seen).mean(-1))):
        assert got == pytest.approx(expected, abs=0.015)
        small = (expected > 0.002) & (expected < 0.05)
        assert small.sum() >= 3
        assert got[small] == pytest.approx(expected[small], rel=0.5)


def test_a_margin_moves_the_null_into_the_room_that_is_left():
    maps, masks = some_maps(30, 1), some_masks(30)
    maps[:, 0] += 0.3 * masks
    (values,) = areas(maps, [masks], ~masks)
    reached = (values[0].trace() / 30 - tails(values, 30).mean[0]) / (1 - tails(values, 30).mean[0])
    assert tails(values, 30, reached).above[0] == pytest.approx(0.5, abs=0.06)
    assert tails(values, 30, 0.5 * reached).above[0] < 0.05


def test_by_cluster_moves_pairs_together():
    values = np.random.default_rng(0).random((1, 5, 5))
    clusters = [np.array([0, 3]), np.array([1]), np.array([2, 4])]
    found = by_cluster(values, clusters)[0]
    own = values[0]
    assert found[0, 0] == pytest.approx(own[0, 0] + own[3, 3])
    assert found[0, 1] == pytest.approx(own[0, 1] + own[3, 1])
    assert found[1, 2] == pytest.approx(own[1, 2])
    assert found[2, 0] == pytest.approx(own[2, 0] + own[4, 3])


def test_heads_that_see_nothing_are_found_as_often_as_promised():
    heads, n = 1500, 36
    habits = np.random.default_rng(5).gamma(1, size=(1, heads, 16))
    maps = some_maps(n // 2, heads, seed=6) * habits
    masks = some_masks(n // 2, seed=7)
    # Each pair comes twice, as a pair and its reverse do.
    maps, masks, labels = np.concatenate([maps, maps]), np.concatenate([masks, masks]), np.tile(np.arange(n // 2), 2)
    (values,) = areas(maps, [masks], ~masks)
    found = tails(by_cluster(values, members(labels)), n)
    for p in (found.above, found.below):
        assert 0.03 < (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / heads)
    careless = tails(values, n)
    assert (careless.above < 0.05).mean() > 0.08, "twice the same is no more evidence"


def test_iou_is_that_of_thresholds_chosen_on_other_images():
    maps, masks = some_maps(11, 3, seed=9), some_masks(11, seed=10)
    maps[:, 0] += masks
    folds = np.arange(11) % 5
    expected = np.zeros((11, 3))

    def overlap(pair: Any, head: int, share: float) -> float:
        above = maps[pair, head] >= share * maps[pair, head].max()
        return (above & masks[pair]).sum() / (above | masks[pair]).sum()

    for head in range(3):
        for pair in range(11):
            others = np.flatnonzero(folds != folds[pair])
            means = [np.mean([overlap(other, head, share) for other in others]) for share in THRESHOLDS]
            expected[pair, head] = overlap(pair, head, THRESHOLDS[int(np.argmax(means))])
    found = crossfitted_iou(maps, masks, [np.array([number]) for number in range(11)])
    assert found == pytest.approx(expected.mean(0))
    assert found[0] > found[1]


def test_pointing_and_share_inside():
    maps = np.array([[[0.1, 0.5, 0.4, 0.0]], [[0.25, 0.25, 0.25, 0.25]], [[0.0, 0.4, 0.4, 0.2]]])
    masks = np.array([[False, True, False, False]] * 3)
    assert pointing(maps, masks) == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert inside(maps, masks)[:, 0] == pytest.approx([0.5, 0.25, 0.4])
