"""Aggregates over pairs: means, donor-corrected effects, and the effects of causal mediation analysis.

A result holds for each pair the change of the logit difference (`logit_diff_change`, from the base run to the patched
one) and the two baselines (`logit_diff_clean`, `logit_diff_corrupt`). The *gap* is what a patch could change at most in
the sense of the method: clean minus corrupted where clean is patched into the corrupted run (`denoise`), corrupted
minus clean the other way around (`noise`). A patching effect is change over gap: 0 is nothing and 1 is all, either way.

The mean of such ratios explodes where one gap is small, so means of patching effects are ratios of sums here: the sum
of the changes over the sum of the gaps, over the pairs that have both. It is the mean weighted by the gaps.

Matched minus mismatched cannot reach the whole gap: a patch of everything from the mismatched donor gives the donor's
own answer (`logit_diff_donor`) and restores a part of the gap by itself. What it leaves *to be carried* is the logit
difference of the run that is patched in minus that of the donor's run, and `carried_share` is matched minus mismatched
over that: a complete patch scores 1.

Limits: what is NaN is left out, so cells may rest on different pairs; `n` says on how many.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import xarray as xr

from notice_lens.errors import one_of


class SiteTree(xr.DataTree):
    """An `xarray.DataTree` with a group for each site.

    A group is called as its site, `text.cross_attn.hook_z`; `text.cross_attn.z` and `text.cross_attn` find it too.
    """

    __slots__ = ()

    @classmethod
    def of(cls, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> "SiteTree":
        """The tree of some sites' results.

        Args:
            groups: By name of the site.
            attrs: Of the whole.
        """
        children: Any = {name: xr.DataTree(dataset) for name, dataset in groups.items()}
        tree = cls(xr.Dataset(attrs=dict(attrs)), children=children)
        return tree

    def __getitem__(self, key: Any) -> Any:
        """A site's group.

        Raises:
            KeyError: There is no such site; the message names the nearest.
        """
        if isinstance(key, str) and key.strip("/"):
            site, *inside = key.strip("/").split("/")
            named = {short(name): name for name in self.children}
            if short(site) not in named:
                raise KeyError(one_of("site", site, self.children))
            key = "/".join([named[short(site)], *inside])
        return super().__getitem__(key)


def short(name: str) -> str:
    """A site's name in its short form."""
    plain = name.replace("hook_", "")
    return plain.removesuffix(".z") if plain.endswith("attn.z") else plain


@overload
def dataset_of(effects: xr.Dataset | xr.DataTree) -> xr.Dataset: ...
@overload
def dataset_of(effects: None) -> None: ...
@overload
def dataset_of(effects: Any) -> Any: ...
def dataset_of(effects: Any) -> Any:
    """Return a site's group as a Dataset; anything that is not a tree is returned as it is.

    Raises:
        TypeError: It is a whole tree, and each of its sites has its own numbers.
    """
    if not isinstance(effects, xr.DataTree):
        return effects
    if effects.children:
        sites = list(map(str, effects.children))
        raise TypeError(f"a tree of {len(sites)} sites was given; take one of them, such as effects[{sites[0]!r}]")
    return effects.to_dataset()


Effects = xr.Dataset | xr.DataTree
"""A result: of a sweep, or a site's group of what `attribute` gives."""
DIRECTIONS = ("denoise", "noise")
RATIO, CHANGE, CONTROL, CARRIED = "patching_effect", "logit_diff_change", "_mismatched", "carried_share"
GAP_SUM_ROUNDING = 1e-9
"""Six gaps of 0.1 sum to less than 6 * 0.1."""
BASELINE_TOLERANCE = 1e-3
"""In logits, between the baselines of two sweeps of the same pairs: chunks of other sizes move the last bits."""
LOGIT_DIFF_BASELINES = ("logit_diff_clean", "logit_diff_corrupt")
DONOR = "logit_diff_donor"


def aggregate(
    effects: Effects, metric: str = RATIO, over: str | Sequence[str] = "pair", by: str | None = None
) -> xr.DataArray:
    """The mean of a metric, with how many values it is of as the coordinate `n`.

    For `patching_effect` and its control it is the ratio of sums: sum of `logit_diff_change` over sum of gaps, where
    the change is not NaN and the gap is at least `min_gap`; NaN where the gaps cancel, so that their mean is smaller.
    For `carried_share` it is the sum of matched minus mismatched over the sum of what the donor leaves (`to_carry`).
    For everything else it is the plain mean of what is not NaN. Where there is nothing it is NaN.

    Args:
        effects: A result, of `attribute` that of one site: `found["text.cross_attn.z"]`.
        metric: One of its variables.
        over: The dimension, or dimensions, to average over.
        by: A coordinate along `pair`, such as `group`: a mean for each of its values, along a dimension of that name.
            Pairs without a value are left out.

    Returns:
        The dimensions of the metric that are left; with `by`, that one first.

    Raises:
        ValueError: The result lacks the metric, the dimension, the coordinate, or what the gap is made of.
    """
    effects = dataset_of(effects)
    if by is not None:
        return _by_group(effects, metric, over, by)
    values, weights = _sums(effects, metric)
    over = [over] if isinstance(over, str) else list(over)
    for dim in over:
        if dim not in values.dims:
            raise ValueError(one_of(f"dimension of {metric!r}", dim, map(str, values.dims)))
    there = values.notnull() & weights.notnull()
    n = there.sum(over)
    total, weight = values.where(there, 0).sum(over), weights.where(there, 0).sum(over)
    enough = abs(weight) >= (1 - GAP_SUM_ROUNDING) * _min_gap(effects, metric) * n
    mean = total / weight.where((n > 0) & enough & (weight != 0))
    # Of a lazy result all of it is computed in one pass; of one in memory nothing is left to load.
    return mean.assign_coords(n=n).rename(metric).assign_attrs(effects.attrs).load()


def carried(effects: Effects, metric: str = RATIO) -> xr.Dataset:
    """Matched minus mismatched, per pair: what a patch from the right run does beyond one from any other.

    A patch from the clean run into the corrupted one also *erases* what was corrupted, and so does a patch from a run
    about something else. What is left when that is taken off is evidence for *carrying the answer*.

    Args:
        effects: A result with `{metric}_mismatched`, the same patches from the mismatched donor.
        metric: One of its variables.

    Returns:
        The metric, the baselines and the coordinates of the result. With `patching_effect` comes
        `logit_diff_change`, so that `aggregate(carried(effects))` is a ratio of sums, and `carried_share`, where the
        result has `logit_diff_donor`: the same as a share of what the donor leaves to be carried, NaN where that is
        nothing. NaN for a pair without a donor; the attribute `pairs_without_donor` counts those that have an effect
        and no control at all.

    Raises:
        ValueError: The result lacks the metric or its control.
    """
    effects = dataset_of(effects)
    names = [metric, CHANGE] if metric == RATIO else [metric]
    for name in names:
        _variable(effects, name)
        if name + CONTROL not in effects:
            controls = [str(key) for key in effects.data_vars if str(key).endswith(CONTROL)]
            none = f"no control {name + CONTROL!r}: this result was made without a mismatched donor"
            raise ValueError(one_of("control", name + CONTROL, controls) if controls else none)
    lost = _per_pair(effects[names[-1]].notnull()) & ~_per_pair(effects[names[-1] + CONTROL].notnull())
    ends = ("_clean", "_corrupt", "_donor")
    kept = [name for name in effects.data_vars if str(name).endswith(ends) or name == "noise_floor"]
    differences = {name: effects[name] - effects[name + CONTROL] for name in names}
    if metric == RATIO and DONOR in effects:
        differences[CARRIED] = differences[CHANGE] / to_carry(effects)
    return effects[kept].assign(differences).assign_attrs(pairs_without_donor=int(lost.sum()))


def mediation(effects_denoise: Effects | None = None, effects_noise: Effects | None = None) -> xr.Dataset:
    """Total, indirect and direct effects (Pearl 2001, Direct and Indirect Effects; Vig et al. 2020, arXiv 2004.12265).

    Y(x, m) is the logit difference of a run on the input x whose patched activation is set to m; M(x) is what it is by
    itself. The input changes from corrupted to clean. Effects are differences of logit differences (Vig et al. take
    relative changes of probabilities), per pair:

    - `total_effect` [pair]: Y(clean, M(clean)) - Y(corrupt, M(corrupt)), that is `logit_diff_clean` -
      `logit_diff_corrupt`, whichever the direction.
    - `indirect_effect`, from denoising: Y(corrupt, M(clean)) - Y(corrupt, M(corrupt)), that is `logit_diff_change`.
      Pearl's natural indirect effect: what the activation restores alone (sufficiency).
    - `total_minus_direct`, from noising: Y(clean, M(clean)) - Y(clean, M(corrupt)), that is minus `logit_diff_change`:
      what is lost without the activation (necessity). Pearl's indirect effect of the way back, with its sign turned.
    - `direct_effect`, from noising: Y(clean, M(corrupt)) - Y(corrupt, M(corrupt)), that is `total_effect` plus
      `logit_diff_change`. Pearl's natural direct effect: what the input does past the activation.

    The total is direct effect plus `total_minus_direct`, always, and direct plus indirect effect only where nothing
    interacts; so the two directions stay apart, and nothing here is a number of both. Each `{effect}_share` is the sum
    over pairs over that of the total effects, by the rules of `aggregate`: the aggregated `patching_effect` of that
    direction, and for the direct effect one minus it.

    Args:
        effects_denoise: A result with the direction `denoise`, or None: then nothing indirect is returned.
        effects_noise: One with the direction `noise`, of the same pairs, or None: then nothing direct is.

    Returns:
        The variables above, in logits; the shares without `pair`, with `{effect}_n`, the pairs that they are of.

    Raises:
        ValueError: No result, one in the place of the other direction, or two of other pairs.
    """
    asked = {"denoise": effects_denoise, "noise": effects_noise}
    given = {direction: dataset_of(effects) for direction, effects in asked.items() if effects is not None}
    if not given:
        raise ValueError("mediation needs a result: effects_denoise, effects_noise, or both")
    for direction, effects in given.items():
        _refuse_other_direction(effects, direction)
    totals = {direction: gap(effects, direction="denoise") for direction, effects in given.items()}
    _refuse_other_pairs(totals)
    found = {"total_effect": next(iter(totals.values()))}
    if "denoise" in given:
        share, change = aggregate(given["denoise"]), given["denoise"][CHANGE]
        found |= {"indirect_effect": change, **_named("indirect_effect", share)}
    if "noise" in given:
        share, change = aggregate(given["noise"]), given["noise"][CHANGE]
        found |= {"total_minus_direct": -change, **_named("total_minus_direct", share)}
        found |= {"direct_effect": totals["noise"] + change, **_named("direct_effect", 1 - share)}
    try:
        return xr.merge([values.rename(name) for name, values in found.items()], join="exact", compat="override")
    except ValueError as error:
        raise ValueError(f"effects_denoise and effects_noise are of other places: {error}") from error


def gap(effects: xr.Dataset, quantity: str = "logit_diff", direction: str | None = None) -> xr.DataArray:
    """Return the gap that a patch can close, per pair, [pair]: the source run's logit difference minus the base run's.

    Args:
        effects: A result.
        quantity: The baselines that are compared: `logit_diff`, or `answer_prob`.
        direction: `denoise` (clean minus corrupted) or `noise`; None takes the result's own.

    Raises:
        ValueError: The result lacks a baseline or says no direction.
    """
    clean, corrupt = (_variable(effects, f"{quantity}_{run}") for run in ("clean", "corrupt"))
    denoised = (direction or _direction(effects)) == "denoise"
    return (clean - corrupt if denoised else corrupt - clean).rename("gap")


def to_carry(effects: xr.Dataset) -> xr.DataArray:
    """Return the part of the gap that the mismatched donor leaves to be carried, per pair, [pair].

    That is the logit difference of the run that is patched in minus that of the donor's own run, which is what a patch
    of everything from the donor gives. NaN where there is nothing: where it is less than `min_gap`, or has not the sign
    of the gap.

    Raises:
        ValueError: The result lacks a baseline or says no direction.
    """
    other = _variable(effects, LOGIT_DIFF_BASELINES[0 if _direction(effects) == "denoise" else 1])
    left, gaps, least = other - _variable(effects, DONOR), gap(effects), float(_attribute(effects, "min_gap"))
    usable = (abs(left) >= least) & (abs(gaps) >= least) & (left * gaps > 0)
    return left.where(usable).rename("to_carry")


def _sums(effects: xr.Dataset, metric: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return numerators and denominators of a mean over pairs: of effects the gaps that are large enough, else ones."""
    if metric == CARRIED:
        change = _variable(effects, CHANGE)
        change = change - _variable(effects, CHANGE + CONTROL) if CHANGE + CONTROL in effects else change
        return change.astype(float), to_carry(effects).astype(float).broadcast_like(change)
    if metric not in (RATIO, RATIO + CONTROL):
        values = _variable(effects, metric)
        return values.astype(float), xr.ones_like(values, dtype=float)
    change = _variable(effects, CHANGE + metric.removeprefix(RATIO))
    gaps = gap(effects)
    return change.astype(float), gaps.astype(float).where(abs(gaps) >= _min_gap(effects, metric)).broadcast_like(change)


def _by_group(effects: xr.Dataset, metric: str, over: str | Sequence[str], by: str) -> xr.DataArray:
    """A mean for each value of a coordinate along `pair`."""
    along = [str(name) for name, values in effects.coords.items() if values.dims == ("pair",)]
    if by not in along:
        raise ValueError(one_of("coordinate along `pair`", by, along))
    if "pair" not in ([over] if isinstance(over, str) else over):
        raise ValueError(f"by={by!r} groups pairs, and over={over!r} averages over something else; add 'pair' to it")
    groups = np.asarray(effects[by].values, dtype=object)
    known = [group for group in groups.tolist() if group is not None and group == group]
    parts = [aggregate(effects.isel(pair=np.flatnonzero(groups == group)), metric, over) for group in sorted({*known})]
    if not parts:
        raise ValueError(f"no pair has a value of the coordinate {by!r}")
    index = xr.Variable(by, np.array(sorted({*known})))
    return xr.concat(parts, dim=by, coords=["n"], compat="override", join="exact").assign_coords({by: index})


def _named(effect: str, share: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return a share and its count as separate variables."""
    return {f"{effect}_share": share.drop_vars("n"), f"{effect}_n": share["n"].drop_vars("n")}


def _refuse_other_direction(effects: xr.Dataset, expected: str) -> None:
    if (direction := _direction(effects)) != expected:
        reason = "denoising gives the indirect effect, noising the total minus the direct one; no number is of both"
        raise ValueError(f"effects_{expected} has the direction {direction!r}: {reason}. Pass effects_{direction}")


def _refuse_other_pairs(totals: Mapping[str, xr.DataArray]) -> None:
    """Raise unless two results have the same pairs in the same order, hence the same total effects up to rounding."""
    if len(totals) < 2:
        return
    one, other = totals["denoise"], totals["noise"]
    if one.sizes != other.sizes or not one.coords.to_dataset().equals(other.coords.to_dataset()):
        raise ValueError(
            f"the two results are of other pairs: {one.sizes['pair']} denoised, {other.sizes['pair']} noised"
        )
    close = np.isclose(one.values, other.values, rtol=BASELINE_TOLERANCE, atol=BASELINE_TOLERANCE, equal_nan=True)
    if not close.all():
        places = np.flatnonzero(~close)
        pairs = f"{len(places)} of {close.size} total effects differ, first number {places[0]}"
        raise ValueError(f"the two results are of other pairs or models: {pairs}")


def _per_pair(cells: xr.DataArray) -> xr.DataArray:
    """Return the pairs with any true entry."""
    return cells.any([dim for dim in cells.dims if dim != "pair"])


def _variable(effects: xr.Dataset, name: str) -> xr.DataArray:
    """A variable of numbers by pair."""
    valid: list[Hashable] = [key for key, values in effects.data_vars.items() if _is_metric(values)]
    if name not in valid:
        raise ValueError(one_of("metric or baseline", name, map(str, valid)))
    return effects[name]


def _is_metric(values: xr.DataArray) -> bool:
    return "pair" in values.dims and values.dtype.kind in "fiu"


def _attribute(effects: xr.Dataset, name: str) -> Any:
    if name not in effects.attrs:
        raise ValueError(one_of("attribute of this result", name, map(str, effects.attrs)))
    return effects.attrs[name]


def _direction(effects: xr.Dataset) -> str:
    """The direction of a result."""
    direction = str(_attribute(effects, "direction"))
    if direction not in DIRECTIONS:
        raise ValueError(one_of("direction", direction, DIRECTIONS))
    return direction


def _min_gap(effects: xr.Dataset, metric: str) -> float:
    """The smallest gap that counts, in logits; 0 for a plain mean."""
    return float(_attribute(effects, "min_gap")) if metric in (RATIO, RATIO + CONTROL, CARRIED) else 0.0
