"""Important heads of one condition: two rules side by side.

`two_sigma` is the method's own rule (arXiv 2406.16320): |effect| at least the mean plus two standard deviations over
heads. It describes: some head is far out in nearly every table, and the rule knows nothing of pairs. `significant` says
that the effect is larger than a smallest effect of interest, with the error rate over all heads controlled; see
`minimum_effect`. Effects are those of `patching.aggregate`, ratios of sums over pairs.
"""

import math
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP, ChangeMetric, Condition, read_condition
from notice_lens.circuits.evidence import SHARED, Cluster, names_of, partitions_of, warn_if_few, with_donors
from notice_lens.errors import one_of, whole_number
from notice_lens.patching.results import Effects
from notice_lens.stats.clusters import Sums, crossed, effective, flips, resamples
from notice_lens.stats.dims import HEADS
from notice_lens.stats.intervals import bootstrap_t
from notice_lens.stats.minimum_effect import MinimumEffect
from notice_lens.stats.nulls import Null, false_discoveries, family_wise, p_values

Method = Literal["max_t", "fdr"]
METHODS: tuple[Method, ...] = get_args(Method)
SIGMAS = 2.0


class RuleOptions(TypedDict, total=False):
    """The options of the tests, as keywords; see `Rules`."""

    smallest_effect: float
    alpha: float
    method: Method
    n_permutations: int
    n_bootstrap: int
    confidence: float
    cluster: Cluster
    seed: int


@dataclass(frozen=True)
class Rules:
    """Options of the tests.

    Attributes:
        smallest_effect: The smallest effect of interest, as a share of what `share_of` names.
        alpha: The error rate: of false discoveries with `fdr`, family-wise with `max_t`.
        method: How many heads are allowed for: `fdr` or `max_t`.
        n_permutations: Sign flips; as many bootstrap resamples make the second null distribution.
        n_bootstrap: Resamples for intervals.
        confidence: Of the intervals.
        cluster: What makes pairs one piece of evidence; see `evidence.partitions_of`.
        seed: Of all resampling.
    """

    smallest_effect: float = 0.02
    alpha: float = 0.05
    method: Method = "max_t"
    n_permutations: int = 10_000
    n_bootstrap: int = 2_000
    confidence: float = 0.95
    cluster: Cluster = SHARED
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError if one is out of its range."""
        if self.method not in METHODS:
            raise ValueError(one_of("method", self.method, METHODS))
        names_of(self.cluster)
        if not 0 <= self.smallest_effect < math.inf:
            raise ValueError(
                f"smallest_effect={self.smallest_effect}: expected a share of what `share_of` names, 0 or more"
            )
        for name in ("alpha", "confidence"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value}: expected a number between 0 and 1")
        for name, least in (("n_permutations", 1), ("n_bootstrap", 2), ("seed", 0)):
            whole_number(name, getattr(self, name), least)

    def refuse_coarse(self, heads: int, clusters: int, weight: int = 1) -> None:
        """Raise ValueError if no p-value can be small enough for any head to pass.

        Args:
            heads: How many heads the false-discovery rate is over; 1 for a family-wise rate, which needs no more.
            clusters: How many are flipped.
            weight: What p-values are multiplied with before.
        """
        over = f" over {heads} heads" if heads > 1 else ""
        needed = self.alpha / heads / weight
        smallest = 1 / (self.n_permutations + 1)
        if smallest > needed * (1 + 1e-9):
            raise ValueError(
                f"{self.n_permutations} sign flips: the smallest p is {smallest:.2g}, and at alpha={self.alpha}{over} "
                f"{needed:.2g} is needed; n_permutations={math.ceil(1 / needed - 1e-9) - 1} or more can reject"
            )
        if 2.0**-clusters > needed:
            least = math.ceil(-math.log2(needed))
            raise ValueError(
                f"{clusters} clusters: the smallest p of their sign flips is {2.0**-clusters:.2g}, and at "
                f"alpha={self.alpha}{over} {needed:.2g} is needed; {least} clusters or more can reject"
            )

    @property
    def controlled(self) -> str:
        """The error rate in words."""
        return "family-wise error rate (max-T, step-down)" if self.method == "max_t" else "false-discovery rate (BH)"

    def in_words(self, share_of: str = GAP) -> str:
        """Return the rule `significant` in words, for effects that are shares of this."""
        return (
            f"|effect| larger than {self.smallest_effect:g} of {share_of}: the larger p of {self.n_permutations} sign "
            f"flips and as many bootstrap resamples, {self.controlled} at most {self.alpha:g} over the heads that are "
            "not below the smallest effect in the data, their p divided by the chance of that"
        )

    def attrs(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return {**asdict(self), "cluster": " and ".join(names_of(self.cluster))}


def important_heads(
    effects: Effects,
    *,
    role: str | None = None,
    metric: ChangeMetric | Literal["answer_prob"] = "logit_diff_change",
    smallest_effect: float = 0.02,
    alpha: float = 0.05,
    method: Method = "max_t",
    n_permutations: int = 10_000,
    n_bootstrap: int = 2_000,
    confidence: float = 0.95,
    cluster: Cluster = SHARED,
    control: bool | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return which heads carry the answer, with interval, p and rank of each.

    Args:
        effects: A result of `patching.patch_heads` for one condition: one task (or group) under one corruption.
        role: The role at which effects are read, fixed beforehand; `all` of a sweep of all words at once. None takes
            `correct` of effects by role, and of others the only one they have.
        metric: The change that is measured, `logit_diff_change` or `prob_change`; `answer_prob` is read as its change.
        smallest_effect: The smallest effect of interest, as a share of what `share_of` names, like `effect`.
        alpha: The error rate over heads.
        method: `max_t` controls the family-wise error rate; `fdr`, which finds more, the rate of false discoveries.
        n_permutations: Sign flips, and as many bootstrap resamples.
        n_bootstrap: Resamples for intervals.
        confidence: Of the intervals, between 0 and 1.
        cluster: What makes pairs one piece of evidence: `shared` (linked, in any number of steps, by an image that
            enters the tested number: one of their own, or the donor's where heads are ranked by matched minus
            mismatched), `image` (their own alone), `pair` (the same two images), a coordinate along `pair`, or two of
            these for two-way clusters. Where pairs share something and are counted as independent, the warning
            `DependentPairs` says so.
        control: Whether heads are ranked by matched minus mismatched; None: under an image corruption, where there are
            donors.
        seed: Of all resampling.

    Returns:
        By `layer, head`: `effect` (what is ranked: of matched minus mismatched the carried share, that is the share of
        what the donor leaves of the gap; otherwise the share of the gap), `effect_of_gap` (the same as a share of the
        gap), `effect_matched` and `effect_mismatched` (shares of the gap, of the same pairs; NaN without donors), each
        of these three with its own interval (`effect_matched_low`, `effect_matched_high` and so on), `sign` (-1, 0, 1),
        `low` and `high` (bootstrap-t interval of `effect`), `p` (that |effect| is no larger than `smallest_effect`,
        each head by itself), `q` (with all heads allowed for, by `method`; 1 where the data do not reach
        `smallest_effect`), `two_sigma`, `significant` (q at most alpha) and `rank` (1 is the largest |effect|). The
        attributes say both rules in words (`rule_two_sigma`, `rule_significant`), what the effect is a share of
        (`share_of`), what the condition is, how many `pairs` and `clusters` there are, how many clusters of one size
        these count as (`effective_clusters`), and all options.
        Below 15 of them p and q are NaN, with the warning `FewClusters`.

    Raises:
        ValueError: There is no such role, metric or method, an option is out of range, no pair counts, or no p could
            be small enough to reject.
    """
    rules = Rules(smallest_effect, alpha, method, n_permutations, n_bootstrap, confidence, cluster, seed)
    condition = read_condition(effects, role, "prob_change" if metric == "answer_prob" else metric, control)
    labels = partitions_of([condition], cluster)[0]
    tested = examined(condition, labels, rules)
    tested.refuse_coarse()
    return tested.table(tested.nulls())


@dataclass(frozen=True)
class Examined:
    """A condition with the sums over its clusters.

    Attributes:
        condition: Its numbers.
        partitions: Sums over clusters.
        crossed: Sums over what two partitions have in common.
        labels: The cluster of each pair in each partition, [pair].
        rules: The options.
        few: Whether there are too few clusters for p-values.
    """

    condition: Condition
    partitions: list[Sums]
    crossed: Sums | None
    labels: list[np.ndarray]
    rules: Rules
    few: bool

    @property
    def clusters(self) -> int:
        """Clusters of the coarsest partition."""
        return min(map(len, self.partitions))

    @cached_property
    def test(self) -> MinimumEffect:
        """The test of the smallest effect of interest."""
        return MinimumEffect(self.partitions, self.crossed, self.rules.smallest_effect)

    def refuse_coarse(self) -> None:
        """Raise ValueError if no p could be small enough to reject."""
        if not self.few:
            heads = self.partitions[0].change.shape[1]
            # Of a head that can be set aside, p is divided by the chance of not being so, about a half.
            halved = 2 if self.rules.smallest_effect else 1
            by_heads = (heads, self.clusters) if self.rules.method == "fdr" else (1, self.clusters, halved)
            self.rules.refuse_coarse(*by_heads)

    def nulls(self) -> list[Null]:
        """Return the null distributions, sign flips and a bootstrap of centred values; none where clusters are few."""
        if self.few:
            return []
        size, test = self.rules.n_permutations, self.test
        return [
            test.null(flips, size, self.rng("flips"), centred=False),
            test.null(resamples, size, self.rng("null"), centred=True),
        ]

    def rng(self, what: str) -> np.random.Generator:
        """Return a separate random stream for each use, so that more flips do not move intervals."""
        return np.random.default_rng([self.rules.seed, zlib.crc32(what.encode())])

    def p_values(self, nulls: list[Null], statistic: np.ndarray) -> np.ndarray:
        """Return the larger uncorrected p of each head, for statistics [..., place]; NaN without null distributions."""
        if not nulls:
            return np.full(statistic.shape, np.nan)
        return p_values(nulls, statistic)

    def q_values(self, nulls: list[Null]) -> np.ndarray:
        """Return the p with all heads allowed for, [place]."""
        if not nulls:
            return np.full(self.test.statistic.shape, np.nan)
        over = false_discoveries if self.rules.method == "fdr" else family_wise
        return over(nulls, self.test.statistic)

    def table(self, nulls: list[Null]) -> xr.Dataset:
        """Return the result of `important_heads`."""
        condition, rules = self.condition, self.rules
        effect = condition.effect()
        q = self.q_values(nulls)
        low, high = bootstrap_t(
            self.partitions, self.crossed, rules.n_bootstrap, rules.confidence, self.rng("intervals")
        )
        far, threshold = two_sigma(effect)
        columns = {
            "effect": effect,
            **self.shares_of_gap(),
            "sign": np.sign(effect).astype(int),
            "low": low,
            "high": high,
            "p": self.p_values(nulls, self.test.statistic),
            "q": q,
            "two_sigma": far,
            "significant": q <= rules.alpha,
            "rank": np.argsort(np.argsort(-np.abs(effect), kind="stable"), kind="stable") + 1,
        }
        return xr.Dataset(
            {name: condition.place(values) for name, values in columns.items()},
            coords={dim: (dim, values) for dim, values in condition.coords.items()},
            attrs={**condition.attrs(), **rules.attrs(), **self.counts(), **self._rules(threshold)},
        )

    def shares_of_gap(self) -> dict[str, np.ndarray]:
        """Return the effect and its two parts as shares of the gap, each with its bootstrap-t interval, by column.

        The resamples are those of the effect, so that the columns can be compared. Where heads are ranked by the
        matched change alone no donor enters it, and only the interval of the mismatched part keeps pairs of one donor
        together.
        """
        condition, rules = self.condition, self.rules
        nothing = np.full_like(condition.matched, np.nan)
        mismatched = nothing if condition.mismatched is None else condition.mismatched
        parts = {
            "effect_of_gap": condition.change,
            "effect_matched": condition.matched,
            "effect_mismatched": mismatched,
        }
        columns: dict[str, np.ndarray] = {}
        for name, change in parts.items():
            columns[name] = condition.share(change)
            ends = np.full((2, change.shape[1]), np.nan)
            if (known := np.isfinite(columns[name])).any():
                labels = with_donors(condition, self.labels, rules.cluster) if change is mismatched else self.labels
                sums = [Sums.of(change[:, known], condition.gap, one) for one in labels]
                both = Sums.of(change[:, known], condition.gap, crossed(*labels)) if len(labels) == 2 else None
                ends[:, known] = bootstrap_t(sums, both, rules.n_bootstrap, rules.confidence, self.rng("intervals"))
            columns[f"{name}_low"], columns[f"{name}_high"] = ends
        return columns

    def counts(self) -> dict[str, Any]:
        """Return how many clusters there are, and as how many of one size they count."""
        return {"clusters": self.clusters, "effective_clusters": round(min(map(effective, self.labels)), 1)}

    def _rules(self, threshold: float) -> dict[str, str]:
        of = self.condition.share_of
        two = f"|effect| at least mean + {SIGMAS:g} standard deviations over {HEADS[1]}s: {threshold:.4f} of {of}"
        return {"rule_two_sigma": two, "rule_significant": self.rules.in_words(of)}


def examined(condition: Condition, labels: list[np.ndarray], rules: Rules, where: str = "") -> Examined:
    """Return a condition with the sums over its clusters; warn where these are few.

    Args:
        condition: Its numbers.
        labels: The cluster of each pair in each partition.
        rules: The options.
        where: Which condition it is, for the warning.
    """
    partitions = [Sums.of(condition.change, condition.reach, one) for one in labels]
    both = Sums.of(condition.change, condition.reach, crossed(*labels)) if len(labels) == 2 else None
    return Examined(condition, partitions, both, labels, rules, few=warn_if_few(condition, labels, where))


def two_sigma(effect: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the heads that the two-sigma rule picks, [place], and its threshold, as the share that the effect is."""
    size = np.abs(effect)
    threshold = float(size.mean() + SIGMAS * size.std())
    return (size >= threshold) & (size > 0), threshold
