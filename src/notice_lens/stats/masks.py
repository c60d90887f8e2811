"""Areas under the curve, and what they would be if the masks belonged to other images.

The *area* (AUROC) of a map for a region is the chance that a patch of the region weighs more than one outside all
regions, ties counting half (Mann and Whitney 1947). It does not change where a map is scaled or bent. Patches of
*other* regions do not count: a head that looks at one thing would else seem to shun the next.

A head that always looks at the middle scores well where objects stand in the middle, and sees nothing of the image. So
the null of each head is made of its own maps and the masks of *other* images: T(s) = sum over images i of A[i, s(i)],
where A[i, j] is the area of map i for mask j and s a random permutation. Such a sum has a known mean, variance and
third moment (Hoeffding 1951, A Combinatorial Central Limit Theorem): with d = A less its row and column means,

    mean = sum A / n,    variance = sum d^2 / (n - 1),    third = n / ((n - 1) (n - 2)) * sum d^3,

so its tails are taken from Pearson's type III distribution with these moments, or from the normal one where that is
thicker. No permutation is drawn, and p-values are as small as control over thousands of tests needs.

With pairs enough every head differs from its null in something. So the null is moved by a margin: a share of the room
that is left above the null's mean, up to 1, or below it, down to 0.

Pairs that share their images move as one cluster.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

THRESHOLDS = tuple(np.arange(1, 20) / 20)
"""Shares of a map's maximum, as thresholds of a map are usually given."""
FOLDS = 5


def pointing(
    maps: Float[np.ndarray, "pair head patch"], masks: Bool[np.ndarray, "pair patch"]
) -> Float[np.ndarray, " head"]:
    """Share of pairs whose maximum lies in the region, 0 to 1 (Zhang et al. 2018, Top-Down Neural Attention).

    Where several patches share the maximum, the share of them that lies inside: that of a map without any contrast is
    the share of the image that the region covers, and not what happens to stand in the first patch.
    """
    highest = maps == maps.max(-1, keepdims=True)
    return ((highest & masks[:, None]).sum(-1) / highest.sum(-1)).mean(0)


def crossfitted_iou(
    maps: Float[np.ndarray, "pair head patch"],
    masks: Bool[np.ndarray, "pair patch"],
    clusters: Sequence[np.ndarray],
) -> Float[np.ndarray, " head"]:
    """Mean intersection over union, 0 to 1, of the patches above a threshold and the region.

    A head's threshold, a share of the map's maximum, is the one that is best on other images: clusters are dealt into
    five folds, and each fold is measured at the threshold that is best on the other four.
    """
    highest = maps.max(-1, keepdims=True)
    found = np.empty((len(THRESHOLDS), *maps.shape[:2]))
    for number, share in enumerate(THRESHOLDS):
        above = maps >= share * highest
        both = (above & masks[:, None]).sum(-1)
        found[number] = both / (above.sum(-1) + masks.sum(-1)[:, None] - both)
    folds = np.empty(len(maps), int)
    for number, cluster in enumerate(clusters):
        folds[cluster] = number % FOLDS
    values = np.full(maps.shape[:2], np.nan)
    for fold in np.unique(folds):
        own = folds == fold
        if own.all():
            return values.mean(0)
        best = found[:, ~own].mean(1).argmax(0)
        values[own] = found[best, :, np.arange(maps.shape[1])].T[own]
    return values.mean(0)


CONSTANT_VARIANCE = 1e-12
"""Variance of a sum of areas below which nothing varies but the last bits."""


class Tails(NamedTuple):
    """A statistic before its null.

    Attributes:
        mean: Of the null, per pair.
        above: p-value of a value this large or larger.
        below: p-value of a value this small or smaller.
    """

    mean: Float[np.ndarray, " head"]
    above: Float[np.ndarray, " head"]
    below: Float[np.ndarray, " head"]


def areas(
    maps: Float[np.ndarray, "pair head patch"],
    regions: Sequence[Bool[np.ndarray, "mask patch"]],
    outside: Bool[np.ndarray, "mask patch"],
) -> list[Float[np.ndarray, "head pair mask"]]:
    """Return the area of every map for every image's masks, 0 to 1, by region; NaN where one has no patches, or all.

    Comparing each two patches of a map for each mask would take pairs² · patches² operations a head. Instead the wins
    of a region's patches against all patches are sums of ranks, a matrix product over all masks at once. Against
    themselves they win half of the time, and what is left to take off are their wins against patches that belong
    to another region of that image: there are few of these, or none.

    Args:
        maps: Any scale; only the order within a map counts.
        regions: Of each region the masks of all images; they have no patch in common with `outside`.
        outside: What the regions' patches are compared with.
    """
    from scipy.stats import rankdata

    found = [np.empty((maps.shape[1], len(maps), len(outside))) for _ in regions]
    for head in range(maps.shape[1]):
        # Twice the mean rank is a whole number, and all sums are exact.
        ranks = (2 * rankdata(maps[:, head], axis=-1)).astype(np.min_scalar_type(2 * maps.shape[-1]))
        tied = bool((np.diff(np.sort(ranks, axis=-1), axis=-1) == 0).any())
        for region, inside in zip(found, regions, strict=True):
            n_inside, n_outside = inside.sum(-1).astype(float), outside.sum(-1)
            wins = (ranks - 1.0) @ inside.T.astype(float) / 2 - n_inside**2 / 2
            others = ~outside & ~inside
            for mask in np.flatnonzero(others.any(-1) & inside.any(-1)):
                wins[:, mask] -= _wins(ranks[:, inside[mask]], ranks[:, others[mask]], tied)
            comparisons = n_inside * n_outside
            region[head] = wins / np.where(comparisons == 0, np.nan, comparisons)
    return found


def _wins(
    ours: Integer[np.ndarray, "pair patch"], theirs: Integer[np.ndarray, "pair other_patch"], tied: bool
) -> Float[np.ndarray, " pair"]:
    """Return how many times one of our ranks is above one of theirs, ties (if there are any) counting half."""
    ours, theirs = ours[:, :, None], theirs[:, None, :]
    won = (ours > theirs).astype(np.float32)
    if tied:
        won += np.float32(0.5) * (ours == theirs)
    # A matrix product is several times as quick as a sum; whole and half numbers are exact up to 8 million patches.
    return (won @ np.ones(theirs.shape[-1], np.float32)).sum(1, dtype=float)


def by_cluster(
    values: Float[np.ndarray, "head pair mask"], clusters: Sequence[np.ndarray]
) -> Float[np.ndarray, "head cluster other"]:
    """Sums over the pairs of a cluster, each with a mask of the other cluster; on the diagonal each with its own.

    Args:
        values: One for every map and every mask.
        clusters: Numbers of the pairs of each.
    """
    found = np.zeros((len(values), len(clusters), len(clusters)))
    for column, other in enumerate(clusters):
        # A larger cluster goes through a smaller one's masks again: as many terms as the cluster has pairs.
        chosen = np.concatenate([np.resize(other, len(own)) for own in clusters])
        rows = np.concatenate(clusters)
        starts = np.cumsum([0, *(len(own) for own in clusters[:-1])])
        found[:, :, column] = np.add.reduceat(values[:, rows, chosen], starts, axis=1)
    return found


def tails(sums: Float[np.ndarray, "head cluster other"], n_pairs: int, margin: float = 0.0) -> Tails:
    """The diagonal's sum before the sums of all other assignments.

    Args:
        sums: What `by_cluster` gives.
        n_pairs: In all clusters.
        margin: Share of the room beyond the mean of the null, 0 to 1, that is of no interest.
    """
    from scipy.special import gammaln

    n = sums.shape[-1]
    expected = sums.sum((1, 2)) / n
    observed = np.trace(sums, axis1=1, axis2=2)
    apart = sums - sums.mean(1, keepdims=True) - sums.mean(2, keepdims=True) + sums.mean((1, 2), keepdims=True)
    variance = (apart**2).sum((1, 2)) / (n - 1)
    varies = variance > CONSTANT_VARIANCE
    spread = np.sqrt(np.where(varies, variance, 1))
    skew = np.where(varies, n / ((n - 1) * (n - 2)) * (apart**3).sum((1, 2)) / spread**3, 0)
    far = np.where(varies, (observed - expected) / spread, 0)
    room = {1: n_pairs - expected, -1: expected}
    # No assignment of n is rarer than one of them.
    least = np.exp(-gammaln(n + 1))
    above, below = (
        np.clip(_upper(sign * far - margin * room[sign] / spread, sign * skew), least, 1) for sign in (1, -1)
    )
    return Tails(expected / n_pairs, np.where(varies, above, 1.0), np.where(varies, below, 1.0))


def _upper(z: Float[np.ndarray, " head"], skew: Float[np.ndarray, " head"]) -> Float[np.ndarray, " head"]:
    """Return the thicker upper tail of two. Type III ends somewhere on its short side, where the statistic need not."""
    from scipy.stats import norm, pearson3

    return np.maximum(norm.sf(z), pearson3.sf(z, skew))
