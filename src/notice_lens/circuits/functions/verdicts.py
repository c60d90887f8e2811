"""Predictions of a label for knock-outs of a head's attention, with their signs, and verdicts on them.

The names are those of *What Do VLMs NOTICE?* (arXiv 2406.16320; its published version says object detection, object
suppression and outlier suppression), which gives them by looking at attention maps. Attention alone says where a head
looks, and not whether that does anything. Here a name has to predict as well what happens to the logit difference *l*
of the clean run, correct answer minus contrast, when the head's attention is cut:

| | its attention | cut | and the whole head |
| --- | --- | --- | --- |
| implicit segmentation | falls on the region | *inside* the region lowers *l* | ablated: *l* falls |
| object inhibition | shuns the region | *outside* the region raises *l* | ablated: *l* rises |
| outlier inhibition | shuns outliers | of what is left *at outliers* raises *l* | ablated: *l* falls |

- A head that segments passes on what it sees in the region, and the region is what the answer is about. Without it the
  right answer loses; cutting what it sees elsewhere must cost less.
- A head that inhibits the object works against what the object says. It does so by what it takes from elsewhere, since
  it hardly looks at the object. So without that, and without the head, the object weighs more, and the object speaks
  for the right answer; what little it takes from inside must matter less. The sign of the ablation is what tells it
  from a head that does its part by looking at the context.
- A head that inhibits outliers is useful, and is so because it keeps away from what would harm: what it still takes
  from outliers harms, unit of attention for unit more than what it takes from other patches outside the regions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from notice_lens.circuits.functions.knockout import AT_OUTLIERS, Knockout, KnockoutChanges
from notice_lens.stats.nulls import over_tests

if TYPE_CHECKING:
    import xarray as xr

SEGMENTATION, INHIBITION, OUTLIERS = "implicit segmentation", "object inhibition", "outlier inhibition"
HEAD_LABELS = (SEGMENTATION, INHIBITION, OUTLIERS)
TESTS = ("cut", "contrast", "peers", "ablation")
SCORE_OF_LABEL = {SEGMENTATION: "segmentation", INHIBITION: "avoidance", OUTLIERS: "outlier"}
"""What the attention of a head with each label shows, as `score_maps` names it."""
NO_ATTENTION = 1e-4
"""Share of attention below which a head has none to knock out; per unit of less, rounding would decide."""
GIVEN = "given"
OF_ATTENTION = ("attention_ratio", "attention_ratio_low", "attention_ratio_high", "q_attention")
OF_CLAIM = ("cut_inside", "cut_outside", "ablation", "p_causal", "q_causal")
OF_TEST = ("agreement", "low", "high", "p")


def agreements(
    kind: str, changes: KnockoutChanges, head: int, masses: tuple[np.ndarray, np.ndarray] | None = None
) -> Float[np.ndarray, "test pair"]:
    """Return the numbers that a label predicts to be above zero, by pair, in logits; the rows are `TESTS`.

    - `cut`: the change on the cut side, turned so that what is predicted is positive.
    - `contrast`: outside minus inside, the cut inside lowering *l* more (or raising it less) than the one outside. Of
      outliers inside minus outside, each per unit of attention, since a head that shuns them has little of it there.
    - `peers`: that minus its mean over the other heads of the layer. Any head loses something where the object is.
    - `ablation`: the change by ablation, turned likewise.

    Attention is cut as it is, and not per unit, where the label says that the head looks at one side and not the other:
    that it has more attention there is part of the claim.

    Args:
        kind: The label.
        changes: Of all heads of the layer.
        head: Its number in the layer.
        masses: Of outliers: mean attention at outliers and at other patches outside the regions, by head.
    """
    inside, outside, ablated = changes
    if kind == OUTLIERS:
        at, beside = masses if masses is not None else (np.ones(inside.shape[1]), np.ones(inside.shape[1]))
        contrast = inside / np.maximum(at, NO_ATTENTION) - outside / np.maximum(beside, NO_ATTENTION)
    else:
        contrast = outside - inside
    peers = contrast[:, head] - np.delete(contrast, head, axis=1).mean(1)
    cut = {SEGMENTATION: -inside, INHIBITION: outside, OUTLIERS: inside}[kind][:, head]
    ablation = (ablated if kind == INHIBITION else -ablated)[:, head]
    return np.stack([cut, contrast[:, head], peers, ablation])


class Claim(NamedTuple):
    """A label that a head's attention suggests.

    Attributes:
        candidate: Its number among the candidates.
        head: Its number in the layer.
        kind: The label.
        knockout: The attention to knock out.
    """

    candidate: int
    head: int
    kind: str
    knockout: Knockout


class Verdicts:
    """Claims and their evidence, candidate by candidate and label by label.

    Args:
        candidates: Layer and head of each.
    """

    def __init__(self, candidates: Sequence[tuple[int, int]]) -> None:
        self.candidates, shape = candidates, (len(candidates), len(HEAD_LABELS))
        self.words = {name: np.full(shape, "", object) for name in ("verdict", "role", "region")}
        self.numbers = {name: np.full(shape, np.nan) for name in (*OF_ATTENTION, *OF_CLAIM)}
        self.numbers |= {name: np.full((*shape, len(TESTS)), np.nan) for name in OF_TEST}
        self.n_pairs = np.zeros(shape, int)

    def refuse(self, candidate: int, kind: str, verdict: str) -> None:
        """Record why there is no label."""
        self.words["verdict"][candidate, HEAD_LABELS.index(kind)] = verdict

    def attend(self, candidate: int, kind: str, knockout: Knockout, numbers: Mapping[str, float]) -> None:
        """Record the role and region where the attention is clearest, and its numbers, those of `OF_ATTENTION`."""
        place = candidate, HEAD_LABELS.index(kind)
        self.words["role"][place] = knockout.role
        self.words["region"][place] = "" if knockout.inside == AT_OUTLIERS else knockout.inside
        for name, value in numbers.items():
            self.numbers[name][place] = value

    def put(self, claim: Claim, numbers: Mapping[str, Any], reason: str) -> None:
        """Record the evidence for a claim, or the reason why it is missing."""
        place = self._place(claim)
        self.n_pairs[place] = numbers["n_pairs"]
        for name, value in numbers.items():
            if name != "n_pairs":
                self.numbers[name][place] = value
        if reason:
            self.words["verdict"][place] = not_testable([reason])

    def decide(self, alpha: float) -> None:
        """Correct p-values over all claims, and give labels or say what fails.

        Args:
            alpha: Rate of false discoveries.
        """
        self.numbers["q_causal"] = over_tests(self.numbers["p_causal"])
        for place in zip(*np.nonzero(~np.isnan(self.numbers["q_causal"])), strict=True):
            q = self.numbers["q_causal"][place]
            failed = [
                f"{test} (p = {p_test:.2g})" for test, p_test in zip(TESTS, self.numbers["p"][place], strict=True)
                if p_test > alpha
            ]  # fmt: skip
            why = f"what it predicts fails: {', '.join(failed)}" if failed else f"q = {q:.2g} over all claims"
            self.words["verdict"][place] = GIVEN if q <= alpha else why

    def given(self, claim: Claim) -> bool:
        """Return whether a claim became a label."""
        return self.words["verdict"][self._place(claim)] == GIVEN

    def _place(self, claim: Claim) -> tuple[int, int]:
        return claim.candidate, HEAD_LABELS.index(claim.kind)

    def dataset(self) -> "xr.Dataset":
        """Return all claims and their evidence, with names."""
        import xarray as xr

        given = self.words["verdict"] == GIVEN
        q = np.where(given, self.numbers["q_causal"], np.inf)
        labels = [HEAD_LABELS[row.argmin()] if row.min() < np.inf else "" for row in q]
        layers, heads = ([candidate[number] for candidate in self.candidates] for number in (0, 1))
        variables: dict[str, Any] = {"label": ("candidate", np.array(labels, object))}
        variables |= {name: (("candidate", "kind"), texts) for name, texts in self.words.items()}
        variables["n_pairs"] = (("candidate", "kind"), self.n_pairs)
        dims = ("candidate", "kind", "test")
        variables |= {name: (dims[: values.ndim], values) for name, values in self.numbers.items()}
        coords = {
            "layer": ("candidate", np.array(layers, int)), "head": ("candidate", np.array(heads, int)),
            "kind": np.array(HEAD_LABELS, object), "test": np.array(TESTS, object),
        }  # fmt: skip
        return xr.Dataset(variables, coords)


def not_testable(reasons: Sequence[str]) -> str:
    """Return the verdict where there is nothing to test."""
    return f"not testable: {'; '.join(reasons)}"
