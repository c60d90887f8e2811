"""Screening: attribution picks the cells that look large, the wavefront says how large they are, and what was missed.

1. Every cell is estimated (`attribute`), and those with the largest mean |estimate| over pairs are picked.
2. They are patched exactly (`notice_lens.patching.engine.wave`).
3. So is a random sample of the cells that were not picked. How many of these turn out to matter says how many of all
   rejected cells do: a share with an exact binomial interval (Clopper and Pearson 1934), which is on the safe side,
   since the sample is drawn without replacement.

An estimate that is wrong in a picked cell costs a patch, and no more. One that is too small in a cell that matters
loses it, and the sample says how often that happens: a gate that is shut at the base run has no gradient.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.attribution import attribute
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.gradient.integrated import IntegrationPath
from notice_lens.patching.grid import Grid, grid_of_sites
from notice_lens.patching.options import Controls, EstimateOptions, Options, StorePath, refuse_fixed
from notice_lens.patching.prepare import prepare
from notice_lens.patching.runner import SweepRunner
from notice_lens.patching.writer import BASELINES

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

FIXED_BY_SCREEN = {"part": "which entries are verified follows from all pairs"}
"""Options of sweeps that a screening decides."""


@one_thread_at_a_time
@outside_inference_mode
def screen(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    share: float | int = 0.1,
    sample: int = 50,
    threshold: float | int = 0.05,
    confidence: float = 0.95,
    integrated_gradients: int = 0,
    path: IntegrationPath = "site",
    attention_correction: bool = True,
    controls: Controls = (),
    store: StorePath = None,
    **options: "Unpack[EstimateOptions]",
) -> "xr.Dataset":
    """Find the entries of some sites that matter: picked by attribution, verified exactly, with what was missed.

        found = patching.screen(model, pairs, "text.cross_attn", share=0.1)    # cells are layer, head, role
        found.attrs["missed"]                                                # in words
        found.exact.where(found.matters).mean("pair")                        # NaN except where it matters

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: As `sweep`: one or several that share their dimensions. None takes the heads of `model.cfg.default_site`.
        share: Of the cells that are picked, above 0, 1 at most; the number is rounded up.
        sample: How many of the rejected cells are verified, drawn by `seed`; all where there are no more.
        threshold: What matters: a cell whose mean |effect| over pairs is such a share of the mean |gap| between the two
            unpatched runs, or more.
        confidence: Of the interval for what was missed, between 0 and 1.
        integrated_gradients: As `attribute`, as are `path` and `attention_correction`.
        path: As `attribute`.
        attention_correction: As `attribute`.
        controls: Of the exact patches.
        store: A folder for the stores of both.
        **options: As `attribute`.

    Returns:
        `estimate` and `exact` (`pair`, then the cells' dimensions): changes of the logit difference, to first order and
        exactly, `exact` NaN where it was not verified. By cell: `picked`, `sampled`, `verified` (either) and `matters`
        (verified, and found to). Baselines. In `attrs` how many there were of each, `missed_share` of the rejected
        cells with `missed_low` and `missed_high`, and `missed`, which says it in words.

    Raises:
        ValueError: As `attribute`, or a number is out of range.
        TypeError: There is no option of that name.
    """
    check_model(model)
    refuse_fixed(options, FIXED_BY_SCREEN, "screen")
    _check(share, sample, threshold, confidence)
    folder = None if store is None else Path(store)
    exactly = {**options, "controls": controls, "store": None if folder is None else folder / "exact"}
    chosen = Options.of({**exactly, "metrics": ("logit_diff_change",)})
    asked = model.cfg.default_site if sites is None else sites
    checked = [Site.of(model, site, pairs=pairs) for site in (asked if isinstance(asked, list | tuple) else [asked])]
    estimates = attribute(
        model, pairs, checked, neurons=False, integrated_gradients=integrated_gradients, path=path,
        attention_correction=attention_correction, store=None if folder is None else folder / "estimates", **options,
    )  # fmt: skip
    prepared = prepare(model, pairs, chosen)
    grid = grid_of_sites(prepared, checked, "other")
    choice = Choice.of(grid, estimates, checked, float(share), sample, chosen.seed)
    verified = replace(grid, variants=[one for one in grid.variants if choice.verified[one.at]])
    exact = SweepRunner(prepared, verified, {"sites": [asdict(site) for site in checked]}).run()
    return _result(exact, choice, float(threshold), float(confidence))


@dataclass(frozen=True)
class Choice:
    """The entries that are verified.

    Attributes:
        estimate: Effects to first order, [pair, cell dimensions].
        picked: By cell, whether it is one of the largest.
        sampled: By cell, whether it was drawn among the others.
    """

    estimate: np.ndarray
    picked: np.ndarray
    sampled: np.ndarray

    @classmethod
    def of(cls, grid: Grid, estimates: Any, sites: Sequence[Site], share: float, sample: int, seed: int) -> "Choice":
        """The largest cells, and a sample of the others.

        Args:
            grid: All cells.
            estimates: A group for each site.
            sites: The sites.
            share: Of the cells that are picked.
            sample: How many of the others are drawn.
            seed: Of the draw.
        """
        parts = []
        for site in sites:
            part = estimates[site.name].logit_diff_change
            coords = {dim: labels for dim, labels in grid.coords.items() if dim != "site"}
            parts.append(part.reindex(coords).transpose("pair", *coords).values)
        estimate = np.stack(parts, 1) if len(sites) > 1 else parts[0]
        size = _size(estimate).ravel()
        there = np.flatnonzero(~np.isnan(size))
        order = there[np.argsort(-size[there], kind="stable")]
        n_picked = int(np.ceil(share * len(there)))
        rest = order[n_picked:]
        drawn = np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False)
        picked, sampled = np.zeros(len(size), bool), np.zeros(len(size), bool)
        picked[order[:n_picked]], sampled[drawn] = True, True
        return cls(estimate, picked.reshape(grid.shape), sampled.reshape(grid.shape))

    @property
    def verified(self) -> np.ndarray:
        """True for the cells that are patched exactly, by cell."""
        return self.picked | self.sampled


def _size(effects: np.ndarray) -> np.ndarray:
    """Mean |effect| over the pairs that have the cell; NaN where none has."""
    there = ~np.isnan(effects)
    n = there.sum(0)
    return np.where(n > 0, np.where(there, abs(effects), 0).sum(0) / np.maximum(n, 1), np.nan)


def _result(exact: "xr.Dataset", choice: Choice, threshold: float, confidence: float) -> "xr.Dataset":
    """Return the verified effects beside the estimates, and the missed ones."""
    cells = exact.logit_diff_change.dims[1:]
    gap = float(abs(exact.logit_diff_clean - exact.logit_diff_corrupt).mean())
    size = _size(exact.logit_diff_change.values)
    matters = choice.verified & (np.nan_to_num(size) >= threshold * gap) & (np.nan_to_num(size) > 0)
    found = exact[[name for name in BASELINES if name in exact]].assign_attrs(exact.attrs)
    found["estimate"] = (("pair", *cells), choice.estimate)
    found["exact"] = exact.logit_diff_change
    if "logit_diff_change_mismatched" in exact:
        found["exact_mismatched"] = exact.logit_diff_change_mismatched
    for name in ("picked", "sampled", "verified"):
        found[name] = (cells, getattr(choice, name))
    found["matters"] = (cells, matters)
    rejected = int((~np.isnan(_size(choice.estimate)) & ~choice.picked).sum())
    drawn, hit = int(choice.sampled.sum()), int((choice.sampled & matters).sum())
    missed, low, high = _interval(hit, drawn, rejected, confidence)
    found.attrs |= {
        "method": "screening: exact where verified, estimates elsewhere",
        "cells": rejected + int(choice.picked.sum()),
        "cells_picked": int(choice.picked.sum()),
        "cells_sampled": drawn,
        "cells_that_matter": int(matters.sum()),
        "threshold": threshold,
        "confidence": confidence,
        "missed_share": missed,
        "missed_low": low,
        "missed_high": high,
    }
    found.attrs["missed"] = _in_words(found.attrs, rejected, hit, gap)
    return found


def _interval(hit: int, drawn: int, rejected: int, confidence: float) -> tuple[float, float, float]:
    """The share of rejected cells that matter, and its interval (Clopper and Pearson); known where all were drawn."""
    from scipy.stats import binomtest

    if drawn == rejected:
        known = hit / drawn if drawn else 0.0
        return known, known, known
    if not drawn:
        return float("nan"), 0.0, 1.0
    bounds = binomtest(hit, drawn).proportion_ci(confidence, method="exact")
    return hit / drawn, float(bounds.low), float(bounds.high)


def _in_words(attrs: dict[str, Any], rejected: int, hit: int, gap: float) -> str:
    """Return in words how much was missed."""
    matters = (
        f"move the logit difference by {attrs['threshold']:.1%} of the gap ({attrs['threshold'] * gap:.3g}) or more"
    )
    begin = f"{attrs['cells_picked']} of {attrs['cells']} cells were picked, "
    if not rejected:
        return begin + "all of them: nothing was left out"
    drawn = attrs["cells_sampled"]
    if not drawn:
        return begin + f"none of the {rejected} others was verified: what was missed is not known"
    if drawn == rejected:
        return begin + f"all {rejected} others were verified too: {hit} of them {matters}"
    low, high = attrs["missed_low"], attrs["missed_high"]
    return begin + (
        f"{drawn} of the {rejected} others were verified: {hit} of these {matters}. "
        f"So {low:.1%} to {high:.1%} of those others do, with {attrs['confidence']:.0%} confidence"
    )


def _check(share: Any, sample: Any, threshold: Any, confidence: Any) -> None:
    if not _number(share) or not 0 < share <= 1:
        raise ValueError(f"share={share!r}: expected the share of cells to pick, above 0 and 1 at most")
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        raise ValueError(f"sample={sample!r}: expected a number of rejected cells to verify, 0 or more")
    if not _number(threshold) or not threshold >= 0:
        raise ValueError(f"threshold={threshold!r}: expected a share of the gap, 0 or more")
    if not _number(confidence) or not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}: expected a number between 0 and 1")


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
