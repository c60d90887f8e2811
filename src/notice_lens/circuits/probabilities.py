"""The paper's own numbers: mean absolute changes of the answer's probability, and the rule that picks heads by them.

arXiv 2406.16320 ranks heads by how far a patch moves the probability of the correct answer, whichever way, and calls
those important that lie two standard deviations above the mean over heads. It is here so that a table of ours can be
laid beside one of theirs. It describes, and does not test: some head lies so far out in nearly any table, a mean of
absolute values is positive where nothing happens, probabilities saturate, and no control is taken off.
`important_heads` is the test.
"""

from typing import Literal, get_args

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import at_role, role_of
from notice_lens.circuits.important import SIGMAS
from notice_lens.errors import one_of
from notice_lens.patching.results import Effects, dataset_of
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums

PaperMetric = Literal["answer_prob", "prob_change"]
PAPER_METRICS: tuple[PaperMetric, ...] = get_args(PaperMetric)


def paper_rule(
    effects: Effects,
    *,
    role: str | None = None,
    metric: PaperMetric = "answer_prob",
    sigmas: float | int = SIGMAS,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Return the heads (or modules) that the paper's rule picks: their mean absolute change of probability is far out.

    Args:
        effects: A result of `patching.patch_heads` or `patching.patch_modules` with `prob_change` (or `answer_prob`).
            In the direction `denoise` the base run is the corrupted one, as in the paper.
        role: The role at which effects are read. None takes `correct` of effects by role, and of others all they have.
        metric: `answer_prob` or `prob_change`: the change of the one is the other.
        sigmas: How many standard deviations above the mean over heads is far.
        confidence: Of the intervals, between 0 and 1.
        seed: Of the resamples.

    Returns:
        By `layer, head` (of modules, `site, layer`): `magnitude`, the mean over pairs of the absolute change of the
        correct answer's probability, 0 to 1, with `low` and `high` (BCa bootstrap, pairs that share images drawn
        together); `change`, the mean with its sign; `selected` (`magnitude` at least mean + `sigmas` standard
        deviations over heads, and not 0) and `rank` (1 is the largest). Attributes: `threshold`, `rule` in words,
        `pairs`, `clusters`.

    Raises:
        ValueError: The effects lack the metric or the role, an option is out of range, or no pair has an effect.

    Example:
        >>> from notice_lens import HookedBLIP, circuits, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> found = circuits.paper_rule(patching.patch_heads(model, pairs, progress=False))
        >>> dict(found["magnitude"].sizes)
        {'layer': 3, 'head': 8}
    """
    effects = dataset_of(effects)
    if metric not in PAPER_METRICS:
        raise ValueError(one_of("metric of the paper's rule", metric, PAPER_METRICS) + "; important_heads takes others")
    if not sigmas >= 0:
        raise ValueError(f"sigmas={sigmas}: expected 0 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1")
    change = at_role(_change(effects), role)
    dims = [str(dim) for dim in change.dims if dim != "pair"]
    values = change.transpose("pair", ...).values.astype(float)
    counted = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not counted.any():
        raise ValueError(f"none of {len(values)} pairs has an effect at every place")
    clusters = np.unique(clusters_of(effects)[counted], return_inverse=True)[1]
    magnitude = ratio_of_sums(np.abs(values[counted]), np.ones(counted.sum()), clusters, confidence, seed)
    mean = magnitude.mean
    threshold = float(mean.mean() + sigmas * mean.std())
    order = np.argsort(np.argsort(-mean, axis=None, kind="stable"), kind="stable")
    by_place = {
        "magnitude": mean, "low": magnitude.low, "high": magnitude.high, "change": values[counted].mean(0),
        "selected": (mean >= threshold) & (mean > 0), "rank": order.reshape(mean.shape) + 1,
    }  # fmt: skip
    places = "heads" if "head" in dims else "places"
    return xr.Dataset(
        {name: (dims, numbers) for name, numbers in by_place.items()},
        coords={dim: change[dim] for dim in dims if dim in change.coords},
        attrs={
            "threshold": threshold, "role": role_of(change),
            "rule": f"mean |patched - base probability| at least mean + {sigmas:g} standard deviations over {places}: "
            f"{threshold:.4f}",
            "corruption": str(effects.attrs.get("corruption", "")),
            "direction": str(effects.attrs.get("direction", "")), "confidence": float(confidence), "seed": seed,
            "pairs": int(counted.sum()), "pairs_left_out": int((~counted).sum()),
            "clusters": int(clusters.max()) + 1,
        },
    )  # fmt: skip


def _change(effects: xr.Dataset) -> xr.DataArray:
    """Return the change of the correct answer's probability, patched minus base run."""
    if "prob_change" in effects:
        return effects["prob_change"]
    base = "answer_prob_corrupt" if effects.attrs.get("direction") == "denoise" else "answer_prob_clean"
    if "answer_prob" not in effects or base not in effects:
        named = one_of("metric of these effects", "prob_change", map(str, effects.data_vars))
        raise ValueError(f"{named}; the paper's rule needs 'prob_change', or 'answer_prob' with its baselines")
    return effects["answer_prob"] - effects[base]
