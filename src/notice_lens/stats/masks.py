"""Areas under the curve, and their null distribution if the masks belonged to other images.

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
from jaxtyping import Bool, Float, Int

THRESHOLDS = tuple(np.arange(1, 20) / 20)
"""Shares of a map's maximum, as thresholds of a map are usually given."""
FOLDS = 5


def pointing(
    maps: Float[np.ndarray, "pair head patch"], masks: Bool[np.ndarray, "pair patch"]
) -> Float[np.ndarray, " head"]:
    """Return the share of pairs whose maximum lies in the region, 0 to 1 (Zhang et al. 2018, Top-Down Attention).

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
    """Return the mean intersection over union, 0 to 1, of the patches above a threshold and the region.

    A head's threshold, a share of the map's maximum, is the one that is best on other images: clusters are dealt into
    five folds, and each fold is measured at the threshold that is best on the other four.
    """
    highest = maps.max(-1, keepdims=True)
    overlaps = np.empty((len(THRESHOLDS), *maps.shape[:2]))
    for number, share in enumerate(THRESHOLDS):
        above = maps >= share * highest
        both = (above & masks[:, None]).sum(-1)
        overlaps[number] = both / (above.sum(-1) + masks.sum(-1)[:, None] - both)
    folds = np.empty(len(maps), int)
    for number, cluster in enumerate(clusters):
        folds[cluster] = number % FOLDS
    values = np.full(maps.shape[:2], np.nan)
    for fold in np.unique(folds):
        here = folds == fold
        if here.all():
            return values.mean(0)
        best = overlaps[:, ~here].mean(1).argmax(0)
        values[here] = overlaps[best, :, np.arange(maps.shape[1])].T[here]
    return values.mean(0)


CONSTANT_VARIANCE = 1e-12
"""Variance of a sum of areas below which nothing varies but the last bits."""


class Tails(NamedTuple):
    """A statistic compared with its null.

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
    to another region of that image, if there are any: these are looked up in cumulative counts of those by rank.

    Args:
        maps: Any scale; only the order within a map counts.
        regions: Of each region the masks of all images; they have no patch in common with `outside`.
        outside: The patches that the regions' patches are compared with.
    """
    from scipy.stats import rankdata

    n_pairs, n_heads, n_patches = maps.shape
    by_region = [np.empty((n_heads, n_pairs, len(outside))) for _ in regions]
    starts = (n_patches + 1) * np.arange(n_pairs)[:, None]
    for head in range(n_heads):
        beaten = rankdata(maps[:, head], axis=-1) - 0.5
        steps = starts + rankdata(maps[:, head], method="dense", axis=-1).astype(int) - 1
        for region, inside in zip(by_region, regions, strict=True):
            n_inside, n_outside = inside.sum(-1).astype(float), outside.sum(-1)
            wins = beaten @ inside.T.astype(float) - n_inside**2 / 2
            others = ~outside & ~inside
            for mask in np.flatnonzero(others.any(-1) & inside.any(-1)):
                wins[:, mask] -= _wins(steps[:, inside[mask]], steps[:, others[mask]], n_pairs * (n_patches + 1))
            comparisons = n_inside * n_outside
            region[head] = wins / np.where(comparisons == 0, np.nan, comparisons)
    return by_region


def _wins(
    ours: Int[np.ndarray, "pair patch"], theirs: Int[np.ndarray, "pair other_patch"], size: int
) -> Float[np.ndarray, " pair"]:
    """Return how many times one of our patches outweighs one of theirs, ties counting half.

    Args:
        ours: Dense ranks from zero, each pair's above those of the pair before.
        theirs: The same of the others.
        size: Above all ranks.
    """
    below = np.bincount(theirs.ravel() + 1, minlength=size).cumsum()
    # Those of the pairs before are below as well.
    before = theirs.shape[1] * np.arange(len(ours))
    return (below[ours] + below[ours + 1]).sum(1) / 2 - before * ours.shape[1]


def by_cluster(
    values: Float[np.ndarray, "head pair mask"], clusters: Sequence[np.ndarray]
) -> Float[np.ndarray, "head cluster other"]:
    """Return sums over the pairs of a cluster, each with a mask of the other; on the diagonal each with its own.

    Args:
        values: One for every map and every mask.
        clusters: Numbers of the pairs of each.
    """
    sums = np.zeros((len(values), len(clusters), len(clusters)))
    for column, other in enumerate(clusters):
        # A larger cluster goes through a smaller one's masks again: as many terms as the cluster has pairs.
        chosen = np.concatenate([np.resize(other, len(cluster)) for cluster in clusters])
        rows = np.concatenate(clusters)
        starts = np.cumsum([0, *(len(cluster) for cluster in clusters[:-1])])
        sums[:, :, column] = np.add.reduceat(values[:, rows, chosen], starts, axis=1)
    return sums


def tails(sums: Float[np.ndarray, "head cluster other"], n_pairs: int, margin: float = 0.0) -> Tails:
    """Compare the diagonal's sum with the sums of all other assignments.

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
