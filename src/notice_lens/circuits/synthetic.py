"""Effects whose answer is known: what the statistics are calibrated on, and what a study can be planned with.

Each pair's change is gap · (effect + spread · z), with z of mean 0 and variance 1: the sum of a part that is common to
all heads of a pair, one of its cluster, and one of its own, each a standardised gamma variable with the skewness asked
for. Sweeps of trained models look like that: in those of the mini model, effects of single pairs spread as widely as
the mean effect is large, or up to four times that, mostly with a long tail on the effect's own side (skewness 1 to 5).
"""

from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.cells import PLACE
from notice_lens.models.names import one_of

TAILS = {"along": 1.0, "against": -1.0, "either": 0.0}
MEAN_GAP, GAP_SHAPE = 20.0, 30.0


def synthetic_effects(
    effect: Any,
    pairs: int = 100,
    clusters: int | None = None,
    *,
    spread: Any = 0.06,
    skewness: float = 3.0,
    tail: str = "along",
    of_cluster: float = 0.4,
    common: float = 0.1,
    seed: Any = 0,
) -> xr.Dataset:
    """A made-up result of `patching.patch_heads` without roles.

    Args:
        effect: The true effect of each head, as a share of the gap, [layer, head].
        pairs: How many pairs.
        clusters: How many clusters they fall into, at random but each with a pair; None for a cluster each.
        spread: Standard deviation of single pairs about the effect, as a share of the gap; a number or [layer, head].
        skewness: Of each part of z; 0 is normal.
        tail: On which side the long tail is: `along` the effect's sign, `against` it, or on `either` side by head.
        of_cluster: Share of the variance that is the cluster's.
        common: Share of the variance that is common to all heads.
        seed: A number, or a generator.

    Raises:
        ValueError: There is no such tail, or there are more clusters than pairs.
    """
    if tail not in TAILS:
        raise ValueError(one_of("tail", tail, TAILS))
    clusters = pairs if clusters is None else clusters
    if not 1 <= clusters <= pairs:
        raise ValueError(f"{clusters} clusters of {pairs} pairs; expected 1 to {pairs}")
    rng, effect = np.random.default_rng(seed), np.asarray(effect, float)
    label = rng.permutation(np.concatenate([np.arange(clusters), rng.integers(0, clusters, pairs - clusters)]))
    heads = effect.shape
    side = np.where(rng.random(heads) < 0.5, -1.0, 1.0)
    side = side if tail == "either" else np.where(effect < 0, -1.0, 1.0) * TAILS[tail]
    z = np.sqrt(of_cluster) * _standard(rng, skewness, (clusters, *heads))[label]
    z += np.sqrt(common) * _standard(rng, skewness, (clusters, 1, 1))[label]
    z += np.sqrt(1 - of_cluster - common) * _standard(rng, skewness, (pairs, *heads))
    gap = rng.gamma(GAP_SHAPE, MEAN_GAP / GAP_SHAPE, pairs)
    change = gap[:, None, None] * (effect + np.asarray(spread) * side * z)
    return xr.Dataset(
        {
            "logit_diff_change": (("pair", *PLACE), change),
            "logit_diff_clean": ("pair", gap / 2),
            "logit_diff_corrupt": ("pair", -gap / 2),
        },
        coords={
            "pair": [f"pair {number}" for number in range(pairs)],
            **{dim: np.arange(size) for dim, size in zip(PLACE, heads, strict=True)},
            **{name: ("pair", [f"{name} {one}" for one in label]) for name in ("clean_digest", "corrupt_digest")},
        },
        attrs={"direction": "denoise", "corruption": "image", "min_gap": 1e-3},
    )


def _standard(rng: np.random.Generator, skewness: float, shape: tuple[int, ...]) -> np.ndarray:
    """Independent values of mean 0 and variance 1."""
    if skewness == 0:
        return rng.normal(size=shape)
    # A gamma variable of the shape k has the skewness 2 / √k.
    k = 4 / skewness**2
    return (rng.gamma(k, 1.0, shape) - k) / np.sqrt(k)
