"""A condition: effects of one task (or group) under one corruption, read at one role, as plain numbers.

Everything in this package starts from a sweep over heads. What is ranked is the *change* of the logit difference that
a patch makes, never the level that it reaches. Under an image corruption, where pairs have a mismatched donor, it is
matched minus mismatched: a patch from any other image erases what was corrupted too, and only what is left is evidence
for carrying the answer (see `patching.carried`). Such a donor-corrected effect is a share of what the donor leaves to
be carried, the gap minus what the donor's own run restores of it: a complete patch scores 1.

Effects are read at one role, named beforehand. The best of several roles is not an effect but a maximum: it is large
where nothing is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.pairs.corruption import changes_words
from notice_lens.pairs.roles import ALL, default_role, not_swept
from notice_lens.patching.results import CONTROL, DONOR, Effects, dataset_of, gap, to_carry
from notice_lens.stats.dims import HEADS

ChangeMetric = Literal["logit_diff_change", "prob_change"]
InRoles = TypeVar("InRoles", xr.Dataset, xr.DataArray)
QUANTITIES = {"logit_diff_change": "logit_diff", "prob_change": "answer_prob"}
"""The metrics whose change has a gap to be a share of, and the quantity whose clean-to-corrupted difference that is."""
DIFFERENCE, MATCHED_ALONE = "matched minus mismatched", "matched"
GAP, LEFT = "the gap", "what the mismatched donor leaves of the gap"
"""What effects are shares of."""


@dataclass(frozen=True)
class Condition:
    """The numbers of one condition, in logits.

    Attributes:
        effects: The pairs that count, with their coordinates; `pair, layer, head`.
        matched: Change by the patch from the source run, [pair, place].
        mismatched: Change by the patch from the donor, [pair, place]; None where there is no donor.
        gap: The clean-to-corrupted gap, [pair]; its sum is positive.
        left: The rest of the gap that the donor leaves to be carried, [pair]; its sum is positive. None where heads are
            ranked by the matched change, or the result lacks the donor's own answers.
        ranked_by: `matched minus mismatched`, or `matched`.
        left_out: Pairs that lack the role, the donor, or a gap that is large enough.
    """

    effects: xr.Dataset
    matched: np.ndarray
    mismatched: np.ndarray | None
    gap: np.ndarray
    left: np.ndarray | None
    ranked_by: str
    left_out: int

    @property
    def change(self) -> np.ndarray:
        """Return the change that heads are ranked by, [pair, place]."""
        if self.ranked_by == MATCHED_ALONE or self.mismatched is None:
            return self.matched
        return self.matched - self.mismatched

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.effects.sizes["layer"], self.effects.sizes["head"]

    @property
    def coords(self) -> dict[str, Any]:
        """The layers' and the heads' numbers."""
        return {dim: self.effects[dim].values for dim in HEADS if dim in self.effects.coords}

    @property
    def reach(self) -> np.ndarray:
        """The denominator of `change`, [pair]: what the donor leaves of the gap, or the gap."""
        return self.gap if self.left is None else self.left

    @property
    def share_of(self) -> str:
        """The name of `reach`, in words."""
        return GAP if self.left is None else LEFT

    @property
    def donor(self) -> str | None:
        """The column that names the donors that enter `change`; None where none do."""
        if self.ranked_by == MATCHED_ALONE:
            return None
        return "donor_prompt" if changes_words(self.effects.attrs.get("corruption", "")) else "donor_digest"

    def effect(self) -> np.ndarray:
        """Return the share of `reach` that `change` is, as a ratio of sums over pairs, [place]."""
        return self.change.sum(0) / self.reach.sum()

    def share(self, change: np.ndarray) -> np.ndarray:
        """Return a change as a share of the gap: summed over pairs, divided by the sum of the gaps, [place]."""
        return change.sum(0) / self.gap.sum()

    def place(self, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Return numbers by place, [..., place], as a variable of layers and heads."""
        return HEADS, values.reshape(*values.shape[:-1], *self.shape)

    def attrs(self) -> dict[str, Any]:
        """Return the attributes that a result has of its condition."""
        return {
            "task": _named(self.effects, "task"),
            "group": _named(self.effects, "group"),
            "role": role_of(self.effects),
            "corruption": str(self.effects.attrs.get("corruption", "")),
            "direction": str(self.effects.attrs.get("direction", "")),
            "ranked_by": self.ranked_by,
            "share_of": self.share_of,
            "pairs": len(self.gap),
            "pairs_left_out": self.left_out,
        }


def read_condition(
    effects: Effects, role: str | None = None, metric: ChangeMetric = "logit_diff_change", control: bool | None = None
) -> Condition:
    """Return the numbers of a condition.

    Args:
        effects: A result of `patching.patch_heads`.
        role: The role at which effects are read, or `all` for a sweep that patches all words at once. None takes
            `correct` of effects by role, and of others the only one they have.
        metric: `logit_diff_change` or `prob_change`.
        control: Whether heads are ranked by matched minus mismatched; None: under an image corruption, where there are
            donors.

    Raises:
        ValueError: There is no such role or metric, other dimensions are left, there is no donor and `control` is
            true, no pair counts, or the gaps cancel.
    """
    effects = at_role(_checked(effects, metric), role)
    matched, mismatched = _values(effects[metric]), None
    if metric + CONTROL in effects and effects[metric + CONTROL].notnull().any():
        mismatched = _values(effects[metric + CONTROL])
    if control and mismatched is None:
        raise ValueError("control=True asks for matched minus mismatched, and no pair of these effects has a donor")
    by_image = str(effects.attrs.get("corruption")) == "image"
    differs = mismatched is not None and (by_image if control is None else control)
    gaps, left = _gap(effects, metric), _left(effects, metric) if differs else None
    needed = [gaps, *matched.T, *([] if mismatched is None or not differs else mismatched.T)]
    counts = np.isfinite([*needed, *([] if left is None else [left])]).all(0)
    if not counts.any():
        what = "a gap" if left is None else "a gap of which the donor leaves anything"
        raise ValueError(
            f"none of {len(gaps)} pairs has {what} and an effect of every head at this role: {role_of(effects)!r}"
        )
    for whole in [gaps] if left is None else [gaps, left]:
        _refuse_cancelling(whole[counts], gaps[counts], _min_gap(effects))
    # In the direction `noise` the gap is negative and what carries the answer lowers the logit difference.
    sign = np.sign(gaps[counts].sum())
    return Condition(
        effects=effects.isel(pair=counts),
        matched=sign * matched[counts],
        mismatched=None if mismatched is None else sign * mismatched[counts],
        gap=sign * gaps[counts],
        left=None if left is None else sign * left[counts],
        ranked_by=DIFFERENCE if differs else MATCHED_ALONE,
        left_out=int((~counts).sum()),
    )


def _refuse_cancelling(whole: np.ndarray, gaps: np.ndarray, least: float) -> None:
    """Raise where no share can be taken of a whole: its sum is nearly zero, or lacks the sign of the gaps' sum."""
    total, pairs = whole.sum(), len(whole)
    if abs(total) < least * pairs or total * gaps.sum() <= 0:
        raise ValueError(f"the gaps of {pairs} pairs cancel (their mean is {total / pairs:.2g}): no share")


def _checked(effects: Any, metric: str) -> xr.Dataset:
    """Return the Dataset of a result over heads that has the metric: of a sweep, or of one site of an attribution."""
    effects = dataset_of(effects)
    if not isinstance(effects, xr.Dataset):
        raise TypeError(f"effects are of type {type(effects).__name__}; expected the Dataset of patching.patch_heads")
    if metric not in QUANTITIES:
        raise ValueError(one_of("metric that is a share of a gap", metric, QUANTITIES))
    if metric not in effects:
        raise ValueError(one_of("metric of these effects", metric, map(str, effects.data_vars)))
    for dim in ("pair", *HEADS):
        if dim not in effects[metric].dims:
            raise ValueError(one_of("dimension of these effects", dim, map(str, effects[metric].dims)))
    others = [str(dim) for dim in effects[metric].dims if dim not in ("pair", *HEADS, "role")]
    if others:
        raise ValueError(
            f"effects have the dimensions {', '.join(others)} besides pair, layer, head and role; select one of each, "
            f"such as effects.isel({others[0]}=0)"
        )
    return effects


def one_role(conditions: Mapping[str, Condition]) -> str:
    """Return the role that all conditions are read at.

    Raises:
        ValueError: They are read at several.
    """
    roles = {name: role_of(condition.effects) for name, condition in conditions.items()}
    if len(set(roles.values())) > 1:
        read = ", ".join(f"{name} at {role!r}" for name, role in roles.items())
        raise ValueError(f"effects that are compared have to be read at one role; these are read at several: {read}")
    return next(iter(roles.values()))


def at_role(effects: InRoles, role: str | None) -> InRoles:
    """Return effects, or one variable of them, at one role; None takes that of `roles.default_role`.

    Raises:
        ValueError: They have no such role.
    """
    if "role" in effects.dims:
        names = [str(name) for name in effects.get_index("role")]
        wanted = default_role(names) if role is None else role
        if wanted not in names:
            raise ValueError(not_swept(role, names))
        return effects.isel(role=names.index(wanted))
    read = role_of(effects)
    if role not in (None, read):
        what = "all words at once" if read == ALL else repr(read)
        raise ValueError(
            f"role {role!r} was given, but these effects are those of {what}; pass role={read!r}, or leave it out"
        )
    return effects


def role_of(effects: xr.Dataset | xr.DataArray) -> str:
    """Return the role of effects without that dimension."""
    return str(effects["role"].item()) if "role" in effects.coords else ALL


def _values(variable: xr.DataArray) -> np.ndarray:
    """Return a variable by pair and place, [pair, place]."""
    values = variable.transpose("pair", *HEADS).values.astype(float)
    return values.reshape(len(values), -1)


def _gap(effects: xr.Dataset, metric: str) -> np.ndarray:
    """Return the gap of each pair, [pair]; NaN where that of the logit difference is below `min_gap`."""
    enough = abs(gap(effects)) >= _min_gap(effects)
    return gap(effects, QUANTITIES[metric]).where(enough).values.astype(float)


def _left(effects: xr.Dataset, metric: str) -> np.ndarray | None:
    """Return the rest that the donor leaves of each pair's gap; NaN for none. None without the donor's own answers."""
    name = QUANTITIES[metric]
    if f"{name}_donor" not in effects or DONOR not in effects:
        return None
    source = "clean" if effects.attrs["direction"] == "denoise" else "corrupt"
    left = effects[f"{name}_{source}"] - effects[f"{name}_donor"]
    usable = to_carry(effects).notnull() & (left * _gap(effects, metric) > 0)
    return left.where(usable).values.astype(float)


def _min_gap(effects: xr.Dataset) -> float:
    return float(effects.attrs.get("min_gap", 0.0))


def _named(effects: xr.Dataset, name: str) -> str:
    """Return the values that a coordinate has over the pairs, each once, in words."""
    values: Sequence[Any] = effects[name].values.tolist() if name in effects.coords else []
    return ", ".join(
        dict.fromkeys(str(value) for value in np.atleast_1d(np.array(values, object)) if value is not None)
    )
