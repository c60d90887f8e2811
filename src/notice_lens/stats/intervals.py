"""Intervals by resampling whole clusters of pairs.

For effects of heads the bootstrap-t (Efron & Tibshirani 1993, section 12.5; for ratios Hinkley 1977): resamples give
the distribution of (effect* - effect) / standard error*, whose quantiles are read off in standard errors of the data.
A percentile interval covers 84 to 91 % where it says 95 %, since effects are skewed. Where tails are so long that a
few clusters make up the variance (Student's t with two degrees of freedom), resamples leave them out or draw them
twice, and the bootstrap-t covers 90 %: studentised sums of long-tailed values are no wider than normal ones, so the
interval reaches at least as far as Student's t does, either way. Standard errors allow for clusters of different sizes:
the residual of a cluster with the share h of the gap is divided by the root of 1 - h (CR2, Bell & McCaffrey 2002), and
degrees of freedom are those of as many clusters of one size.

For statistics that fold effects (shares of |effect|, rank correlations) noise pushes every resample to one side, which
the bias-corrected and accelerated interval takes back (BCa, Efron 1987; `scipy.stats.bootstrap`).

Two-way clusters: both partitions are resampled independently and a pair's weight is the sum of both minus one, so that
variances add up; the data's standard error is Cameron, Gelbach and Miller's.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from notice_lens.stats import bootstrap
from notice_lens.stats.clusters import Sums
from notice_lens.stats.minimum_effect import resamples

LEAST = 0.1
"""A cluster with more than nine tenths of the gap says what it says; its residual is not blown up without end."""


def bootstrap_t(
    partitions: Sequence[Sums], crossed: Sums | None, n_bootstrap: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of each ratio of sums, change over gap, [place]; NaN for fewer than two clusters.

    Args:
        partitions: Sums over clusters; two for two-way clustering.
        crossed: Sums over what two partitions have in common.
        n_bootstrap: Resamples.
        confidence: Between 0 and 1.
        rng: Where resamples come from.
    """
    places = partitions[0].change.shape[1]
    if min(map(len, partitions)) < 2:
        return np.full(places, np.nan), np.full(places, np.nan)
    effect = partitions[0].change.sum(0) / partitions[0].gap.sum(0)
    error = _standard_error(partitions, crossed, effect)
    weights = [resamples(rng, len(sums), n_bootstrap) for sums in partitions]
    drawn, gap = resampled_ratio(partitions, weights)
    variance = sum(_resampled_variance(sums, own, drawn) for sums, own in zip(partitions, weights, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn - effect) / np.sqrt(variance) * np.abs(gap)
    # Resamples of one cluster alone have no spread; an effect without any has an interval of no width.
    error = np.where(error > bootstrap.SPREAD * np.abs(effect), error, 0.0)
    t[~np.isfinite(t)] = np.nan
    t[:, error == 0] = 0
    tail = (1 - confidence) / 2
    below, above = np.nanquantile(t, [tail, 1 - tail], axis=0)
    student = stats.t.ppf(1 - tail, max(1.0, min(map(_like, partitions)) - 1))
    return effect - np.maximum(above, student) * error, effect - np.minimum(below, -student) * error


def resampled_ratio(partitions: Sequence[Sums], weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Change over gap in resamples, [resample, place], and the gap, [resample, 1] (or by place)."""
    again, first = len(partitions) - 1, partitions[0]
    change, gap = -again * first.change.sum(0), -again * first.gap.sum(0)
    for sums, own in zip(partitions, weights, strict=True):
        change, gap = change + own @ sums.change, gap + own @ sums.gap
    return change / gap, gap


def bca(
    statistic: Callable[[np.ndarray], np.ndarray],
    partitions: Sequence[Sums],
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of statistics of the effects; the percentile ones where all resamples are on one side.

    Args:
        statistic: Gives numbers [..., resample] for effects [resample, place].
        partitions: Sums over clusters.
        n_bootstrap: Resamples.
        confidence: Between 0 and 1.
        rng: Where resamples come from.
    """

    def of(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        weights = [_counts(own, len(sums)) for own, sums in zip(drawn, partitions, strict=True)]
        return statistic(resampled_ratio(partitions, weights)[0]).reshape(-1, *drawn[0].shape[:-1])

    if min(map(len, partitions)) < 2:
        nothing = np.full(of(*[np.arange(len(sums)) for sums in partitions]).shape, np.nan)
        return nothing, nothing
    data = tuple(np.arange(len(sums)) for sums in partitions)
    found, tail = bootstrap.bca(data, of, n_bootstrap, confidence, rng), (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        plain = np.nanquantile(found.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    own = found.confidence_interval
    usable = np.isfinite(own.low) & np.isfinite(own.high)
    return np.where(usable, own.low, plain[0]), np.where(usable, own.high, plain[1])


def _standard_error(partitions: Sequence[Sums], crossed: Sums | None, effect: np.ndarray) -> np.ndarray:
    """Of the ratio, [place]: by the residuals change - effect · gap of clusters."""
    variances = [_residual_variance(sums, effect) for sums in partitions]
    variance = np.maximum.reduce(variances)
    if crossed is not None:
        variance = np.maximum(variance, sum(variances) - _residual_variance(crossed, effect))
    return np.sqrt(variance) / abs(partitions[0].gap.sum(0))


def _residual_variance(sums: Sums, effect: np.ndarray) -> np.ndarray:
    return ((sums.change - effect * sums.gap) ** 2 * _of_share(sums.gap / sums.gap.sum(0))).sum(0)


def _resampled_variance(sums: Sums, weights: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """The same in resamples, [resample, place]: the square of the residual multiplied out."""
    d, g = sums.change, sums.gap
    weights = weights * _of_share(g[:, 0] / (weights @ g))
    square = weights @ d**2 - 2 * effect * (weights @ (d * g)) + effect**2 * (weights @ g**2)
    return np.maximum(square, 0)


def _of_share(share: np.ndarray) -> np.ndarray:
    """What the squared residual of a cluster is multiplied by, for its share of the gap."""
    return 1 / np.maximum(1 - share, LEAST)


def _like(sums: Sums) -> float:
    """How many clusters of one size say as much."""
    return float(sums.gap.sum() ** 2 / (sums.gap**2).sum())


def _counts(drawn: np.ndarray, clusters: int) -> np.ndarray:
    """How often each cluster was drawn, [resample, cluster], from numbers of clusters, [..., draw]."""
    rows = drawn.reshape(-1, drawn.shape[-1]).astype(int)
    places = rows + clusters * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=clusters * len(rows)).reshape(len(rows), clusters).astype(float)
