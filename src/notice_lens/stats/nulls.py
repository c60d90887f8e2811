r"""From null distributions to p-values: of single heads, and corrected for the number of heads.

**Two counts for each head.** How many draws of its own are as large, and how many draws of all heads together; **the
larger p counts**. A head's own resamples do not know how long its tail is: where the sample lacks what comes once in a
hundred pairs, its statistic is too large *and* its own null too narrow. The draws of all heads do know it on average,
and false discoveries are counted over all heads. (Of 144 heads at the boundary with tails against their effect, 60
clusters, the false-discovery rate by own draws alone is 13 % where it says 5 %.)

**Draws without spread.** A head that does something in one or two clusters alone has resamples that lack them: their
spread is next to nothing and their statistic next to infinite, in a third of all draws. They say nothing about other
heads, so they stay out of the draws of all heads together and out of the largest statistic over heads; the head's own p
counts them, and it is not found.

**Heads that are set aside.** The null hypothesis is an interval, \|effect\| ≤ δ, and most heads lie far inside of it.
Heads whose statistic is below zero, whose effect in the data is below δ, are set aside, and the p-values of the others
are divided by the chance of not being so at the boundary, a half where δ is large for the data and 1 where it is zero
(conditionalised tests: Ellis, Pecanka & Goeman 2020, *Gaining power in multiple testing of interval hypotheses via
conditionalization*, Biostatistics 21; Zhao, Small & Su 2019, J. Am. Statist. Assoc. 114). Given that a head at the
boundary was not set aside, its p is uniform again; of a head further inside it is larger. So nothing is lost at the
boundary, and where most heads do nothing those that are left compete with a dozen and not with 144.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Null:
    """The distribution of the statistic where the null holds.

    Attributes:
        draws: Drawn for all heads together, [draw, place].
        flat: True for draws without spread, [draw, place]; None without such draws.
    """

    draws: np.ndarray
    flat: np.ndarray | None = None

    @cached_property
    def _by_place(self) -> np.ndarray:
        """The draws of each head one after the other, [place, draw]."""
        return np.ascontiguousarray(self.draws.T)

    @cached_property
    def _ordered(self) -> np.ndarray:
        return np.sort(self._by_place, axis=1)

    @cached_property
    def _pool(self) -> np.ndarray:
        return np.sort(self.draws if self.flat is None else self.draws[~self.flat], axis=None)

    @cached_property
    def for_others(self) -> np.ndarray:
        """The draws of each head as they count for other heads, [place, draw]."""
        return self._by_place if self.flat is None else np.where(self.flat.T, -np.inf, self._by_place)

    def own(self, statistic: np.ndarray) -> np.ndarray:
        """Return each head's p by its own draws, for statistics [..., place]."""
        size = len(self.draws)
        if statistic.ndim == 1:
            return (1 + (self.draws >= statistic).sum(0)) / (size + 1)
        below = [np.searchsorted(draws, statistic[..., place], "left") for place, draws in enumerate(self._ordered)]
        return (1 + size - np.stack(below, -1)) / (size + 1)

    def pooled(self, statistic: np.ndarray) -> np.ndarray:
        """Return each head's p by the draws of all heads, for statistics [..., place]."""
        # Where no head has any spread there are no draws of others, and each head's own count decides.
        size = self._pool.size
        as_large = size - np.searchsorted(self._pool, statistic, "left")
        return (1 + as_large) / (1 + (size or self.draws.size))

    def chance(self, beyond: np.ndarray) -> float:
        """Return how likely a head at the boundary is not set aside: the least over the heads that were not."""
        size = len(self.draws)
        return float((1 + (self.draws[:, beyond] >= 0).sum(0).min(initial=size)) / (size + 1))

    def family_wise(self, statistic: np.ndarray) -> np.ndarray:
        """Return each head's p with all heads allowed for: step-down over the largest ones that are left, [place].

        Heads below zero are set aside; theirs is 1.
        """
        beyond = statistic >= 0
        order = np.flatnonzero(beyond)[np.argsort(-statistic[beyond], kind="stable")]
        above, largest = np.empty(len(order)), np.full(len(self.draws), -np.inf)
        # From the smallest statistic on, so that each largest value is that of the heads that are left.
        for number, place in reversed([*enumerate(order)]):
            np.maximum(largest, self.for_others[place], out=largest)
            above[number] = np.count_nonzero(largest >= statistic[place])
        p = (1 + above) / (len(self.draws) + 1) / self.chance(beyond)
        adjusted = np.ones(len(statistic))
        adjusted[order] = np.minimum(1, np.maximum.accumulate(p))
        return adjusted


def p_values(nulls: Sequence[Null], statistic: np.ndarray) -> np.ndarray:
    """Return the uncorrected p of each head, for statistics [..., place]: the largest, of each null and both counts."""
    return np.maximum.reduce([count(statistic) for null in nulls for count in (null.own, null.pooled)])


def family_wise(nulls: Sequence[Null], statistic: np.ndarray) -> np.ndarray:
    """Return the p of each head, corrected for the family-wise error rate over heads, [place]."""
    by_null = [null.family_wise(statistic) for null in nulls]
    return np.maximum.reduce([*by_null, p_values(nulls, statistic)])


def false_discoveries(nulls: Sequence[Null], statistic: np.ndarray) -> np.ndarray:
    """Return the p of each head, corrected for the false-discovery rate over heads, [place]; 1 for heads set aside."""
    beyond = statistic >= 0
    q = np.ones(len(statistic))
    if beyond.any():
        chance = min(null.chance(beyond) for null in nulls)
        q[beyond] = over_heads(np.minimum(1, p_values(nulls, statistic)[beyond] / chance))
    return q


def over_tests(p: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's adjusted p over all tests of any shape; NaN (no test) stays NaN."""
    q, tested = np.full(p.shape, np.nan), ~np.isnan(p)
    if tested.any():
        q[tested] = over_heads(p[tested])
    return q


def over_heads(p: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's adjusted p over the last axis; NaN where any p is."""
    # SciPy's statistics take longer to import than a test takes.
    from scipy.stats import false_discovery_control

    return np.full(p.shape, np.nan) if np.isnan(p).any() else false_discovery_control(p, axis=-1)
