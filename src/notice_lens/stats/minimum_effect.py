r"""A test of all heads at once: is the effect larger than the smallest effect of interest?

With many pairs every head has an effect that is not zero, so the null hypothesis is \|effect\| ≤ δ (a minimum-effect
test). The effect is a ratio of sums, change over gap, and is made linear: with s the sign of a head's effect, each
cluster of pairs has the *excess* s · change - δ · gap, whose mean is zero or less where the null holds.

1. The statistic is the studentised sum of the excesses, S / √V, corrected for skewness (Hall 1992, *On the removal of
   skewness by transformation*, J. R. Statist. Soc. B 54; the cubic one): ratios of changes to gaps have long tails.
2. The other side of the null counts too. Where s was chosen by the data, -s would have been chosen for a sum of less
   than -2 δ Σ gap, so the statistic is the larger of the two sides. With δ = 0 it is the usual two-sided one.
3. Null distribution: signs of whole clusters are flipped, the same flips for all heads, so that what they have in
   common stays. Flips are exact where excesses are symmetric about zero.
4. Skewed excesses are not, and then flips reject too often (of 144 skewed heads at the boundary, in more than half of
   all runs for 5 %). So the same statistic is also compared with a bootstrap of the centred excesses (bootstrap-t), and
   **the larger p counts**.
5. Over heads: max-T with step-down (Westfall & Young 1993, algorithm 2.8; Romano & Wolf 2005), or Benjamini and
   Hochberg, both with the heads set aside whose effect in the data is below δ; see `nulls`.

Two-way clusters: each partition is flipped (resampled) by itself and the sums are added; the variance of the data is
V₁ + V₂ - V₁₂ (Cameron, Gelbach & Miller 2011), and at least each of the two.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from notice_lens.stats.clusters import Sums
from notice_lens.stats.nulls import Null

DRAWS_AT_ONCE = 100
"""Draws that are worked on together: their arrays stay in the processor's cache."""
ROUNDING = 1e-12
FLAT_SHARE = 0.01
"""A resample with less than this share of the data's variance, a tenth of its spread, has lost what spreads."""
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclass(frozen=True)
class Moments:
    """Sum, centred sum of squares and centred sum of cubes of independent parts; they add up over partitions."""

    total: np.ndarray
    square: np.ndarray
    cube: np.ndarray

    @classmethod
    def of(cls, n: int | np.ndarray, total: np.ndarray, square: np.ndarray, cube: np.ndarray) -> "Moments":
        """Return the moments, from the sums of n values, of their squares and cubes; the variance is unbiased."""
        mean = total / n
        centred = square - mean * total
        variance = np.where(centred > ROUNDING * square, centred, 0) * (n / np.maximum(1, n - 1))
        return cls(total, variance, cube - 3 * mean * square + 2 * mean**2 * total)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.total + other.total, self.square + other.square, self.cube + other.cube)


class Again(NamedTuple):
    """The test in resamples of the data: the statistic and the sign of each head, [resample, place] each."""

    statistic: np.ndarray
    sign: np.ndarray


class MinimumEffect:
    """The test of one condition.

    Args:
        partitions: Sums over clusters; two for two-way clustering.
        crossed: Sums over what two partitions have in common.
        smallest: The smallest effect of interest, δ.
    """

    def __init__(self, partitions: Sequence[Sums], crossed: Sums | None = None, smallest: float = 0.02) -> None:
        self.partitions, self.crossed = partitions, crossed
        self.edge = smallest * partitions[0].gap.sum(0)
        self.smallest = smallest
        self.sign = np.where(partitions[0].change.sum(0) < 0, -1.0, 1.0)

    def excess(self, sums: Sums) -> np.ndarray:
        """Return how far each cluster's change is beyond the smallest effect, in logits, [cluster, place]."""
        return self.sign * sums.change - self.smallest * sums.gap

    @cached_property
    def moments(self) -> Moments:
        """The moments of the excesses of the data, [place]."""
        by_partition = [_moments(self.excess(sums)) for sums in self.partitions]
        if self.crossed is None:
            return by_partition[0]
        one, other, both = *by_partition, _moments(self.excess(self.crossed))
        least = np.maximum(one.square, other.square)
        square = np.maximum(least, one.square + other.square - both.square)
        return Moments(one.total, square, one.cube + other.cube - both.cube)

    @cached_property
    def statistic(self) -> np.ndarray:
        """The statistic of each head, [place]."""
        return larger_side(self.moments, self.edge)

    def null(self, draw: Draw, size: int, rng: np.random.Generator, centred: bool) -> Null:
        """Draw the statistic under the null.

        Args:
            draw: Weights of clusters, `flips` or `resamples`.
            size: How many draws.
            rng: Where they come from.
            centred: Whether excesses are centred first, as a bootstrap needs it.
        """
        values = [self.excess(sums) for sums in self.partitions]
        values = [_centred(value) for value in values] if centred else values
        powers = [(value, value**2, value**3) for value in values]
        least = FLAT_SHARE * sum(_moments(value).square for value in values)
        parts, flat = [], []
        for draws in _chunks(size):
            by_partition = []
            for one, two, three in powers:
                weights = draw(rng, len(one), draws)
                # A flip leaves squares as they are.
                square = weights @ two if centred else two.sum(0)
                by_partition.append(Moments.of(len(one), weights @ one, square, weights @ three))
            moments = _added(by_partition)
            parts.append(larger_side(moments, self.edge))
            flat.append(moments.square <= least)
        without = np.concatenate(flat)
        return Null(np.concatenate(parts), without if centred and without.any() else None)

    def resampled(self, weights: Sequence[np.ndarray]) -> "Again":
        """Return the statistic in resamples of the data, the sign of each head chosen anew.

        Args:
            weights: For each partition how often each cluster is drawn, [resample, cluster]. How many are drawn in all
                may differ, as where several conditions are resampled together.
        """
        parts = [
            self._resampled([counts[start : start + DRAWS_AT_ONCE] for counts in weights])
            for start in range(0, len(weights[0]), DRAWS_AT_ONCE)
        ]
        return Again(*(np.concatenate(parts_of) for parts_of in zip(*parts, strict=True)))

    def _resampled(self, weights: Sequence[np.ndarray]) -> "Again":
        again = len(self.partitions) - 1
        first = self.partitions[0]
        pairs = list(zip(weights, self.partitions, strict=True))
        change = sum(counts @ sums.change for counts, sums in pairs) - again * first.change.sum(0)
        gap = sum(counts @ sums.gap for counts, sums in pairs) - again * first.gap.sum(0)
        sign, delta = np.where(change < 0, -1.0, 1.0), self.smallest
        by_partition = []
        for counts, sums in pairs:
            d, g = sums.change, sums.gap
            square = counts @ d**2 - 2 * delta * sign * (counts @ (d * g)) + delta**2 * (counts @ g**2)
            cube = (
                sign * (counts @ d**3) - 3 * delta * (counts @ (d**2 * g)) + 3 * delta**2 * sign * (counts @ (d * g**2))
            )
            total = sign * (counts @ d) - delta * (counts @ g)
            drawn = np.maximum(1, counts.sum(1, keepdims=True))
            by_partition.append(Moments.of(drawn, total, square, cube - delta**3 * (counts @ g**3)))
        moments = _added(by_partition)
        statistic = larger_side(Moments(sign * change - delta * gap, moments.square, moments.cube), delta * gap)
        return Again(statistic, sign)


def larger_side(moments: Moments, edge: float | np.ndarray) -> np.ndarray:
    """Return the statistic: the larger one, studentised, of the sum and of what the other sign would have given.

    Args:
        moments: Of the excesses.
        edge: The smallest effect in logits, δ Σ gap.
    """
    root = np.sqrt(moments.square)
    flat = root == 0
    spread = np.where(flat, 1, root) if flat.any() else root
    skewness = moments.cube / (spread * spread * spread)
    sides = [(moments.total, skewness), (-moments.total - 2 * edge, -skewness)]
    larger = np.maximum(*[_hall(total / spread, skew) for total, skew in sides])
    if flat.any():
        larger[flat] = np.maximum(*[_without_spread(total) for total, _ in sides])[flat]
    return larger


def _hall(t: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Return Hall's cubic transformation of t; the skewness is that of the values over the root of their number."""
    # Horner's way, and in place: general powers and new arrays would take most of the test's time.
    bent = skewness * t
    curved = bent / 27
    curved += 1 / 3
    curved *= bent
    curved *= t
    curved += t
    curved += skewness / 6
    return curved


def _without_spread(total: np.ndarray) -> np.ndarray:
    """Return the statistic where all values are the same: infinite, or zero."""
    return np.where(total == 0, 0, np.copysign(np.inf, total))


def _centred(values: np.ndarray) -> np.ndarray:
    """Return values minus their mean; exactly zero where they differ by rounding alone.

    Otherwise a head whose excess is a constant would be beyond doubt in half of all draws, by the sign of an error of
    arithmetic, and with it the largest statistic over heads.
    """
    centred = values - values.mean(0)
    return np.where(np.abs(centred) > ROUNDING * np.abs(values).max(0), centred, 0.0)


def _moments(values: np.ndarray) -> Moments:
    return Moments.of(len(values), values.sum(0), (values**2).sum(0), (values**3).sum(0))


def _added(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _chunks(size: int) -> Iterator[int]:
    for start in range(0, size, DRAWS_AT_ONCE):
        yield min(DRAWS_AT_ONCE, size - start)
