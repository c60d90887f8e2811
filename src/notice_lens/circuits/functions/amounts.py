"""Amounts of attention that a head gives to some patches: a label of the head needs enough of it.

A rank says that a region gets more attention than the rest of the image, but not how much more: a map that is uniform
but for one part in ten million has an AUROC of 1. So a label needs an *amount* as well as a rank. Per pair, `mass` is
the share of the map at the patches in question. It is compared with two masses:

- the *even share*, what a uniform map would have there. Their ratio of sums over pairs, sum mass / sum even share, is
  the `ratio`; it must be at least `smallest_ratio` (1.5), or at most 1 / `smallest_ratio` for avoidance;
- the *habit*, the mean mass that the maps of other images have at the same patches, so that a head that always looks at
  the middle needs more than a hair beyond its habit: 1 + `smallest_effect` times (1.1).

Where that much cannot be had, because the patches are most of the image, half of what is left is required instead:
`enough` has the formula. A ratio of sums weighs each pair by the size of its region, so that regions of one patch,
where a ratio is mostly noise, count for little.

Whether a mass exceeds its bound is tested over clusters of pairs, by a one-sided t-test of the clusters' sums; whether
it stays below, by one of the ratio of mass to bound whose standard error is taken at the bound. A mass is skewed, and
its spread shrinks with it: in the images that happen to have little of it, a plain t-test would be too sure of that.
A claim needs both bounds to be passed, so its p-value is the larger of the two (Berger 1982).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from notice_lens.stats.clusters import cluster_sums, first_seen, members
from notice_lens.stats.intervals import ratio_of_sums

SMALLEST_RATIO = 1.5
"""Attention over an even share below which a head cannot be said to look at a region."""


class Amounts(NamedTuple):
    """Amounts of attention that heads give to some patches.

    Attributes:
        ratio: Attention there over an even share of the attention; 1 is as much.
        low: The lower end of its 95 % interval, by clusters of pairs.
        high: The upper end.
        expected: The ratio that the maps of other images have there.
        p_more: Of a mass that is large enough.
        p_less: Of a mass that is small enough.
    """

    ratio: Float[np.ndarray, " head"]
    low: Float[np.ndarray, " head"]
    high: Float[np.ndarray, " head"]
    expected: Float[np.ndarray, " head"]
    p_more: Float[np.ndarray, " head"]
    p_less: Float[np.ndarray, " head"]


def amounts(
    mass: Float[np.ndarray, "pair head"],
    even: Float[np.ndarray, "pair head"],
    habit: Float[np.ndarray, "pair head"],
    labels: Int[np.ndarray, " pair"],
    smallest_ratio: float = SMALLEST_RATIO,
    smallest_effect: float = 0.0,
) -> Amounts:
    """Return how much attention each head gives to some patches, and the p-values of enough and of little enough.

    Args:
        mass: Share of each map at the patches, 0 to 1.
        even: Share that a head without preference would have there.
        habit: Mean share that the maps of other images have there; NaN without other images.
        labels: The cluster of each pair.
        smallest_ratio: Of interest, beside the even share; above 1.
        smallest_effect: Of interest, beside the habit: 0.1 asks for a tenth more.
    """
    known, rows = first_seen(labels)
    interval = ratio_of_sums(mass, even, np.unique(labels, return_inverse=True)[1])
    total = even.sum(0)
    expected = np.divide(habit.sum(0), total, out=np.full(total.shape, np.nan), where=total > 0)
    bounds = ((even, smallest_ratio), (habit, 1 + smallest_effect))
    p_more = [_above_zero(cluster_sums(mass - enough(share, factor), rows, len(known))) for share, factor in bounds]
    masses = cluster_sums(mass, rows, len(known))
    p_less = [_below(masses, cluster_sums(share / factor, rows, len(known))) for share, factor in bounds]
    ends = (interval.mean, interval.low, interval.high)
    return Amounts(*ends, expected, np.max(p_more, axis=0), np.max(p_less, axis=0))


def enough(share: Float[np.ndarray, "*shape"], factor: float) -> Float[np.ndarray, "*shape"]:
    """Return `factor` times a share, but no more than halfway from the share to 1."""
    return share + np.minimum((factor - 1) * share, (1 - share) / 2)


def inside(
    maps: Float[np.ndarray, "pair head patch"], masks: Bool[np.ndarray, "pair patch"]
) -> Float[np.ndarray, "pair head"]:
    """Return the share of each map's weight that lies in the region, 0 to 1."""
    return (maps * masks[:, None]).sum(-1) / np.maximum(maps.sum(-1), np.finfo(float).tiny)


def by_habit(
    maps: Float[np.ndarray, "pair head patch"], masks: Bool[np.ndarray, "pair patch"], labels: Int[np.ndarray, " pair"]
) -> Float[np.ndarray, "pair head"]:
    """Return the mean weight that the maps of other clusters have in each pair's region; NaN without others."""
    habit = np.full(maps.shape[:2], np.nan)
    everything = maps.sum(0)
    for cluster in members(labels):
        n_others = len(maps) - len(cluster)
        if n_others:
            others = (everything - maps[cluster].sum(0)) / n_others
            habit[cluster] = masks[cluster] @ others.T
    return habit


def _above_zero(sums: Float[np.ndarray, "cluster head"]) -> Float[np.ndarray, " head"]:
    """Return the p-values of means above zero: a t-test of the sums of clusters, whose spread may be zero."""
    n = len(sums)
    if n < 2:
        return np.ones(sums.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return _p(sums.mean(0) / (sums.std(0, ddof=1) / n**0.5), n)


def _below(
    masses: Float[np.ndarray, "cluster head"], bounds: Float[np.ndarray, "cluster head"]
) -> Float[np.ndarray, " head"]:
    """Return the p-values of masses below a bound: a t-test of their ratio, with the error that it has at the bound."""
    n, total = len(masses), masses.sum(0)
    if n < 2:
        return np.ones(masses.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = total / bounds.sum(0)
        error = (n / (n - 1) * ((masses - ratio * bounds) ** 2).sum(0)) ** 0.5 / total
        t = np.where(total > 0, (1 - ratio) / error, np.where(bounds.sum(0) > 0, np.inf, np.nan))
    return _p(t, n)


def _p(t: Float[np.ndarray, " head"], n_clusters: int) -> Float[np.ndarray, " head"]:
    """Return the upper tails of Student's t; 1 where there is nothing to test."""
    from scipy.special import stdtr

    return np.where(np.isnan(t), 1.0, stdtr(n_clusters - 1, -t))
