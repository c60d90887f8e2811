"""How well maps fit masks, in the measures that readers know: pointing game and intersection over union."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

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
