"""The bootstrap-t by brute force: resamples as repeated clusters, quantiles turned around."""

import numpy as np

from notice_lens.circuits.clusters import Sums
from notice_lens.circuits.intervals import bootstrap_t
from notice_lens.circuits.minimum_effect import resamples


def ratio(change: np.ndarray, gap: np.ndarray) -> tuple[float, float]:
    """Change over gap with its standard error."""
    effect = change.sum() / gap.sum()
    residual = change - effect * gap
    return effect, np.sqrt((residual**2).sum() * len(gap) / (len(gap) - 1)) / gap.sum()


def test_the_interval_is_the_studentised_one() -> None:
    rng = np.random.default_rng(0)
    gap, change = rng.gamma(9, 2, 20), rng.exponential(1, (20, 2))
    low, high = bootstrap_t([Sums(change, gap[:, None])], None, 200, 0.9, np.random.default_rng(4))
    counts = resamples(np.random.default_rng(4), 20, 200).astype(int)
    for place in range(2):
        effect, error = ratio(change[:, place], gap)
        drawn = [ratio(np.repeat(change[:, place], own), np.repeat(gap, own)) for own in counts]
        t = np.array([(one - effect) / spread for one, spread in drawn])
        np.testing.assert_allclose(low[place], effect - np.quantile(t, 0.95) * error)
        np.testing.assert_allclose(high[place], effect - np.quantile(t, 0.05) * error)
        # A long tail above: the truth may be farther above the effect than below it.
        assert high[place] - effect > effect - low[place]


def test_no_spread_no_width() -> None:
    gap = np.linspace(1, 2, 20)[:, None]
    low, high = bootstrap_t([Sums(0.5 * gap, gap)], None, 50, 0.95, np.random.default_rng(0))
    np.testing.assert_allclose([low, high], 0.5)
