"""Synthetic effects with known answers, to calibrate the statistics and to plan studies.

Each pair's change is gap · (effect + spread · z), with z of mean 0 and variance 1: the sum of a part that is common to
all heads of a pair, one of its cluster, one of each image that it shares with others, and one of its own, each a
standardised gamma variable with the given skewness, or Student's t. Sweeps of trained models look like that: in those
of the mini model, effects of single pairs spread as widely as the mean effect is large, or up to four times that,
mostly with a long tail on the effect's own side (skewness 1 to 5).

With donors there is a mismatched change too: the donor's own run restores a share of the gap, each head carries its
effect of that as well, and what it does with the donor's picture is a part of its own that pairs of one donor share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.stats.clusters import IMAGE_COLUMNS
from notice_lens.stats.dims import HEADS

TAILS = {"along": 1.0, "against": -1.0, "either": 0.0}
MEAN_GAP, GAP_SHAPE = 20.0, 30.0
DONOR_COLUMN = "donor_digest"


def synthetic_effects(
    effect: Any,
    pairs: int = 100,
    clusters: int | None = None,
    *,
    spread: Any = 0.06,
    skewness: float = 3.0,
    df: float | None = None,
    tail: Literal["along", "against", "either"] = "along",
    of_cluster: float = 0.4,
    common: float = 0.1,
    shared: Mapping[str, Any] | None = None,
    of_shared: float = 0.3,
    restored: float | None = None,
    seed: Any = 0,
) -> xr.Dataset:
    """Make up a result of `patching.patch_heads` without roles.

    Args:
        effect: The true effect of each head, as a share of the gap, [layer, head]; with donors, of what they leave.
        pairs: How many pairs.
        clusters: How many clusters they fall into, at random but each with a pair; None for a cluster each.
        spread: Standard deviation of single pairs about the effect, as a share of the gap; a number or [layer, head].
        skewness: Of each part of z; 0 is normal.
        df: Degrees of freedom of Student's t, of which each part of z then is, not standardised; None for gamma
            variables.
        tail: The side of the long tail: `along` the effect's sign, `against` it, or on `either` side by head.
        of_cluster: Share of the variance that is the cluster's.
        common: Share of the variance that is common to all heads.
        shared: Which image each pair has, [pair], by column: `clean_digest`, `corrupt_digest` or `donor_digest`.
        of_shared: Share of the variance that is each shared image's, and the donor's.
        restored: Share of the gap that a donor's own run restores; None for no donors unless they are shared.
        seed: A number, or a generator.

    Raises:
        ValueError: There is no such tail or column, there are more clusters than pairs, or the shares of the variance
            add up to more than 1.
    """
    shared = {name: np.asarray(values) for name, values in (shared or {}).items()}
    clusters = pairs if clusters is None else clusters
    _check(tail, shared, pairs, clusters)
    rng, effect = np.random.default_rng(seed), np.asarray(effect, float)
    parts = _Parts(rng, skewness, df, effect.shape)
    label = rng.permutation(np.concatenate([np.arange(clusters), rng.integers(0, clusters, pairs - clusters)]))
    side = np.where(rng.random(effect.shape) < 0.5, -1.0, 1.0)
    side = side if tail == "either" else np.where(effect < 0, -1.0, 1.0) * TAILS[tail]
    scale = np.asarray(spread) * side
    images = [np.unique(shared[name], return_inverse=True)[1] for name in IMAGE_COLUMNS if name in shared]
    donors = DONOR_COLUMN in shared or restored is not None
    rest = 1 - of_cluster - common - of_shared * (len(images) + donors)
    if rest < -1e-9:
        raise ValueError(f"the parts of the variance add up to {1 - rest:g}; expected 1 at most")
    z = parts.draw(of_cluster, label) + parts.draw(common, label, of_all_heads=True)
    z += parts.draw(max(rest, 0), np.arange(pairs))
    for image in images:
        z += parts.draw(of_shared, image)
    gap = rng.gamma(GAP_SHAPE, MEAN_GAP / GAP_SHAPE, pairs)
    change = {"logit_diff_change": effect + scale * z}
    logits = {"logit_diff_clean": gap / 2, "logit_diff_corrupt": -gap / 2}
    if donors:
        shared.setdefault(DONOR_COLUMN, np.arange(pairs))
        again = restored or 0.0
        of_donor = parts.draw(of_shared, np.unique(shared[DONOR_COLUMN], return_inverse=True)[1])
        change["logit_diff_change_mismatched"] = again * (effect + scale * z) - scale * of_donor
        logits["logit_diff_donor"] = gap * (again - 0.5)
    in_logits = {name: gap[:, None, None] * values for name, values in change.items()}
    return _result(logits, in_logits, {**dict.fromkeys(IMAGE_COLUMNS, label), **shared})


def _check(tail: str, shared: Mapping[str, np.ndarray], pairs: int, clusters: int) -> None:
    if tail not in TAILS:
        raise ValueError(one_of("tail", tail, TAILS))
    columns = (*IMAGE_COLUMNS, DONOR_COLUMN)
    for name in shared:
        if name not in columns:
            raise ValueError(one_of("column of images", name, columns))
    if not 1 <= clusters <= pairs:
        raise ValueError(f"{clusters} clusters of {pairs} pairs; expected 1 to {pairs}")


def _result(
    logits: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Return the numbers in the layout of a sweep: baselines [pair], changes [pair, layer, head], images by column."""
    n_pairs, *heads = next(iter(changes.values())).shape
    return xr.Dataset(
        {
            **{name: ("pair", values) for name, values in logits.items()},
            **{name: (("pair", *HEADS), values) for name, values in changes.items()},
        },
        coords={
            "pair": [f"pair {number}" for number in range(n_pairs)],
            **{dim: np.arange(size) for dim, size in zip(HEADS, heads, strict=True)},
            **{name: ("pair", [f"{name} {value}" for value in values]) for name, values in columns.items()},
        },
        attrs={"direction": "denoise", "corruption": "image", "min_gap": 1e-3},
    )


@dataclass(frozen=True)
class _Parts:
    """Independent parts of z, of mean 0, and of variance 1 unless they are Student's.

    Attributes:
        rng: Of the random draws.
        skewness: Of gamma variables; 0 is normal.
        df: Degrees of freedom of Student's t; None for gamma variables.
        heads: Layers and heads.
    """

    rng: np.random.Generator
    skewness: float
    df: float | None
    heads: tuple[int, ...]

    def draw(self, share: float, number: np.ndarray, of_all_heads: bool = False) -> np.ndarray:
        """Return a part of z with this share of the variance, [pair, layer, head], the same for the same number."""
        heads = (1,) * len(self.heads) if of_all_heads else self.heads
        return np.sqrt(share) * self._standard((int(number.max()) + 1, *heads))[number]

    def _standard(self, shape: tuple[int, ...]) -> np.ndarray:
        if self.df is not None:
            return self.rng.standard_t(self.df, shape)
        if self.skewness == 0:
            return self.rng.normal(size=shape)
        # A gamma variable of the shape k has the skewness 2 / √k.
        k = 4 / self.skewness**2
        return (self.rng.gamma(k, 1.0, shape) - k) / np.sqrt(k)
