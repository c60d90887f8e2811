"""Outliers: patches of an unusually high norm, and which heads look away from them.

A vision transformer may keep numbers of its own in patches of the background, whose norm is then far above the others'
(Darcet et al. 2023, Vision Transformers Need Registers, arXiv 2309.16588). Here a patch is an outlier where its norm in
the vision stack's last `hook_resid_post` is above three times the image's median and it lies outside every region.

Whether a head *avoids* them is asked within the patches outside the regions, and against the head's habits of place:
the rank of its attention at an outlier is compared with that at the same place in other images where it is none. To a
head that does not mind the norm, the difference is as often above zero as below. So its sign is flipped image by image
(by cluster of images); the sum under flips has variance sum d^2 and is taken as normal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm as normal
from scipy.stats import rankdata

FACTOR = 3.0
"""Times the median norm of an image."""
FLAT = 1e-9
"""Differences of ranks below which nothing varies but the last bits."""


class Avoided(NamedTuple):
    """What heads do with outliers.

    Attributes:
        pairs: Which pairs were used.
        attention: At an outlier, relative to the mean patch outside the regions (1 is as much).
        expected: The same at the same places of images where they are no outliers.
        p: Of avoidance.
        outlier_mass: Mean share of a map at outliers, 0 to 1.
        ordinary_mass: At all other patches outside the regions.
        n_clusters: Clusters among the pairs used.
    """

    pairs: Bool[np.ndarray, " pair"]
    attention: Float[np.ndarray, " head"]
    expected: Float[np.ndarray, " head"]
    p: Float[np.ndarray, " head"]
    outlier_mass: Float[np.ndarray, " head"]
    ordinary_mass: Float[np.ndarray, " head"]
    n_clusters: int


def outlier_patches(
    norms: Float[np.ndarray, "pair patch"], outside: Bool[np.ndarray, "pair patch"], factor: float = FACTOR
) -> Bool[np.ndarray, "pair patch"]:
    """Patches outside every region whose norm is above `factor` times the median of their image."""
    return outside & (norms > factor * np.median(norms, axis=-1, keepdims=True))


def avoidance(
    maps: Float[np.ndarray, "pair head patch"],
    outlier: Bool[np.ndarray, "pair patch"],
    outside: Bool[np.ndarray, "pair patch"],
    clusters: Sequence[np.ndarray],
    margin: float = 0.0,
) -> Avoided:
    """How much less each head looks at outliers than at the same places without them.

    Args:
        maps: Of pairs that have the role.
        outlier: Which patches are outliers.
        outside: Which patches lie outside every region.
        clusters: Numbers of pairs that share images.
        margin: Share of the usual rank, 0 to 1, whose loss is of no interest.
    """
    ordinary = outside & ~outlier
    ranks, relative = _within(maps, outside)
    differences, seen, habit = (np.full(maps.shape[:2], np.nan) for _ in range(3))
    member = np.concatenate([np.full(len(own), number) for number, own in enumerate(clusters)])
    of_pair = np.empty(len(maps), int)
    of_pair[np.concatenate(clusters)] = member
    for pair in np.flatnonzero(outlier.any(-1)):
        others = ordinary & (of_pair != of_pair[pair])[:, None]
        places = np.flatnonzero(outlier[pair] & others.any(0))
        if not len(places):
            continue
        where = others[:, None, places]
        usual = np.mean(ranks[:, :, places], axis=0, where=where)
        differences[pair] = ((1 - margin) * usual - ranks[pair][:, places]).mean(-1)
        seen[pair] = relative[pair][:, places].mean(-1)
        habit[pair] = np.mean(relative[:, :, places], axis=0, where=where).mean(-1)
    used = ~np.isnan(differences[:, 0])
    sums = np.stack([differences[own].sum(0, where=used[own][:, None]) for own in clusters])
    spread = np.sqrt((sums**2).sum(0))
    varies = spread > FLAT
    z = np.divide(sums.sum(0), spread, out=np.zeros_like(spread), where=varies)
    share = maps / np.maximum(maps.sum(-1, keepdims=True), np.finfo(float).tiny)
    masses = [(share * mask[:, None]).sum(-1)[used].mean(0) for mask in (outlier, ordinary)] if used.any() else [z, z]
    n_clusters = sum(bool(used[own].any()) for own in clusters)
    means = [values[used].mean(0) if used.any() else z for values in (seen, habit)]
    return Avoided(used, means[0], means[1], np.where(varies, normal.sf(z), 1.0), *masses, n_clusters)


def _within(
    maps: Float[np.ndarray, "pair head patch"], outside: Bool[np.ndarray, "pair patch"]
) -> tuple[Float[np.ndarray, "pair head patch"], Float[np.ndarray, "pair head patch"]]:
    """Of the patches outside the regions: rank, 0 to 1, and weight over their mean; elsewhere without meaning."""
    n_outside = np.maximum(outside.sum(-1), 1)[:, None, None]
    # What lies inside a region comes below all else, and its ranks are taken off.
    ranks = rankdata(np.where(outside[:, None], maps, -np.inf), axis=-1) - (~outside).sum(-1)[:, None, None]
    level = (maps * outside[:, None]).sum(-1, keepdims=True) / n_outside
    return (ranks - 0.5) / n_outside, np.divide(maps, level, out=np.ones(maps.shape), where=level > 0)
