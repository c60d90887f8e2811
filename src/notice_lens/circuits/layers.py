"""The layers in which heads matter: shares of |effect|, their centre, and a test for the middle layers.

The share of a layer is the sum of |effect| over its heads by that over all heads. Noise has a size too, so a layer of
heads that do nothing has a small share and not none; intervals are bias-corrected for that (BCa).

The *middle* is the layers whose centre lies in the middle third of the depth. Whether effects sit there is tested by
permuting layers: of all choices of as many layers, how many have a share as large? Heads of a layer stay together, so
with three layers the smallest p is 1/3, and with twelve 1/495.
"""

from itertools import combinations
from math import comb

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import ChangeMetric, read_condition
from notice_lens.circuits.evidence import SHARED, Cluster, partitions_of
from notice_lens.circuits.important import Rules, examined
from notice_lens.patching.results import Effects
from notice_lens.stats.intervals import bca

MOST_CHOICES = 100_000
"""Choices of layers that are all looked at; of more, that many are drawn."""


def layer_profile(
    effects: Effects,
    *,
    role: str | None = None,
    metric: ChangeMetric = "logit_diff_change",
    n_bootstrap: int = 2_000,
    confidence: float = 0.95,
    cluster: Cluster = SHARED,
    control: bool | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return how |effect| is spread over layers.

    Args:
        effects: As in `important_heads`.
        role: As there.
        metric: As there.
        n_bootstrap: Resamples for intervals.
        confidence: Of the intervals.
        cluster: As there.
        control: As there.
        seed: Of all resampling.

    Returns:
        By `layer`: `share` of |effect| with `low` and `high`, and `middle` (whether it is a middle layer). Numbers:
        `centre_of_mass` (mean layer number, weighted by share; `centre_low`, `centre_high`), `middle_share` (0 to 1;
        `middle_low`, `middle_high`) and `middle_p`, that of permuted layers; NaN where no layer is in the middle or
        all are. All is NaN where no head has an effect.

    Raises:
        ValueError: As `important_heads`.
    """
    rules = Rules(n_bootstrap=n_bootstrap, confidence=confidence, cluster=cluster, seed=seed)
    condition = read_condition(effects, role, metric, control)
    tested = examined(condition, partitions_of([condition], cluster)[0], rules)
    number = np.asarray(condition.coords.get("layer", np.arange(condition.shape[0])), float)
    middle = in_the_middle(len(number))

    def statistics(effect: np.ndarray) -> np.ndarray:
        """Return shares, centre and middle share, [number, resample]."""
        share = layer_shares(effect.reshape(*effect.shape[:-1], *condition.shape))
        return np.stack([*np.moveaxis(share, -1, 0), share @ number, share @ middle])

    point = statistics(condition.effect()[None])[:, 0]
    low, high = bca(statistics, tested.partitions, n_bootstrap, confidence, tested.rng("layers"))
    variables = {"middle": ("layer", middle)}
    for values, share, centre, of_middle in (
        (point, "share", "centre_of_mass", "middle_share"),
        (low, "low", "centre_low", "middle_low"),
        (high, "high", "centre_high", "middle_high"),
    ):
        variables |= {share: ("layer", values[:-2]), centre: ((), values[-2]), of_middle: ((), values[-1])}
    variables["middle_p"] = ((), permuted_layers(point[:-2], middle, tested.rng("permuted layers")))
    return xr.Dataset(
        variables,
        coords={"layer": number.astype(int)},
        attrs={**condition.attrs(), **tested.counts(), "cluster": rules.attrs()["cluster"], "confidence": confidence,
               "seed": seed, "rule_middle": "layers whose centre lies in the middle third of the depth"},
    )  # fmt: skip


def layer_shares(effect: np.ndarray) -> np.ndarray:
    """Return each layer's share of |effect|, [..., layer], from [..., layer, head]; NaN if all effects are 0."""
    size = np.abs(effect).sum(-1)
    total = size.sum(-1, keepdims=True)
    return np.divide(size, total, out=np.full(size.shape, np.nan), where=total > 0)


def in_the_middle(layers: int) -> np.ndarray:
    """Return which layers' centres lie in the middle third, [layer]."""
    # In sixths of a layer, whole numbers: no layer is in or out by rounding.
    centre = 3 * (2 * np.arange(layers) + 1)
    return (centre >= 2 * layers) & (centre <= 4 * layers)


def permuted_layers(share: np.ndarray, middle: np.ndarray, rng: np.random.Generator) -> float:
    """Return the proportion of all choices of as many layers as are in the middle whose share is as large."""
    layers, chosen = len(share), int(middle.sum())
    if chosen in (0, layers) or np.isnan(share).any():
        return float("nan")
    observed = share[middle].sum() - 1e-12
    if comb(layers, chosen) <= MOST_CHOICES:
        sums = [share[list(choice)].sum() for choice in combinations(range(layers), chosen)]
        return float(np.mean(np.array(sums) >= observed))
    drawn = rng.permuted(np.broadcast_to(share, (MOST_CHOICES, layers)), axis=1)[:, :chosen].sum(1)
    return float((1 + (drawn >= observed).sum()) / (MOST_CHOICES + 1))
