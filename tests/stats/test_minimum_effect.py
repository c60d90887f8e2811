"""The test of a smallest effect: its statistic by hand, its resamples by brute force, its error rates in small."""

import numpy as np
import pytest
from scipy import stats
from transformer_lens.utilities.statistics import sign_flip_permutation_pvalue

from notice_lens.stats.clusters import Sums, crossed, flips, resamples
from notice_lens.stats.minimum_effect import MinimumEffect, Moments, larger_side

CLUSTERS, PLACES = 12, 3


@pytest.fixture
def sums() -> Sums:
    rng = np.random.default_rng(3)
    gap = rng.gamma(9, 2, CLUSTERS)
    change = gap[:, None] * ([0.3, -0.2, 0.0] + 0.2 * rng.exponential(size=(CLUSTERS, PLACES)) - 0.2)
    return Sums.of(change, gap, np.arange(CLUSTERS))


def by_hand(values: np.ndarray, edge: float) -> float:
    """The statistic of one head's excesses, by scipy's t and skewness and Hall's formula as it is printed."""
    n = len(values)
    error = values.std(ddof=1) * np.sqrt(n)
    k = stats.skew(values) * ((n - 1) / n) ** 1.5 / np.sqrt(n)
    sides = [(stats.ttest_1samp(values, 0).statistic, k), ((-values.sum() - 2 * edge) / error, -k)]
    return max(t + k / 6 + k * t**2 / 3 + k**2 * t**3 / 27 for t, k in sides)


@pytest.mark.parametrize("smallest", [0.0, 0.02, 0.5])
def test_the_statistic_is_halls_t_of_the_excesses(sums: Sums, smallest: float) -> None:
    test = MinimumEffect([sums], None, smallest)
    for place in range(PLACES):
        d = sums.change[:, place]
        excess = np.sign(d.sum()) * d - smallest * sums.gap[:, 0]
        assert test.statistic[place] == pytest.approx(by_hand(excess, smallest * sums.gap.sum()))


def test_null_draws_are_statistics_of_flipped_and_of_centred_excesses(sums: Sums) -> None:
    test = MinimumEffect([sums], None, 0.02)
    excess, edge = test.excess(sums), 0.02 * sums.gap.sum()
    signs = flips(np.random.default_rng(5), CLUSTERS, 4)
    null = test.null(flips, 4, np.random.default_rng(5), centred=False)
    counts = resamples(np.random.default_rng(5), CLUSTERS, 4).astype(int)
    boot = test.null(resamples, 4, np.random.default_rng(5), centred=True)
    for draw in range(4):
        for place in range(PLACES):
            own = excess[:, place]
            assert null.draws[draw, place] == pytest.approx(by_hand(signs[draw] * own, edge))
            drawn = np.repeat(own - own.mean(), counts[draw])
            assert boot.draws[draw, place] == pytest.approx(by_hand(drawn, edge))


def test_a_resample_is_the_data_with_clusters_repeated(sums: Sums) -> None:
    counts = np.random.default_rng(0).integers(0, 4, (5, CLUSTERS))
    found = MinimumEffect([sums], None, 0.05).resampled([counts.astype(float)])
    for row, sign, drawn in zip(*found, counts, strict=True):
        again = np.repeat(np.arange(CLUSTERS), drawn)
        same = MinimumEffect([Sums(sums.change[again], sums.gap[again])], None, 0.05)
        np.testing.assert_allclose(row, same.statistic)
        np.testing.assert_array_equal(sign, same.sign)


def test_symmetric_values_have_the_p_of_plain_sign_flips() -> None:
    # Values in pairs about their mean have no skewness; all flips of eight clusters are drawn about forty times.
    import torch

    half = np.array([0.3, 1.0, 1.4, 2.0])
    values = np.concatenate([0.9 + half, 0.9 - half])
    test = MinimumEffect([Sums(values[:, None], np.ones((8, 1)))], None, 0.0)
    null = test.null(flips, 10_000, np.random.default_rng(0), centred=False)
    exact = float(sign_flip_permutation_pvalue(torch.tensor(values)))
    assert null.own(test.statistic)[0] == pytest.approx(exact, abs=0.04)


def test_the_same_values_everywhere_are_beyond_doubt_or_nothing() -> None:
    some = Moments.of(4, np.array([4.0, 0.0, -4.0]), np.array([4.0, 0.0, 4.0]), np.array([4.0, 0.0, -4.0]))
    np.testing.assert_array_equal(larger_side(some, 0.0), [np.inf, 0, np.inf])


def test_two_equal_partitions_are_one(sums: Sums) -> None:
    labels = np.arange(CLUSTERS)
    both = crossed(labels, labels)
    test = MinimumEffect([sums, sums], Sums.of(sums.change, sums.gap[:, 0], both), 0.02)
    np.testing.assert_allclose(test.statistic, MinimumEffect([sums], None, 0.02).statistic)


def test_two_partitions_add_their_variances(sums: Sums) -> None:
    # rows of a 3 by 4 table and its columns: V = V_rows + V_columns - V_cells, unless one of them is larger
    rows, columns = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    parts = [Sums.of(sums.change, sums.gap[:, 0], own) for own in (rows, columns)]
    test = MinimumEffect(parts, sums, 0.0)

    def variance(own: Sums) -> np.ndarray:
        return test.excess(own).var(0, ddof=1) * len(own)

    one, other, cells = variance(parts[0]), variance(parts[1]), variance(sums)
    expected = np.maximum(np.maximum(one, other), one + other - cells)
    np.testing.assert_allclose(test.moments.square, expected)


@pytest.mark.parametrize(("skewed", "effect"), [(False, 0.02), (True, 0.02), (True, -0.02), (True, 0.0)])
def test_error_rate_is_at_most_nominal(skewed: bool, effect: float) -> None:
    """24 heads, 40 clusters, 200 runs: any head found in at most 5 % of runs, within three standard errors."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        gap = rng.gamma(20, 1, 40)
        noise = rng.exponential(size=(40, 24)) - 1 if skewed else rng.normal(size=(40, 24))
        sums = Sums(gap[:, None] * (effect - np.sign(effect or 1) * 0.05 * noise), gap[:, None])
        test = MinimumEffect([sums], None, 0.02 if effect else 0.0)
        q = [
            test.null(draw, 199, rng, centred).family_wise(test.statistic)
            for draw, centred in ((flips, False), (resamples, True))
        ]
        wrong += bool((np.maximum(*q) <= 0.05).any())
    assert wrong <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_heads_without_spread_do_not_hide_one_that_carries_everything():
    """Excesses that are a constant are zero when they are centred, and not what rounding leaves of them."""
    change = np.zeros((16, 6))
    change[:, 5] = 0.7
    sums = Sums.of(change, np.full(16, 0.7), np.arange(16))
    test = MinimumEffect([sums], smallest=0.02)
    null = test.null(resamples, 500, np.random.default_rng(0), centred=True)
    assert np.isfinite(null.draws).all()
    np.testing.assert_array_equal(null.family_wise(test.statistic) < 0.01, [False] * 5 + [True])
