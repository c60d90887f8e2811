"""A cell: the effects of one task (or group) under one corruption, read at one role, as plain numbers by pair and head.

Everything in this package starts from a sweep over heads. What is ranked is the *change* of the logit difference that
a patch makes, never the level that it reaches. Under an image corruption, where pairs have a mismatched donor, it is
matched minus mismatched: a patch from any other image erases what was corrupted too, and only what is left is evidence
for carrying the answer (see `patching.carried`). Such an effect is a share of what the donor leaves to be carried, the
gap minus what the donor's own run restores of it: a complete patch scores 1.

Effects are read at one role, named beforehand. The best of several roles is no effect but a maximum: it is large where
nothing is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.pairs.corruption import changes_words
from notice_lens.pairs.roles import ALL, CORRECT, not_swept
from notice_lens.patching.results import BASELINES as LOGITS
from notice_lens.patching.results import CONTROL, DONOR, dataset_of, gap, to_carry

PLACE = ("layer", "head")
BASELINES = {"logit_diff_change": "logit_diff", "prob_change": "answer_prob"}
"""The metrics whose change has a gap to be a share of, and what that gap is a difference of."""
DIFFERENCE, MATCHED = "matched minus mismatched", "matched"
GAP, LEFT = "the gap", "what the mismatched donor leaves of the gap"
"""What effects are shares of."""


@dataclass(frozen=True)
class Cell:
    """The numbers of one cell.

    Attributes:
        effects: The pairs that count, with their coordinates; `pair, layer, head`.
        matched: The change that the patch from the right run makes, in logits, [pair, place].
        mismatched: The one that the donor's makes, [pair, place]; None where there is no donor.
        gap: What could be changed, [pair]; its sum is positive.
        left: What the donor leaves of it to be carried, [pair]; its sum is positive. None where heads are ranked by the
            matched change, or the result lacks the donor's own answers.
        ranked_by: What `change` is: matched minus mismatched, or matched.
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
        """The change that heads are ranked by, [pair, place]."""
        if self.ranked_by == MATCHED or self.mismatched is None:
            return self.matched
        return self.matched - self.mismatched

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.effects.sizes["layer"], self.effects.sizes["head"]

    @property
    def coords(self) -> dict[str, Any]:
        """The layers' and the heads' numbers."""
        return {dim: self.effects[dim].values for dim in PLACE if dim in self.effects.coords}

    @property
    def reach(self) -> np.ndarray:
        """What `change` is a share of, [pair]: what the donor leaves, or the gap."""
        return self.gap if self.left is None else self.left

    @property
    def share_of(self) -> str:
        """What `reach` is, in words."""
        return GAP if self.left is None else LEFT

    @property
    def donor(self) -> str | None:
        """The column that names the donors that enter `change`; None where none do."""
        if self.ranked_by == MATCHED:
            return None
        return "donor_prompt" if changes_words(self.effects.attrs.get("corruption", "")) else "donor_digest"

    def effect(self) -> np.ndarray:
        """Return the share of `reach` that `change` is, as a ratio of sums over pairs, [place]."""
        return self.change.sum(0) / self.reach.sum()

    def share(self, change: np.ndarray) -> np.ndarray:
        """Return the share of the gap that a change is, as a ratio of sums over pairs, [place]."""
        return change.sum(0) / self.gap.sum()

    def place(self, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Numbers by place, [..., place], as layers and heads."""
        return PLACE, values.reshape(*values.shape[:-1], *self.shape)

    def attrs(self) -> dict[str, Any]:
        """What a result says about its cell."""
        return {
            "task": _named(self.effects, "task"),
            "group": _named(self.effects, "group"),
            "role": _role_of(self.effects),
            "corruption": str(self.effects.attrs.get("corruption", "")),
            "direction": str(self.effects.attrs.get("direction", "")),
            "ranked_by": self.ranked_by,
            "share_of": self.share_of,
            "pairs": len(self.gap),
            "pairs_left_out": self.left_out,
        }


def read_cell(
    effects: Any, role: str | None = None, metric: str = "logit_diff_change", control: bool | None = None
) -> Cell:
    """The numbers of a cell.

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
    effects = _at_role(_checked(effects, metric), role)
    matched, mismatched = _values(effects[metric]), None
    if metric + CONTROL in effects and effects[metric + CONTROL].notnull().any():
        mismatched = _values(effects[metric + CONTROL])
    if control and mismatched is None:
        raise ValueError("control=True asks for matched minus mismatched, and no pair of these effects has a donor")
    by_image = str(effects.attrs.get("corruption")) == "image"
    differs = mismatched is not None and (by_image if control is None else control)
    gaps, left = _gap(effects, metric), _left(effects, metric) if differs else None
    counts = np.isfinite(gaps) & np.isfinite(matched).all(1)
    if differs and mismatched is not None:
        counts &= np.isfinite(mismatched).all(1)
    if left is not None:
        counts &= np.isfinite(left)
    if not counts.any():
        what = "a gap" if left is None else "a gap of which the donor leaves anything"
        raise ValueError(
            f"none of {len(gaps)} pairs has {what} and an effect of every head at this role: {_role_of(effects)!r}"
        )
    for whole in [gaps] if left is None else [gaps, left]:
        _refuse_cancelling(whole[counts], gaps[counts], _min_gap(effects))
    # In the direction `noise` the gap is negative and what carries the answer lowers the logit difference.
    sign = np.sign(gaps[counts].sum())
    some, rest = (None if values is None else sign * values[counts] for values in (mismatched, left))
    return Cell(
        effects=effects.isel(pair=counts),
        matched=sign * matched[counts],
        mismatched=some,
        gap=sign * gaps[counts],
        left=rest,
        ranked_by=DIFFERENCE if differs else MATCHED,
        left_out=int((~counts).sum()),
    )


def _refuse_cancelling(whole: np.ndarray, gaps: np.ndarray, least: float) -> None:
    """Raise where there is no share of what is whole: its sum is next to nothing, or has not the sign of the gaps'."""
    total, pairs = whole.sum(), len(whole)
    if abs(total) < least * pairs or total * gaps.sum() <= 0:
        raise ValueError(f"the gaps of {pairs} pairs cancel (their mean is {total / pairs:.2g}): no share")


def _checked(effects: Any, metric: str) -> xr.Dataset:
    """The result, if it is one over heads that has the metric: of a sweep, or of one site of an attribution."""
    effects = dataset_of(effects)
    if not isinstance(effects, xr.Dataset):
        raise TypeError(f"effects are of type {type(effects).__name__}; expected the Dataset of patching.patch_heads")
    if metric not in BASELINES:
        raise ValueError(one_of("metric that is a share of a gap", metric, BASELINES))
    if metric not in effects:
        raise ValueError(one_of("metric of these effects", metric, map(str, effects.data_vars)))
    for dim in ("pair", *PLACE):
        if dim not in effects[metric].dims:
            raise ValueError(one_of("dimension of these effects", dim, map(str, effects[metric].dims)))
    others = [str(dim) for dim in effects[metric].dims if dim not in ("pair", *PLACE, "role")]
    if others:
        raise ValueError(
            f"effects have the dimensions {', '.join(others)} besides pair, layer, head and role; select one of each, "
            f"such as effects.isel({others[0]}=0)"
        )
    return effects


def one_role(cells: Mapping[str, Cell]) -> str:
    """Return the role that all cells are read at.

    Raises:
        ValueError: They are read at several.
    """
    roles = {name: _role_of(cell.effects) for name, cell in cells.items()}
    if len(set(roles.values())) > 1:
        read = ", ".join(f"{name} at {role!r}" for name, role in roles.items())
        raise ValueError(f"effects that are compared have to be read at one role; these are read at several: {read}")
    return next(iter(roles.values()))


def _at_role(effects: xr.Dataset, role: str | None) -> xr.Dataset:
    """The effects at one role."""
    if "role" in effects.dims:
        names = [str(name) for name in effects["role"].values]
        wanted = CORRECT if role is None else role
        if wanted not in names:
            raise ValueError(not_swept(role, names))
        return effects.isel(role=names.index(wanted))
    own = _role_of(effects)
    if role not in (None, own):
        what = "all words at once" if own == ALL else repr(own)
        raise ValueError(f"role {role!r} asked for of effects that are those of {what}; pass role={own!r}, or none")
    return effects


def _role_of(effects: xr.Dataset) -> str:
    """The role of effects without that dimension."""
    return str(effects["role"].item()) if "role" in effects.coords else ALL


def _values(variable: xr.DataArray) -> np.ndarray:
    """A variable by pair and place, [pair, place]."""
    values = variable.transpose("pair", *PLACE).values.astype(float)
    return values.reshape(len(values), -1)


def _gap(effects: xr.Dataset, metric: str) -> np.ndarray:
    """The gap of each pair; NaN where that of the logit difference is below `min_gap`."""
    logits = gap(effects)
    if metric == "logit_diff_change":
        found = logits
    else:
        clean, corrupt = (effects[f"{BASELINES[metric]}_{which}"] for which in ("clean", "corrupt"))
        found = clean - corrupt if effects.attrs["direction"] == "denoise" else corrupt - clean
    return found.where(abs(logits) >= _min_gap(effects)).values.astype(float)


def _left(effects: xr.Dataset, metric: str) -> np.ndarray | None:
    """What the donor leaves of each pair's gap; NaN where it leaves nothing. None without the donor's own answers."""
    name = BASELINES[metric]
    if f"{name}_donor" not in effects or DONOR not in effects:
        return None
    other = LOGITS[0 if effects.attrs["direction"] == "denoise" else 1].replace("logit_diff", name)
    left = effects[other] - effects[f"{name}_donor"]
    usable = to_carry(effects).notnull() & (left * _gap(effects, metric) > 0)
    return left.where(usable).values.astype(float)


def _min_gap(effects: xr.Dataset) -> float:
    return float(effects.attrs.get("min_gap", 0.0))


def _named(effects: xr.Dataset, name: str) -> str:
    """What the pairs say of themselves, each value once."""
    values: Sequence[Any] = effects[name].values.tolist() if name in effects.coords else []
    return ", ".join(
        dict.fromkeys(str(value) for value in np.atleast_1d(np.array(values, object)) if value is not None)
    )
