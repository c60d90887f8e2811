"""What a head has to do to be called important, as numbers that are fixed before anything is looked at."""

import math
from dataclasses import dataclass
from typing import Any

from notice_lens.circuits.cells import GAP
from notice_lens.circuits.clusters import SHARED, names_of
from notice_lens.models.names import one_of, whole_number

METHODS = ("max_t", "fdr")
SIGMAS = 2.0


@dataclass(frozen=True)
class Rules:
    """Options of the tests.

    Attributes:
        smallest_effect: The smallest effect of interest, as the share that effects are.
        alpha: The error rate: of false discoveries with `fdr`, family-wise with `max_t`.
        method: How many heads are allowed for: `fdr` or `max_t`.
        n_permutations: Sign flips; as many bootstrap resamples make the second null distribution.
        n_bootstrap: Resamples for intervals.
        confidence: Of the intervals.
        cluster: What makes pairs one piece of evidence; see `clusters.labels`.
        seed: Of all resampling.
    """

    smallest_effect: float = 0.02
    alpha: float = 0.05
    method: str = "max_t"
    n_permutations: int = 10_000
    n_bootstrap: int = 2_000
    confidence: float = 0.95
    cluster: Any = SHARED
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises where an option is out of its range."""
        if self.method not in METHODS:
            raise ValueError(one_of("method", self.method, METHODS))
        names_of(self.cluster)
        if not 0 <= self.smallest_effect < math.inf:
            raise ValueError(f"smallest_effect={self.smallest_effect}: expected a share of the gap, 0 or more")
        for name in ("alpha", "confidence"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value}: expected a number between 0 and 1")
        for name, least in (("n_permutations", 1), ("n_bootstrap", 2), ("seed", 0)):
            whole_number(name, getattr(self, name), least)

    def refuse_coarse(self, heads: int, clusters: int, weight: int = 1) -> None:
        """Raises where no p-value can be small enough for any head to pass.

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
        """The rule `significant`, of effects that are shares of this."""
        return (
            f"|effect| larger than {self.smallest_effect:g} of {share_of}: the larger p of {self.n_permutations} sign "
            f"flips and as many bootstrap resamples, {self.controlled} at most {self.alpha:g} over the heads that are "
            "not below the smallest effect in the data, their p divided by the chance of that"
        )

    def attrs(self) -> dict[str, Any]:
        """The options, in plain values."""
        cluster = self.cluster if isinstance(self.cluster, str) else " and ".join(self.cluster)
        names = (
            "smallest_effect",
            "alpha",
            "method",
            "n_permutations",
            "n_bootstrap",
            "confidence",
            "seed",
        )
        return {**{name: getattr(self, name) for name in names}, "cluster": cluster}
