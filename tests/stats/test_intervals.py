"""The bootstrap-t by brute force: resamples as repeated clusters, quantiles turned around."""

import numpy as np
from scipy import stats

from notice_lens.circuits.corruptions import cosine, rank_scores
from notice_lens.stats.clusters import Sums, resamples
from notice_lens.stats.intervals import bootstrap_t, correlation_ends, standard_error, wilson


def ratio(change: np.ndarray, gap: np.ndarray) -> tuple[float, float]:
    """Change over gap with its standard error, clusters of different sizes allowed for."""
    effect = change.sum() / gap.sum()
    residual = change - effect * gap
    return effect, np.sqrt((residual**2 / (1 - gap / gap.sum())).sum()) / gap.sum()


def test_the_interval_is_the_studentised_one() -> None:
    rng = np.random.default_rng(0)
    gap, change = rng.gamma(9, 2, 20), rng.lognormal(0, 1.5, (20, 2))
    low, high = bootstrap_t([Sums(change, gap[:, None])], None, 200, 0.9, np.random.default_rng(4))
    counts = resamples(np.random.default_rng(4), 20, 200).astype(int)
    student = stats.t.ppf(0.95, gap.sum() ** 2 / (gap**2).sum() - 1)
    for place in range(2):
        effect, error = ratio(change[:, place], gap)
        drawn = [ratio(np.repeat(change[:, place], own), np.repeat(gap, own)) for own in counts]
        t = np.array([(one - effect) / spread for one, spread in drawn])
        np.testing.assert_allclose(low[place], effect - max(np.quantile(t, 0.95), student) * error)
        np.testing.assert_allclose(high[place], effect - min(np.quantile(t, 0.05), -student) * error)
        # A long tail above: the truth may be farther above the effect than below it.
        assert high[place] - effect > 1.2 * (effect - low[place])


def test_with_equal_gaps_the_standard_error_is_the_usual_one() -> None:
    change = np.random.default_rng(0).normal(0, 1, (20, 1))
    sums = Sums(change, np.full((20, 1), 4.0))
    error = standard_error([sums], None, change.sum(0) / sums.gap.sum())
    np.testing.assert_allclose(error, change.std(0, ddof=1) / np.sqrt(20) / 4)


def test_long_tails_are_covered() -> None:
    """Student's t with two degrees of freedom: the variance is infinite, and a few clusters make up most of it."""
    rng, covered = np.random.default_rng(0), []
    gap = np.ones((40, 1))
    for _ in range(6):
        change = 0.2 + rng.standard_t(2, (40, 100))
        low, high = bootstrap_t([Sums(change, gap)], None, 500, 0.95, rng)
        covered.append(((low <= 0.2) & (high >= 0.2)).mean())
    assert np.mean(covered) >= 0.93


def test_a_cluster_of_a_third_of_the_pairs_is_allowed_for() -> None:
    rng, covered = np.random.default_rng(0), []
    gap = np.array([[15.0], *[[1.0]] * 30])
    for _ in range(6):
        change = 0.2 * gap + gap * rng.normal(0, 1, (31, 100))
        low, high = bootstrap_t([Sums(change, gap)], None, 500, 0.95, rng)
        covered.append(((low <= 0.2) & (high >= 0.2)).mean())
    assert np.mean(covered) >= 0.9


def test_no_spread_no_width() -> None:
    gap = np.linspace(1, 2, 20)[:, None]
    low, high = bootstrap_t([Sums(0.5 * gap, gap)], None, 50, 0.95, np.random.default_rng(0))
    np.testing.assert_allclose([low, high], 0.5)


def test_a_high_correlation_is_covered() -> None:
    """Noise pulls a rank correlation near 1 down, and resampling does so once more: by BCa most intervals end below."""
    rng, covered = np.random.default_rng(0), []
    one = 0.1 * np.linspace(0.02, 1, 24) ** 2
    effect = np.concatenate([one, one * rng.uniform(0.6, 1.6, 24)])
    gap = np.ones((100, 1))
    truth = _agreement(effect[None])[0, 0]
    for _ in range(60):
        sums = Sums(effect + rng.normal(0, 0.08, (100, 48)), gap)
        low, high = correlation_ends(_agreement, [sums], 300, 0.95, rng)
        covered.append(low[0] <= truth <= high[0])
    assert np.mean(covered) >= 0.9


def test_a_correlation_lies_in_its_interval_and_one_is_one() -> None:
    rng = np.random.default_rng(0)
    change = rng.normal(0.1, 0.3, (40, 24))
    gap = np.ones((40, 1))
    both = np.concatenate([change, change], 1)
    low, high = correlation_ends(_agreement, [Sums(both, gap)], 200, 0.95, rng)
    assert low[0] == high[0] == 1
    other = np.concatenate([change, -change[:, ::-1] + rng.normal(0, 0.3, (40, 24))], 1)
    low, high = correlation_ends(_agreement, [Sums(other, gap)], 200, 0.95, rng)
    assert -1 <= low[0] <= _agreement(other.mean(0)[None])[0, 0] <= high[0] <= 1
    low, high = correlation_ends(_agreement, [Sums(both[:1], gap[:1])], 200, 0.95, rng)
    assert np.isnan([low, high]).all()


def test_a_rate_has_wilsons_interval_at_its_ends_too() -> None:
    for flipped, n in ((0, 12), (3, 12), (12, 12), (170, 493)):
        for confidence in (0.9, 0.95):
            ends = wilson(flipped / n, n, confidence)
            expected = stats.binomtest(flipped, n).proportion_ci(confidence, method="wilson")
            np.testing.assert_allclose(ends, (expected.low, expected.high), atol=1e-12)


def _agreement(effect: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of two halves, [1, resample], from [resample, place]."""
    one, other = (rank_scores(half, "spearman_signed") for half in np.split(effect, 2, axis=1))
    return cosine(one, other)[None]


def test_of_two_clusters_the_interval_is_students() -> None:
    """Resamples of one cluster alone have no spread but rounding, and say nothing of t."""
    change, gap = np.array([[0.1, 0.7], [0.4, 0.71]]), np.array([[1.1], [1.3]])
    low, high = bootstrap_t([Sums(change, gap)], None, 2000, 0.95, np.random.default_rng(0))
    for place in range(2):
        effect, error = ratio(change[:, place], gap[:, 0])
        reach = stats.t.ppf(0.975, 1) * error
        np.testing.assert_allclose([low[place], high[place]], [effect - reach, effect + reach])


def test_no_interval_is_wider_than_that_of_two_clusters() -> None:
    """Two of twenty pairs make up the spread; resamples without them have hardly any, and t of thousands."""
    rng = np.random.default_rng(0)
    change, gap = 0.1 + rng.normal(0, 1e-5, (20, 1)), np.ones((20, 1))
    change[:2] += [[1.0], [2.0]]
    low, high = bootstrap_t([Sums(change, gap)], None, 2000, 0.95, rng)
    effect, error = ratio(change[:, 0], gap[:, 0])
    reach = stats.t.ppf(0.975, 1) * error
    np.testing.assert_allclose(high[0] - effect, reach)
    assert low[0] >= effect - reach


def test_the_bound_costs_no_coverage_where_few_pairs_make_up_the_spread() -> None:
    """One pair in seven has an effect of 1, the others hardly any. Of 40 pairs none may have it: no interval knows."""
    rng, covered = np.random.default_rng(0), []
    gap = np.ones((40, 1))
    for _ in range(6):
        some = rng.uniform(size=(40, 100)) < 1 / 7
        change = np.where(some, 1.0, rng.normal(0, 1e-3, (40, 100)))
        low, high = bootstrap_t([Sums(change, gap)], None, 500, 0.95, rng)
        covered.append(((low <= 1 / 7) & (high >= 1 / 7)).mean())
    assert np.mean(covered) >= 0.93
