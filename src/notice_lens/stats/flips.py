"""Means over pairs, clusters of pairs kept together: sign-flip tests and bootstrap intervals.

If a value has nothing to say, it is as often above zero as below, and its sign can be flipped cluster by cluster; the
p-value is the share of flips whose mean is as high as the mean seen. Intervals are bootstrap intervals over clusters,
of the ratio of sums over clusters (`notice_lens.stats.bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from notice_lens.stats.bootstrap import ratio_ends
from notice_lens.stats.clusters import first_seen
from notice_lens.stats.minimum_effect import flips


def flip_p(
    values: Float[np.ndarray, "test pair"],
    clusters: Sequence[np.ndarray],
    n_flips: int,
    rng: np.random.Generator,
    two_sided: bool = False,
) -> Float[np.ndarray, " test"]:
    """Chance that a mean is as high (or as far from zero) by flipped signs alone; the flips are the same for all tests.

    Args:
        values: One for each pair.
        clusters: Numbers of the pairs that stay together.
        n_flips: The smallest p is 1 / (n_flips + 1).
        rng: Of the flips.
        two_sided: Whether either sign counts.
    """
    sums = np.stack([values[:, own].sum(-1) for own in clusters], axis=-1)
    null, seen = sums @ flips(rng, len(clusters), n_flips).T, sums.sum(-1, keepdims=True)
    # Sums of the same numbers in another order differ in the last bits.
    slack = 1e-12 * np.abs(sums).sum(-1, keepdims=True)
    as_high = np.abs(null) >= np.abs(seen) - slack if two_sided else null >= seen - slack
    return (1 + as_high.sum(-1)) / (n_flips + 1)


def interval(
    values: Float[np.ndarray, " pair"],
    clusters: Sequence[np.ndarray],
    n_resamples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean over pairs; the mean itself twice where nothing varies.

    Args:
        values: One for each pair.
        clusters: Numbers of the pairs that stay together.
        n_resamples: Of the bootstrap.
        rng: Of the resamples.
        level: How often the interval is to hold the true mean.
    """
    sums, sizes = np.array([[values[own].sum()] for own in clusters]), np.array([[len(own)] for own in clusters])
    low, high = ratio_ends(sums, sizes, n_resamples, level, rng)
    return float(low[0]), float(high[0])


@dataclass(frozen=True)
class MeanTests:
    """How means over some of the pairs are tested.

    Attributes:
        labels: The cluster of each pair.
        n_flips: Of the sign-flip tests.
        n_resamples: Of the bootstrap.
        rng: Of both.
    """

    labels: Any
    n_flips: int
    n_resamples: int
    rng: np.random.Generator

    def p(self, values: Float[np.ndarray, "test pair"], pairs: Any, two_sided: bool = False) -> Any:
        """`flip_p` of values of these pairs, [test]."""
        return flip_p(values, grouped(self.labels[pairs]), self.n_flips, self.rng, two_sided)

    def interval(self, values: Float[np.ndarray, " pair"], pairs: Any) -> tuple[float, float]:
        """`interval` of values of these pairs."""
        return interval(values, grouped(self.labels[pairs]), self.n_resamples, self.rng)


def grouped(labels: Any) -> list[Any]:
    """The places of each label, in the order in which labels first come."""
    found, rows = first_seen(np.asarray(labels))
    return [np.flatnonzero(rows == number) for number in range(len(found))]
