"""Effects whose answer is known: what the statistics are calibrated on, and what a study can be planned with.

Each pair's change is gap · (effect + spread · z), with z of mean 0 and variance 1: the sum of a part that is common to
all heads of a pair, one of its cluster, one of each image that it shares with others, and one of its own, each a
standardised gamma variable with the skewness asked for, or Student's t. Sweeps of trained models look like that: in
those of the mini model, effects of single pairs spread as widely as the mean effect is large, or up to four times that,
mostly with a long tail on the effect's own side (skewness 1 to 5).

With donors there is a mismatched change too: the donor's own run restores a share of the gap, each head carries its
effect of that as well, and what it does with the donor's picture is a part of its own that pairs of one donor share.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import PLACE
from notice_lens.errors import one_of

TAILS = {"along": 1.0, "against": -1.0, "either": 0.0}
MEAN_GAP, GAP_SHAPE = 20.0, 30.0
OWN = ("clean_digest", "corrupt_digest")
DONOR = "donor_digest"


def synthetic_effects(
    effect: Any,
    pairs: int = 100,
    clusters: int | None = None,
    *,
    spread: Any = 0.06,
    skewness: float = 3.0,
    df: float | None = None,
    tail: str = "along",
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
        tail: On which side the long tail is: `along` the effect's sign, `against` it, or on `either` side by head.
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
    if tail not in TAILS:
        raise ValueError(one_of("tail", tail, TAILS))
    shared = {name: np.asarray(values) for name, values in (shared or {}).items()}
    for name in shared:
        if name not in (*OWN, DONOR):
            raise ValueError(one_of("column of images", name, (*OWN, DONOR)))
    clusters = pairs if clusters is None else clusters
    if not 1 <= clusters <= pairs:
        raise ValueError(f"{clusters} clusters of {pairs} pairs; expected 1 to {pairs}")
    rng, effect = np.random.default_rng(seed), np.asarray(effect, float)
    label = rng.permutation(np.concatenate([np.arange(clusters), rng.integers(0, clusters, pairs - clusters)]))
    heads = effect.shape
    side = np.where(rng.random(heads) < 0.5, -1.0, 1.0)
    side = side if tail == "either" else np.where(effect < 0, -1.0, 1.0) * TAILS[tail]
    scale = np.asarray(spread) * side

    def part(share: float, of: np.ndarray, over: tuple[int, ...] = heads) -> np.ndarray:
        """A part of z, [pair, layer, head], the same for pairs with the same number."""
        return np.sqrt(share) * _standard(rng, skewness, df, (int(of.max()) + 1, *over))[of]

    images = [np.unique(shared[name], return_inverse=True)[1] for name in OWN if name in shared]
    donors = DONOR in shared or restored is not None
    own = 1 - of_cluster - common - of_shared * (len(images) + donors)
    if own < -1e-9:
        raise ValueError(f"the parts of the variance add up to {1 - own:g}; expected 1 at most")
    z = part(of_cluster, label) + part(common, label, (1,) * len(heads))
    z += part(max(own, 0), np.arange(pairs))
    for of in images:
        z += part(of_shared, of)
    gap = rng.gamma(GAP_SHAPE, MEAN_GAP / GAP_SHAPE, pairs)
    change = {"logit_diff_change": effect + scale * z}
    variables: dict[str, Any] = {"logit_diff_clean": ("pair", gap / 2), "logit_diff_corrupt": ("pair", -gap / 2)}
    if donors:
        which, again = shared.get(DONOR, np.arange(pairs)), restored or 0.0
        of_donor = part(of_shared, np.unique(which, return_inverse=True)[1])
        change["logit_diff_change_mismatched"] = again * (effect + scale * z) - scale * of_donor
        variables["logit_diff_donor"] = ("pair", gap * (again - 0.5))
        shared[DONOR] = which
    variables |= {name: (("pair", *PLACE), gap[:, None, None] * values) for name, values in change.items()}
    columns = {**dict.fromkeys(OWN, label), **shared}
    return xr.Dataset(
        variables,
        coords={
            "pair": [f"pair {number}" for number in range(pairs)],
            **{dim: np.arange(size) for dim, size in zip(PLACE, heads, strict=True)},
            **{name: ("pair", [f"{name} {one}" for one in values]) for name, values in columns.items()},
        },
        attrs={"direction": "denoise", "corruption": "image", "min_gap": 1e-3},
    )


def _standard(rng: np.random.Generator, skewness: float, df: float | None, shape: tuple[int, ...]) -> np.ndarray:
    """Independent values of mean 0, and of variance 1 unless they are Student's."""
    if df is not None:
        return rng.standard_t(df, shape)
    if skewness == 0:
        return rng.normal(size=shape)
    # A gamma variable of the shape k has the skewness 2 / √k.
    k = 4 / skewness**2
    return (rng.gamma(k, 1.0, shape) - k) / np.sqrt(k)
