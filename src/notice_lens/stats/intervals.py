"""Intervals by resampling whole clusters of pairs, since pairs that share images are not independent evidence.

**Effects of heads** have the bootstrap-t (Efron & Tibshirani 1993, section 12.5; for ratios Hinkley 1977): resamples
give the distribution of (effect* - effect) / standard error*, whose quantiles are read off in standard errors of the
data. A percentile interval covers 84 to 91 % where it says 95 %, since effects are skewed. Where tails are so long
that a few clusters make up the variance (Student's t with two degrees of freedom), resamples leave them out or draw
them twice, and the bootstrap-t covers 90 %: studentised sums of long-tailed values are no wider than normal ones, so
the interval reaches at least as far as Student's t does, either way. Where a few of few clusters make up the spread,
resamples without them have next to no error, and quantiles of t have no bound; the interval reaches at most as far as
that of two clusters, Student's t with one degree of freedom: no sample says less than two clusters do. Standard errors
allow for clusters of different sizes: the residual of a cluster with the share h of the gap is divided by the root of
1 - h (CR2, Bell & McCaffrey 2002), and degrees of freedom are those of as many clusters of one size.

**Correlations** of heads over two measures are pulled toward zero by the noise of single pairs, the more so the nearer
they are to 1, and resampling pulls them once more. On Fisher's scale (artanh) the interval reaches inward to the
percentile of the resamples or to the estimate less what resamples are above it, whichever is farther, and outward
three times as far as resamples fall short of the estimate (`REACH`). Of 100 out of 400 pairs of the mini model BCa held
the correlation of all pairs in 65 to 82 % of samples; this does in 89 to 100 %. Where nearly all heads do next to
nothing their order is noise, and the interval still ends too near to zero (41 % in the worst planted case;
`benchmarks/agreement.py`).

**Everything else** has the bias-corrected and accelerated interval (BCa, Efron 1987; `scipy.stats.bootstrap`): means
and ratios of sums, whose plain percentiles cover less than they say where effects are skewed (a mean is a ratio of sums
too: of what is there, over how many there are), and statistics that fold effects (shares of |effect|, rank
correlations), where noise pushes every resample to one side, which the bias correction takes back.

Two-way clusters: both partitions are resampled independently and a pair's weight is the sum of both minus one, so that
variances add up; the data's standard error is Cameron, Gelbach and Miller's.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from notice_lens.stats.clusters import Sums, cluster_sums, resamples

if TYPE_CHECKING:
    import xarray as xr

RESAMPLES = 2000
NUMBERS_AT_ONCE = 4_000_000
"""Numbers that are drawn at a time, at most."""
CONSTANT = 1e-12
"""Residuals that are smaller than this share of the largest value are rounding: the ratio is the same in all pairs."""
REACH = 3.0
"""How many times as far as resamples fall short of a correlation its interval reaches beyond it."""
LEAST_OF_THE_REST = 0.1
"""A cluster with more than nine tenths of the gap says what it says; its residual is not blown up without end."""


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


def ratio_of_sums(
    top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the sum of `top` over the sum of `bottom`, over pairs, with its interval.

    Args:
        top: [pair, ...]; NaN is left out.
        bottom: [pair] or [pair, ...]; ones for a mean.
        clusters: The number of each pair's cluster, [pair].
        confidence: Between 0 and 1.
        seed: Of the resamples.
    """
    shape = top.shape[1:]
    top = np.asarray(top, float).reshape(len(top), -1)
    bottom = np.broadcast_to(np.asarray(bottom, float).reshape(len(top), -1), top.shape)
    there = ~(np.isnan(top) | np.isnan(bottom))
    size = int(clusters.max(initial=-1)) + 1
    tops, bottoms, counts = (
        cluster_sums(values, clusters, size) for values in (np.where(there, top, 0), np.where(there, bottom, 0), there)
    )
    low, high = np.full((2, top.shape[1]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(bottoms.sum(0) != 0, tops.sum(0) / bottoms.sum(0), np.nan)
    # Entries of the same clusters together: a cluster that an entry lacks is never drawn for it.
    present, group = np.unique(counts > 0, axis=1, return_inverse=True)
    for number, known in enumerate(present.T):
        entries = np.flatnonzero((group.ravel() == number) & ~np.isnan(mean))
        if known.sum() >= 2 and len(entries):
            sums, rng = (tops[np.ix_(known, entries)], bottoms[np.ix_(known, entries)]), np.random.default_rng(seed)
            low[entries], high[entries] = ratio_ends(*sums, RESAMPLES, confidence, rng)
    return Interval(*(value.reshape(shape) for value in (mean, low, high, there.sum(0))))


def wilson(rate: float, n: float | int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of Wilson's score interval of a rate, which has a width at 0 and at 1 too (Wilson 1927).

    Args:
        rate: Between 0 and 1.
        n: How many independent cases it is of.
        confidence: Between 0 and 1.
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (rate * (1 - rate) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def labelled(effects: "xr.Dataset", interval: Interval, name: str, dims: Sequence[str]) -> "dict[str, xr.DataArray]":
    """Return an interval as variables `{name}`, `{name}_low` and `{name}_high`, with the coordinates of a result."""
    import xarray as xr

    coords = {dim: effects[dim] for dim in dims}
    ends = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {end: xr.DataArray(values, coords, list(dims)) for end, values in ends.items()}


def ratio_ends(
    tops: np.ndarray, bottoms: np.ndarray, n_resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of each ratio of sums, [entry]; the ratio itself where it is the same in all.

    Args:
        tops: Sums over the pairs of each cluster, [cluster, entry].
        bottoms: The same for the denominators.
        n_resamples: Of the bootstrap.
        confidence: Between 0 and 1.
        rng: Of the resamples.
    """
    mean = tops.sum(0) / bottoms.sum(0)
    low, high = mean.copy(), mean.copy()
    vary = np.abs(tops - mean * bottoms).max(0) > CONSTANT * np.maximum(np.abs(tops), np.abs(mean * bottoms)).max(0)
    if vary.any():
        sums = (tops[:, vary], bottoms[:, vary])
        at_once = max(1, NUMBERS_AT_ONCE // sums[0].size)
        ends = _scipy_bca(sums, _ratio, n_resamples, confidence, rng, paired=True, batch=at_once).confidence_interval
        low[vary], high[vary] = np.atleast_1d(ends.low), np.atleast_1d(ends.high)
    return low, high


def bootstrap_t(
    partitions: Sequence[Sums], crossed: Sums | None, n_bootstrap: int, confidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of each ratio of sums, change over gap, [place]; NaN for fewer than two clusters.

    Args:
        partitions: Sums over clusters; two for two-way clustering.
        crossed: Sums over what two partitions have in common.
        n_bootstrap: Resamples.
        confidence: Between 0 and 1.
        rng: Where resamples come from.
    """
    from scipy.special import stdtrit

    places = partitions[0].change.shape[1]
    if min(map(len, partitions)) < 2:
        return np.full(places, np.nan), np.full(places, np.nan)
    effect = partitions[0].change.sum(0) / partitions[0].gap.sum(0)
    error = standard_error(partitions, crossed, effect)
    weights = [resamples(rng, len(sums), n_bootstrap) for sums in partitions]
    drawn, gap = resampled_ratio(partitions, weights)
    variance = sum(_resampled_variance(sums, counts, drawn) for sums, counts in zip(partitions, weights, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn - effect) / np.sqrt(variance) * np.abs(gap)
    # Resamples of one cluster alone have no spread; an effect without any has an interval of no width.
    error = np.where(error > CONSTANT * np.abs(effect), error, 0.0)
    t[~np.isfinite(t)] = np.nan
    # Nor has one of which resamples differ by rounding alone; else the interval is Student's.
    t[:, (error == 0) | np.isnan(t).all(0)] = 0
    tail = (1 - confidence) / 2
    below, above = np.nanquantile(t, [tail, 1 - tail], axis=0)
    least, most = stdtrit(np.array([max(1.0, min(map(_like, partitions)) - 1), 1.0]), 1 - tail)
    return effect - np.clip(above, least, most) * error, effect + np.clip(-below, least, most) * error


def resampled_ratio(partitions: Sequence[Sums], weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return change over gap in resamples, [resample, place], and the gap, [resample, 1] (or by place)."""
    again, first = len(partitions) - 1, partitions[0]
    change, gap = -again * first.change.sum(0), -again * first.gap.sum(0)
    for sums, counts in zip(partitions, weights, strict=True):
        change, gap = change + counts @ sums.change, gap + counts @ sums.gap
    return change / gap, gap


def bca(
    statistic: Callable[[np.ndarray], np.ndarray],
    partitions: Sequence[Sums],
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of statistics of the effects; of percentiles where BCa is not defined.

    Args:
        statistic: Gives numbers [..., resample] for effects [resample, place].
        partitions: Sums over clusters.
        n_bootstrap: Resamples.
        confidence: Between 0 and 1.
        rng: Where resamples come from.
    """

    def of(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        weights = [_counts(rows, len(sums)) for rows, sums in zip(drawn, partitions, strict=True)]
        return statistic(resampled_ratio(partitions, weights)[0]).reshape(-1, *drawn[0].shape[:-1])

    if min(map(len, partitions)) < 2:
        nothing = np.full(of(*[np.arange(len(sums)) for sums in partitions]).shape, np.nan)
        return nothing, nothing
    data = tuple(np.arange(len(sums)) for sums in partitions)
    result, tail = _scipy_bca(data, of, n_bootstrap, confidence, rng), (1 - confidence) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        plain = np.nanquantile(result.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    ends = result.confidence_interval
    usable = np.isfinite(ends.low) & np.isfinite(ends.high)
    return np.where(usable, ends.low, plain[0]), np.where(usable, ends.high, plain[1])


def correlation_ends(
    statistic: Callable[[np.ndarray], np.ndarray],
    partitions: Sequence[Sums],
    n_bootstrap: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of correlations of the effects; NaN where there is no correlation.

    Args:
        statistic: Gives correlations [number, resample] for effects [resample, place].
        partitions: Sums over clusters.
        n_bootstrap: Resamples.
        confidence: Between 0 and 1.
        rng: Where resamples come from.
    """
    estimate = statistic(resampled_ratio(partitions, [np.ones((1, len(sums))) for sums in partitions])[0])[:, 0]
    if min(map(len, partitions)) < 2:
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    drawn = statistic(resampled_ratio(partitions, [resamples(rng, len(sums), n_bootstrap) for sums in partitions])[0])
    tail, near_one = (1 - confidence) / 2, 1 - CONSTANT
    z, middle = (np.arctanh(np.clip(values, -near_one, near_one)) for values in (drawn, estimate))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        below, above = np.nanquantile(z, [tail, 1 - tail], axis=1)
    reach = np.where(middle > 0, REACH, 1.0), np.where(middle < 0, REACH, 1.0)
    high = np.maximum(above, middle + reach[0] * (middle - below))
    low = np.minimum(below, middle - reach[1] * (above - middle))
    # A correlation of 1 is one, and no artanh.
    ends = (np.where(np.abs(end) >= np.arctanh(near_one), np.sign(end), np.tanh(end)) for end in (low, high))
    low, high = (np.where(np.isnan(estimate), np.nan, end) for end in ends)
    return low, high


def _scipy_bca(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    n_resamples: int,
    confidence: float,
    rng: np.random.Generator,
    **options: Any,
) -> Any:
    """Run SciPy's bootstrap, bias-corrected and accelerated; NaN, without a warning, where there is no correction.

    Args:
        data: As of `scipy.stats.bootstrap`.
        statistic: Of `data` along an axis.
        n_resamples: Of the bootstrap.
        confidence: Between 0 and 1.
        rng: Of the resamples.
        **options: Of `scipy.stats.bootstrap`.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    # SciPy before 1.15 knows no `rng`, and later versions mean to drop `random_state`.
    generator = "rng" if "rng" in inspect.signature(bootstrap).parameters else "random_state"
    settings: dict[str, Any] = {"confidence_level": confidence, "method": "BCa", generator: rng, **options}
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Resamples that all lie on one side of the estimate, or are not defined.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        return bootstrap(data, statistic, vectorized=True, n_resamples=n_resamples, **settings)


def _ratio(top: np.ndarray, bottom: np.ndarray, axis: int = 0) -> np.ndarray:
    return top.sum(axis) / bottom.sum(axis)


def standard_error(partitions: Sequence[Sums], crossed: Sums | None, effect: np.ndarray) -> np.ndarray:
    """Return the standard error of the ratio, [place], by the residuals change - effect · gap of clusters."""
    variances = [_residual_variance(sums, effect) for sums in partitions]
    variance = np.maximum.reduce(variances)
    if crossed is not None:
        variance = np.maximum(variance, sum(variances) - _residual_variance(crossed, effect))
    return np.sqrt(variance) / abs(partitions[0].gap.sum(0))


def _residual_variance(sums: Sums, effect: np.ndarray) -> np.ndarray:
    return ((sums.change - effect * sums.gap) ** 2 * _of_share(sums.gap / sums.gap.sum(0))).sum(0)


def _resampled_variance(sums: Sums, weights: np.ndarray, effect: np.ndarray) -> np.ndarray:
    """Return the residual variance in resamples, [resample, place]: the square of the residual multiplied out."""
    d, g = sums.change, sums.gap
    weights = weights * _of_share(g[:, 0] / (weights @ g))
    parts = weights @ d**2, effect**2 * (weights @ g**2)
    square = sum(parts) - 2 * effect * (weights @ (d * g))
    # A resample of one cluster alone has no spread; what is left of the sums is rounding.
    return np.where(square > CONSTANT * sum(parts), square, 0)


def _of_share(share: np.ndarray) -> np.ndarray:
    """Return the factor of a cluster's squared residual, for its share of the gap."""
    return 1 / np.maximum(1 - share, LEAST_OF_THE_REST)


def _like(sums: Sums) -> float:
    """Return how many clusters with gaps of one size say as much."""
    return float(sums.gap.sum() ** 2 / (sums.gap**2).sum())


def _counts(drawn: np.ndarray, clusters: int) -> np.ndarray:
    """Return how often each cluster was drawn, [resample, cluster], from numbers of clusters, [..., draw]."""
    rows = drawn.reshape(-1, drawn.shape[-1]).astype(int)
    places = rows + clusters * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=clusters * len(rows)).reshape(len(rows), clusters).astype(float)
