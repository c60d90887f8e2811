"""Results as the figures draw them: the mean over pairs, at one place of each dimension that is not drawn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP
from notice_lens.errors import one_of
from notice_lens.pairs.roles import ALL, default_role, not_swept

MINUS = "\N{MINUS SIGN}"


class Unit(NamedTuple):
    """The unit of a number, and its format.

    Attributes:
        name: Of the quantity, for colour bars and axes.
        form: Python's and d3's format of it, with its sign; both read the same here.
    """

    name: str
    form: str

    def text(self, value: Any) -> str:
        """Return the number as readers see it, such as `+23.4%`; `none` for a missing one."""
        number = float(value)
        return format(number, self.form).replace("-", MINUS) if np.isfinite(number) else "none"


SHARE = Unit("share of the gap restored", "+.1%")
CARRIED_UNIT = Unit("share of what the donor leaves", "+.1%")
EITHER_SHARE = Unit("share of the gap, or of what the donor leaves", "+.1%")
"""Of a table whose conditions differ in what their effects are shares of."""
_UNITS = {
    "carried_share": CARRIED_UNIT,
    "logit_diff_change": Unit("change of the logit difference", "+.2f"),
    "prob_change": Unit("change of probability", "+.1%"),
    "answer_prob": Unit("probability of the answer", ".1%"),
    "kl": Unit("divergence from the base run, nats", ".3f"),
}


def unit_of(name: Any, share_of: Any = GAP) -> Unit:
    """Return the unit of a metric; a caller's own has its name and three significant digits.

    Args:
        name: Of the metric; None is `effect`.
        share_of: What `effect` is a share of, as the attribute of `circuits.important_heads` says.
    """
    metric = str(name or "effect").removesuffix("_mismatched")
    if metric == "effect" and share_of != GAP:
        return CARRIED_UNIT
    if metric == "patching_effect" or metric.startswith("effect"):
        return SHARE
    return _UNITS.get(metric, Unit(metric.replace("_", " "), "+.3g"))


def averaged(
    effects: Any, metric: str | None, where: Mapping[str, Any], dims: Sequence[str], figure: str
) -> xr.DataArray:
    """The mean over pairs of a metric over some dimensions, in their order.

    Args:
        effects: A result of a sweep, of one site of an attribution, or of `circuits.important_heads`; or an array that
            is a mean already.
        metric: A variable; None takes `effect`, or else `patching_effect`.
        where: By dimension, which of its labels. A role that is not given is `correct`; of effects without roles it may
            be given as `all`.
        dims: The dimensions of the figure.
        figure: Its name, for messages.

    Raises:
        TypeError: It is not one of these.
        ValueError: There is no such metric or label, a dimension is missing, or one is left that has to be chosen from.
    """
    values = _mean(effects, metric, figure)
    for name, label in where.items():
        if (name, label) == ("role", ALL) and "role" not in values.coords:
            continue
        values = _at_role(values, label) if name == "role" and "role" in values.dims else chosen(values, name, label)
    if "role" in values.dims and "role" not in dims:
        values = _at_role(values, None)
    missing = [dim for dim in dims if dim not in values.dims]
    if missing:
        drawn, has = " x ".join(dims), ", ".join(map(repr, values.dims)) or "none"
        raise ValueError(f"viz.{figure} draws {drawn}; this result has no dimension {missing[0]!r}, it has {has}")
    for dim in values.dims:
        if dim not in dims:
            labels = listed(values[dim].values)
            raise ValueError(
                f"viz.{figure} draws {' x '.join(dims)}, and this result has {dim!r} too: choose one, such as "
                f"{dim}={values[dim].values.tolist()[0]!r}; valid: {labels}"
            )
    return values.transpose(*dims)


def _at_role(values: xr.DataArray, role: str | None) -> xr.DataArray:
    """The values at a role; None takes that of `roles.default_role`."""
    roles = values["role"].values.tolist()
    wanted = default_role([str(one) for one in roles]) if role is None else role
    if wanted not in roles:
        raise ValueError(not_swept(role, map(str, roles)))
    return values.isel(role=roles.index(wanted))


def _mean(effects: Any, metric: str | None, figure: str) -> xr.DataArray:
    from notice_lens.patching import aggregate
    from notice_lens.patching.results import dataset_of

    effects = dataset_of(effects)
    if isinstance(effects, xr.DataArray):
        return effects.mean("pair") if "pair" in effects.dims else effects
    if not isinstance(effects, xr.Dataset):
        raise TypeError(f"viz.{figure} takes an xarray result, a Dataset or DataArray; got {type(effects).__name__}")
    if "pair" in effects.dims:
        return aggregate(effects, metric or "patching_effect")
    valid = [str(name) for name in effects.data_vars]
    name = metric or next((name for name in ("effect", "patching_effect") if name in valid), "effect")
    if name not in valid:
        raise ValueError(one_of("metric of this result", name, valid))
    return effects[name]


def chosen(values: Any, dim: str, label: Any) -> Any:
    """An array or data set at one label of a dimension.

    Raises:
        ValueError: There is no such dimension or label; the nearest is named.
    """
    if dim not in values.dims:
        raise ValueError(one_of("dimension of this result", dim, map(str, values.dims)))
    labels = values[dim].values.tolist()
    if label not in labels:
        if all(isinstance(each, int) for each in labels):
            raise ValueError(f"{dim} {label!r} asked for; this result has the {dim}s {listed(labels)}")
        raise ValueError(one_of(dim, label, map(str, labels)))
    return values.isel({dim: labels.index(label)})


def listed(labels: Iterable[Any]) -> str:
    """Labels in words: whole numbers without a hole as a range."""
    several = list(labels)
    if len(several) > 2 and all(isinstance(each, int | np.integer) for each in several):
        first, last = int(min(several)), int(max(several))
        if last - first + 1 == len(several):
            return f"{first} to {last}"
    return ", ".join(map(str, several))


def bound(*values: Any) -> float:
    """Return the largest magnitude, or 1 without any numbers: the end of a symmetric colour scale."""
    sizes = np.concatenate([np.abs(np.asarray(each, float)).ravel() for each in values])
    largest = float(np.max(sizes[np.isfinite(sizes)], initial=0.0))
    return largest or 1.0


def is_tested(heads: xr.Dataset) -> bool:
    """Return whether significance was tested here: where clusters are few there is no p, and so no test."""
    if "significant" not in heads:
        return False
    return "p" not in heads or bool(np.isfinite(heads["p"]).any())


def flags(results: Any, name: str) -> xr.DataArray | None:
    """Return a boolean variable of a result, or None if it has no such variable."""
    return results[name].fillna(0).astype(bool) if isinstance(results, xr.Dataset) and name in results else None
