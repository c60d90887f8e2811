"""The table of labels: what each head was held for, what the cuts said, and the verdict in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import false_discovery_control

from notice_lens.circuits.cuts import AT_OUTLIERS, Cut
from notice_lens.circuits.predictions import KINDS, TESTS

if TYPE_CHECKING:
    import xarray as xr

GIVEN = "given"
OF_ATTENTION = ("attention_ratio", "attention_ratio_low", "attention_ratio_high", "q_attention")
OF_CLAIM = ("cut_inside", "cut_outside", "ablation", "p_causal", "q_causal")
OF_TEST = ("agreement", "low", "high", "p")


class Claim(NamedTuple):
    """A label that a head's attention suggests.

    Attributes:
        candidate: Its number among the candidates.
        head: Its number in the layer.
        kind: The label.
        cut: What to cut.
    """

    candidate: int
    head: int
    kind: str
    cut: Cut


class Verdicts:
    """Claims and their evidence, candidate by candidate and label by label.

    Args:
        candidates: Layer and head of each.
    """

    def __init__(self, candidates: Sequence[tuple[int, int]]) -> None:
        self.candidates, shape = candidates, (len(candidates), len(KINDS))
        self.words = {name: np.full(shape, "", object) for name in ("verdict", "role", "region")}
        self.numbers = {name: np.full(shape, np.nan) for name in (*OF_ATTENTION, *OF_CLAIM)}
        self.numbers |= {name: np.full((*shape, len(TESTS)), np.nan) for name in OF_TEST}
        self.n_pairs = np.zeros(shape, int)

    def refuse(self, candidate: int, kind: str, verdict: str) -> None:
        """Record why there is no label."""
        self.words["verdict"][candidate, KINDS.index(kind)] = verdict

    def attend(self, candidate: int, kind: str, cut: Cut, numbers: Mapping[str, float]) -> None:
        """Record the role and region where the attention is clearest, and its numbers, those of `OF_ATTENTION`."""
        place = candidate, KINDS.index(kind)
        self.words["role"][place] = cut.role
        self.words["region"][place] = "" if cut.inside == AT_OUTLIERS else cut.inside
        for name, value in numbers.items():
            self.numbers[name][place] = value

    def put(self, claim: Claim, numbers: Mapping[str, Any], reason: str) -> None:
        """Record a claim's evidence, or the reason why there is none."""
        place = self._place(claim)
        self.n_pairs[place] = numbers["n_pairs"]
        for name, value in numbers.items():
            if name != "n_pairs":
                self.numbers[name][place] = value
        if reason:
            self.words["verdict"][place] = not_testable([reason])

    def decide(self, alpha: float) -> None:
        """Corrects p-values over all claims, and gives labels or says what fails.

        Args:
            alpha: Rate of false discoveries.
        """
        p = self.numbers["p_causal"]
        tested = ~np.isnan(p)
        if tested.any():
            self.numbers["q_causal"][tested] = false_discovery_control(p[tested])
        for place in zip(*np.nonzero(tested), strict=True):
            q = self.numbers["q_causal"][place]
            failed = [
                f"{test} (p = {own:.2g})" for test, own in zip(TESTS, self.numbers["p"][place], strict=True)
                if own > alpha
            ]  # fmt: skip
            why = f"what it predicts fails: {', '.join(failed)}" if failed else f"q = {q:.2g} over all claims"
            self.words["verdict"][place] = GIVEN if q <= alpha else why

    def given(self, claim: Claim) -> bool:
        """Whether a claim became a label."""
        return self.words["verdict"][self._place(claim)] == GIVEN

    def _place(self, claim: Claim) -> tuple[int, int]:
        return claim.candidate, KINDS.index(claim.kind)

    def dataset(self) -> "xr.Dataset":
        """All of it, with names."""
        import xarray as xr

        given = self.words["verdict"] == GIVEN
        q = np.where(given, self.numbers["q_causal"], np.inf)
        labels = [KINDS[own.argmin()] if own.min() < np.inf else "" for own in q]
        layers, heads = ([own[place] for own in self.candidates] for place in (0, 1))
        variables: dict[str, Any] = {"label": ("candidate", np.array(labels, object))}
        variables |= {name: (("candidate", "kind"), own) for name, own in self.words.items()}
        variables["n_pairs"] = (("candidate", "kind"), self.n_pairs)
        dims = ("candidate", "kind", "test")
        variables |= {name: (dims[: own.ndim], own) for name, own in self.numbers.items()}
        coords = {
            "layer": ("candidate", np.array(layers, int)), "head": ("candidate", np.array(heads, int)),
            "kind": np.array(KINDS, object), "test": np.array(TESTS, object),
        }  # fmt: skip
        return xr.Dataset(variables, coords)


def not_testable(reasons: Sequence[str]) -> str:
    """The verdict where there is nothing to test."""
    return f"not testable: {'; '.join(reasons)}"
