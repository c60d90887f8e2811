"""Means over pairs, clusters of pairs kept together: sign-flip tests and bootstrap intervals.

If a value has nothing to say, it is as often above zero as below, and its sign can be flipped cluster by cluster; the
p-value is the share of flips whose mean is as high as the mean seen. Intervals are bootstrap intervals over clusters,
of the ratio of sums over clusters (`notice_lens.stats.intervals`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from notice_lens.stats.clusters import cluster_sums, first_seen, flips
from notice_lens.stats.intervals import ratio_ends


def flip_p(
    values: Float[np.ndarray, "test pair"],
    labels: Int[np.ndarray, " pair"],
    n_flips: int,
    rng: np.random.Generator,
    two_sided: bool = False,
) -> Float[np.ndarray, " test"]:
    """Return how often flipped signs alone give a mean as high (or as far from zero); all tests have the same flips.

    Args:
        values: One for each pair.
        labels: The cluster of each pair.
        n_flips: The smallest p is 1 / (n_flips + 1).
        rng: Of the flips.
        two_sided: Whether either sign counts.
    """
    known, rows = first_seen(labels)
    sums = cluster_sums(values.T, rows, len(known)).T
    null, seen = sums @ flips(rng, len(known), n_flips).T, sums.sum(-1, keepdims=True)
    # Sums of the same numbers in another order differ in the last bits.
    slack = 1e-12 * np.abs(sums).sum(-1, keepdims=True)
    as_high = np.abs(null) >= np.abs(seen) - slack if two_sided else null >= seen - slack
    return (1 + as_high.sum(-1)) / (n_flips + 1)


def interval(
    values: Float[np.ndarray, " pair"],
    labels: Int[np.ndarray, " pair"],
    n_resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of the mean over pairs; the mean itself twice where nothing varies.

    Args:
        values: One for each pair.
        labels: The cluster of each pair.
        n_resamples: Of the bootstrap.
        rng: Of the resamples.
        level: How often the interval is to hold the true mean.
    """
    known, rows = first_seen(labels)
    sums = cluster_sums(np.stack([values, np.ones(len(values))], axis=1), rows, len(known))
    low, high = ratio_ends(sums[:, :1], sums[:, 1:], n_resamples, level, rng)
    return float(low[0]), float(high[0])


@dataclass(frozen=True)
class MeanTests:
    """Tests of means over some of the pairs.

    Attributes:
        labels: The cluster of each pair.
        n_flips: Of the sign-flip tests.
        n_resamples: Of the bootstrap.
        rng: Of both.
    """

    labels: Int[np.ndarray, " all_pairs"]
    n_flips: int
    n_resamples: int
    rng: np.random.Generator

    def p(
        self, values: Float[np.ndarray, "test pair"], pairs: Int[np.ndarray, " pair"], two_sided: bool = False
    ) -> Float[np.ndarray, " test"]:
        """Return `flip_p` of values of these pairs, [test]."""
        return flip_p(values, self.labels[pairs], self.n_flips, self.rng, two_sided)

    def interval(self, values: Float[np.ndarray, " pair"], pairs: Int[np.ndarray, " pair"]) -> tuple[float, float]:
        """Return `interval` of values of these pairs."""
        return interval(values, self.labels[pairs], self.n_resamples, self.rng)
