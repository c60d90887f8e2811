"""Outliers: patches of an unusually high norm, and which heads look away from them.

A vision transformer may store internal values in patches of the background, whose norm is then far above the others'
(Darcet et al. 2023, Vision Transformers Need Registers, arXiv 2309.16588). Here a patch is an outlier where its norm in
the vision stack's last `hook_resid_post` is above three times the image's median and it lies outside every region.

Whether a head *avoids* them is asked within the patches outside the regions, and against the head's habits of place:
the rank of its attention at an outlier is compared with that at the same place in other images where there is no
outlier. To a head that does not mind the norm, the difference is as often above zero as below. So its sign is flipped
image by image (by cluster of images); the sum under flips has variance sum d^2 and is taken as normal. How much less
attention an outlier gets is asked apart, in `notice_lens.circuits.functions.amounts`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from notice_lens.circuits.functions.amounts import inside
from notice_lens.stats.clusters import cluster_sums, first_seen

OUTLIER_FACTOR = 3.0
"""Times the median norm of an image."""
LEAST_SPREAD = 1e-9
"""Differences of ranks below which nothing varies but the last bits."""


class Avoided(NamedTuple):
    """Attention of heads at outlier patches, and what to compare it with.

    Attributes:
        pairs: The numbers of the pairs used: they have an outlier where others have none.
        p: Of a lower rank than at the same places of other images.
        mass: Share of each map at outliers, 0 to 1.
        even: Share that it would have if outliers got as much as the mean patch outside the regions.
        habit: Share that it would have if outliers got as much, relative to that patch, as the same places of images
            where they are not outliers.
        ordinary_mass: Mean share at all other patches outside the regions.
    """

    pairs: Int[np.ndarray, " used"]
    p: Float[np.ndarray, " head"]
    mass: Float[np.ndarray, "used head"]
    even: Float[np.ndarray, "used head"]
    habit: Float[np.ndarray, "used head"]
    ordinary_mass: Float[np.ndarray, " head"]


def outlier_patches(
    norms: Float[np.ndarray, "pair patch"], outside: Bool[np.ndarray, "pair patch"], factor: float = OUTLIER_FACTOR
) -> Bool[np.ndarray, "pair patch"]:
    """Patches outside every region whose norm is above `factor` times the median of their image."""
    return outside & (norms > factor * np.median(norms, axis=-1, keepdims=True))


def avoidance(
    maps: Float[np.ndarray, "pair head patch"],
    outlier: Bool[np.ndarray, "pair patch"],
    outside: Bool[np.ndarray, "pair patch"],
    labels: Int[np.ndarray, " pair"],
    margin: float = 0.0,
) -> Avoided:
    """Return how much less each head looks at outliers than at the same places without them.

    Args:
        maps: Of pairs that have the role.
        outlier: Which patches are outliers.
        outside: Which patches lie outside every region.
        labels: The cluster of each pair.
        margin: Share of the usual rank, 0 to 1, whose loss is of no interest.
    """
    ordinary = outside & ~outlier
    known, rows = first_seen(labels)
    n_elsewhere = ordinary.sum(0) - cluster_sums(ordinary, rows, len(known))[rows]
    places = outlier & (n_elsewhere > 0)
    used = np.flatnonzero(places.any(-1))
    if not len(used):
        per_pair, per_head = np.empty((0, maps.shape[1])), np.full(maps.shape[1], np.nan)
        return Avoided(used, per_head, per_pair, per_pair, per_pair, per_head)

    def at_outliers(values: np.ndarray) -> np.ndarray:
        """Return the mean over each image's outliers, [used, head]."""
        return np.mean(values, axis=-1, where=places[used][:, None])

    def elsewhere(values: np.ndarray) -> np.ndarray:
        """Return the mean over the images of other clusters in which a patch is ordinary, [used, head, patch]."""
        there = values * ordinary[:, None]
        others = there.sum(0) - cluster_sums(there, rows, len(known))
        return others[rows[used]] / np.maximum(n_elsewhere[used], 1)[:, None]

    ranks, relative = _within(maps, outside)
    lost = at_outliers((1 - margin) * elsewhere(ranks) - ranks[used])
    mass, beside, of_both = (inside(maps[used], mask[used]) for mask in (outlier, ordinary, outside))
    even = of_both * (outlier[used].sum(-1) / outside[used].sum(-1))[:, None]
    habit = at_outliers(elsewhere(relative)) * even
    return Avoided(used, _flipped(lost, labels[used]), mass, even, habit, beside.mean(0))


def _flipped(lost: Float[np.ndarray, "pair head"], labels: Int[np.ndarray, " pair"]) -> Float[np.ndarray, " head"]:
    """Return how likely flipped signs of clusters give a sum this high, by the normal approximation."""
    from scipy.special import ndtr

    known, rows = first_seen(labels)
    sums = cluster_sums(lost, rows, len(known))
    spread = np.sqrt((sums**2).sum(0))
    varies = spread > LEAST_SPREAD
    return np.where(varies, ndtr(-sums.sum(0) / np.where(varies, spread, 1)), 1.0)


def _within(
    maps: Float[np.ndarray, "pair head patch"], outside: Bool[np.ndarray, "pair patch"]
) -> tuple[Float[np.ndarray, "pair head patch"], Float[np.ndarray, "pair head patch"]]:
    """Return rank, 0 to 1, and weight over the mean of patches outside the regions; elsewhere without meaning."""
    from scipy.stats import rankdata

    n_outside = np.maximum(outside.sum(-1), 1)[:, None, None]
    # What lies inside a region comes below all else, and its ranks are taken off.
    ranks = rankdata(np.where(outside[:, None], maps, -np.inf), axis=-1) - (~outside).sum(-1)[:, None, None]
    level = (maps * outside[:, None]).sum(-1, keepdims=True) / n_outside
    return (ranks - 0.5) / n_outside, np.divide(maps, level, out=np.ones(maps.shape), where=level > 0)
