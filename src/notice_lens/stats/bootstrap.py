"""Intervals of means, and of ratios of sums, over pairs: pairs that share images are drawn together.

Clusters of pairs are resampled with replacement (pairs that share images are no independent evidence), and the interval
is bias-corrected and accelerated (BCa, Efron 1987; `scipy.stats.bootstrap`): that of plain percentiles covers less than
it says where effects are skewed. A mean is a ratio of sums too: of what is there, over how many there are.

`bca` is the one place that calls SciPy for this; `notice_lens.circuits` takes its intervals from here as well.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from notice_lens.pairs.clusters import cluster_numbers

RESAMPLES = 2000
AT_ONCE = 4_000_000
"""Numbers that are drawn at a time, at most."""
SPREAD = 1e-12
"""Residuals that are smaller than this share of the largest value are rounding: the ratio is the same in all pairs."""


class Interval(NamedTuple):
    """A ratio of sums and its interval, each [...]; NaN where nothing is known.

    Attributes:
        mean: The ratio.
        low: The lower end; NaN with fewer than two clusters, the ratio itself where it is the same in all of them.
        high: The upper end.
        n: How many pairs it is of.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def clusters_of(effects: xr.Dataset) -> np.ndarray:
    """The cluster of each pair of a result, [pair]: pairs that share an image, clean or corrupted, are of one."""
    digests = zip(effects.clean_digest.values.tolist(), effects.corrupt_digest.values.tolist(), strict=True)
    return cluster_numbers(list(digests))


def ratio_of_sums(
    top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The sum of `top` over the sum of `bottom`, over pairs, with its interval.

    Args:
        top: [pair, ...]; what is NaN is left out.
        bottom: [pair] or [pair, ...]; ones for a mean.
        clusters: Of each pair, [pair].
        confidence: Between 0 and 1.
        seed: Of the resamples.
    """
    shape = top.shape[1:]
    top = np.asarray(top, float).reshape(len(top), -1)
    bottom = np.broadcast_to(np.asarray(bottom, float).reshape(len(top), -1), top.shape)
    there = ~(np.isnan(top) | np.isnan(bottom))
    member = (np.arange(clusters.max(initial=-1) + 1)[:, None] == clusters).astype(float)
    tops, bottoms = member @ np.where(there, top, 0), member @ np.where(there, bottom, 0)
    low, high = np.full((2, top.shape[1]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(bottoms.sum(0) != 0, tops.sum(0) / bottoms.sum(0), np.nan)
    # Cells of the same clusters together: a cluster that a cell lacks is no draw of it.
    present, of_cell = np.unique(member @ there > 0, axis=1, return_inverse=True)
    for number, known in enumerate(present.T):
        cells = np.flatnonzero((of_cell.ravel() == number) & ~np.isnan(mean))
        if known.sum() >= 2 and len(cells):
            sums, rng = (tops[np.ix_(known, cells)], bottoms[np.ix_(known, cells)]), np.random.default_rng(seed)
            low[cells], high[cells] = ratio_ends(*sums, RESAMPLES, confidence, rng)
    return Interval(*(value.reshape(shape) for value in (mean, low, high, there.sum(0))))


def ratio_ends(
    tops: np.ndarray, bottoms: np.ndarray, n_resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval of each ratio of sums, [cell] each; the ratio itself where it is the same in all.

    Args:
        tops: Sums over the pairs of each cluster, [cluster, cell].
        bottoms: The same of what they are divided by.
        n_resamples: Of the bootstrap.
        confidence: Between 0 and 1.
        rng: Of the resamples.
    """
    mean = tops.sum(0) / bottoms.sum(0)
    low, high = mean.copy(), mean.copy()
    vary = np.abs(tops - mean * bottoms).max(0) > SPREAD * np.maximum(np.abs(tops), np.abs(mean * bottoms)).max(0)
    if vary.any():
        sums = (tops[:, vary], bottoms[:, vary])
        at_once = max(1, AT_ONCE // sums[0].size)
        ends = bca(sums, _ratio, n_resamples, confidence, rng, paired=True, batch=at_once).confidence_interval
        low[vary], high[vary] = np.atleast_1d(ends.low), np.atleast_1d(ends.high)
    return low, high


def bca(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    n_resamples: int,
    confidence: float,
    rng: np.random.Generator,
    **options: Any,
) -> Any:
    """SciPy's bootstrap, bias-corrected and accelerated; NaN, without a warning, where there is no correction.

    Args:
        data: As of `scipy.stats.bootstrap`.
        statistic: Of `data` along an axis.
        n_resamples: Of the bootstrap.
        confidence: Between 0 and 1.
        rng: Of the resamples.
        **options: Of `scipy.stats.bootstrap`.
    """
    # The name of the generator's argument that every version of SciPy from the oldest on knows.
    drawn: dict[str, Any] = {"random_state": rng}
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Resamples that all lie on one side of the estimate, or are not defined.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return stats.bootstrap(
            data,
            statistic,
            vectorized=True,
            n_resamples=n_resamples,
            confidence_level=confidence,
            method="BCa",
            **options,
            **drawn,
        )


def _ratio(top: np.ndarray, bottom: np.ndarray, axis: int = 0) -> np.ndarray:
    return top.sum(axis) / bottom.sum(axis)


def labelled(effects: xr.Dataset, found: Interval, name: str, dims: Sequence[str]) -> dict[str, xr.DataArray]:
    """An interval as variables: `{name}`, `{name}_low` and `{name}_high`, with the coordinates of a result."""
    coords = {dim: effects[dim] for dim in dims}
    ends = {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    return {own: xr.DataArray(value, coords, list(dims)) for own, value in ends.items()}
