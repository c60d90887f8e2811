"""Heads: their effects by layer and head, in one condition and in all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP
from notice_lens.stats.dims import HEADS
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import CARRIED_UNIT, EITHER_SHARE, averaged, bound, flags, is_tested, unit_of
from notice_lens.viz.theme import cells, colour_bar, finish, grid_axes, outlined
from notice_lens.viz.words import UNTESTED, by_layers, interval_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def heads(
    effects: Any, *, metric: str | None = None, important: Any = None, title: str | None = None, **where: Any
) -> "Figure":
    """A layer x head heat map of signed effects, symmetric about zero; important heads are outlined.

    A full frame is a head that is significant, a dotted one a head that passes the two-sigma rule alone. A hover tells
    the number with its interval, p and q where they are known.

    Args:
        effects: A result of `patch_heads` (the mean over pairs is drawn: of patching effects the ratio of sums), of
            `circuits.important_heads`, or an array [layer, head].
        metric: A variable of it; None takes `effect`, or else `patching_effect`.
        important: A result of `circuits.important_heads`, for frames and hovers; None takes `effects` itself where it
            is one.
        title: The title; None for a description of the figure.
        **where: Which label of a dimension that is left, such as `role="noun"`; the role is `correct` otherwise, or
            `all` where there are no roles.

    Raises:
        TypeError: `effects` is not an xarray object.
        ValueError: There is no such metric, dimension or label, or one has to be chosen.
    """
    values = averaged(effects, metric, where, HEADS, "heads")
    known = important if important is not None else effects
    known = known if isinstance(known, xr.Dataset) and "pair" not in known.dims else xr.Dataset()
    if important is not None:
        known = known.reindex({name: values[name] for name in HEADS})
    from plotly.graph_objects import Figure

    share_of = getattr(effects, "attrs", {}).get("share_of", GAP)
    unit, limit = unit_of(values.name, share_of), bound(values)
    rows, columns = (values[name].values.tolist() for name in HEADS)
    hover = [
        [f"<b>L{layer}.H{head}</b><br>{unit.text(values.values[i, j])} {unit.name}{_told(known, i, j)}"
         for j, head in enumerate(columns)]
        for i, layer in enumerate(rows)
    ]  # fmt: skip
    figure = Figure(cells(values, [str(head) for head in columns], [str(layer) for layer in rows], unit, hover, limit))
    significant, two_sigma = (flags(known, name) for name in ("significant", "two_sigma"))
    _frames(figure, significant, two_sigma)
    colour_bar(figure, unit, limit)
    grid_axes(figure, "head", "layer")
    size = (max(420, 190 + 40 * len(columns)), max(300, 170 + 34 * len(rows)))
    return finish(figure, title or _title(effects, values), _rule(known, significant, two_sigma), size)


def universal(universal: Any, *, top: int = 24, title: str | None = None) -> "Figure":
    """Heads x conditions: the effect in each condition, starred where it is significant; universal heads are outlined.

    Args:
        universal: A result of `circuits.universal_heads`.
        top: How many heads at most: universal ones first, then those that are significant in the most conditions, then
            by p, then by the smallest effect over the conditions.
        title: None counts the universal heads.

    Raises:
        TypeError: It is not a Dataset.
        ValueError: It is not such a result, or `top` is below 1.
    """
    from plotly.graph_objects import Figure

    _check_universal(universal, top)
    flat = universal.stack(place=HEADS, create_index=False)
    order = ranked(universal)[:top].tolist()
    names = [f"L{flat['layer'].values[place]}.H{flat['head'].values[place]}" for place in order]
    found = [str(condition) for condition in universal["condition"].values]
    values = flat["effect"].transpose("place", "condition").values[order]
    shares = flat["share_of"].values.tolist() if "share_of" in flat else [GAP] * len(found)
    units = [unit_of("effect", share_of) for share_of in shares]
    unit, limit = units[0] if len(set(units)) == 1 else EITHER_SHARE, bound(values)
    hover = [
        [
            _condition_told(flat, place, condition, name, label, units[condition])
            for condition, label in enumerate(found)
        ]
        for place, name in zip(order, names, strict=True)
    ]
    trace = cells(values, found, names, unit, hover, limit)
    stars = flat["significant"].transpose("place", "condition").values[order] if "significant" in flat else None
    if stars is not None:
        trace.text = [
            [f"{text}*" if star else text for text, star in zip(row, starred, strict=True)]
            for row, starred in zip(trace.text, stars.astype(bool), strict=True)
        ]
    figure = Figure(trace)
    passed = flat["universal"].values[order].astype(bool)
    outlined(figure, [(row, column) for row in np.flatnonzero(passed) for column in range(len(found))])
    colour_bar(figure, unit, limit)
    grid_axes(figure, "", "")
    count = int(universal["universal"].sum())
    said = title or f"{count or 'No'} universal head{'' if count == 1 else 's'} of {flat.sizes['place']}"
    if not title and (null := by_layers(universal)):
        said += f"; {null}"
    if not title and "p" in universal and not np.isfinite(universal["p"]).any():
        said = f"Heads by condition; universality {UNTESTED}: too few clusters of pairs"
    shown = f"the first {len(order)} heads; " if len(order) < flat.sizes["place"] else ""
    note = f"{shown}* significant in the condition; framed: universal"
    width = max(460, 240 + 90 * len(found), 9 * len(said))
    return finish(figure, said, note, (width, 190 + 26 * len(order)))


def ranked(universal: xr.Dataset) -> Any:
    """Return the numbers of heads along layer and head, the nearest to being universal first.

    Universal heads come first, then those that are significant in the most conditions, then the smallest p, then the
    largest of their weakest effects.
    """
    flat = universal.stack(place=HEADS, create_index=False)
    count = flat["count"].values if "count" in flat else np.zeros(flat.sizes["place"])
    p = flat["p"].fillna(np.inf).values if "p" in flat else np.zeros(flat.sizes["place"])
    weakest = abs(flat["effect"]).min("condition").fillna(0).values
    return np.lexsort((-weakest, p, -count, ~flat["universal"].values.astype(bool)))


def _check_universal(universal: Any, top: int) -> None:
    if not isinstance(universal, xr.Dataset):
        raise TypeError(f"viz.universal takes a result of circuits.universal_heads; got {type(universal).__name__}")
    for needed in ("effect", "universal"):
        if needed not in universal:
            has = ", ".join(map(str, universal.data_vars))
            raise ValueError(
                f"viz.universal takes a result of circuits.universal_heads, with {needed!r}; this has {has}"
            )
    for needed in ("condition", *HEADS):
        if needed not in universal["effect"].dims:
            raise ValueError(f"viz.universal draws heads x conditions; `effect` has no dimension {needed!r}")
    if top < 1:
        raise ValueError(f"top={top}: expected a number of heads, 1 or more")


def _frames(figure: "Figure", significant: Any, two_sigma: Any) -> None:
    full = np.zeros((0, 2), int) if significant is None else np.argwhere(significant.transpose(*HEADS).values)
    outlined(figure, [(int(i), int(j)) for i, j in full])
    if two_sigma is not None:
        alone = two_sigma if significant is None else two_sigma & ~significant
        outlined(figure, [(int(i), int(j)) for i, j in np.argwhere(alone.transpose(*HEADS).values)], dotted=True)


def _rule(known: xr.Dataset, significant: Any, two_sigma: Any) -> str:
    framed = "framed: significant" if is_tested(known) else f"significance {UNTESTED}: too few clusters of pairs"
    said = [framed] if significant is not None else []
    return "; ".join([*said, *(["dotted: two-sigma rule alone"] if two_sigma is not None else [])])


def _told(known: xr.Dataset, row: int, column: int) -> str:
    """Return the statistics of a head, as lines of its hover text."""
    at = known.isel({name: place for name, place in zip(HEADS, (row, column), strict=True) if name in known.dims})
    unit, said = unit_of("effect", known.attrs.get("share_of", GAP)), []
    of_gap = f" of {GAP}" if unit == CARRIED_UNIT else ""
    if "low" in at and "high" in at:
        said.append(f"{unit.text(at['effect'])} [{unit.text(at['low'])}, {unit.text(at['high'])}]")
        said[0] += " of what the donor leaves" if unit == CARRIED_UNIT else ""
    if unit == CARRIED_UNIT and "effect_of_gap" in at:
        said.append(f"{_with_ends(at, 'effect_of_gap', unit)}{of_gap}")
    for name in ("matched", "mismatched"):
        if f"effect_{name}" in at:
            said.append(f"{name} {_with_ends(at, f'effect_{name}', unit)}{of_gap}")
    said += [f"{name} = {float(at[name]):.2g}" for name in ("p", "q") if name in at and np.isfinite(at[name])]
    said += [f"{name.replace('_', ' ')}: {_verdict(at, name)}" for name in _SELECTION_RULES if name in at]
    return "".join(f"<br>{line}" for line in said)


def _with_ends(at: xr.Dataset, name: str, unit: Any) -> str:
    """Return a share of the gap in its unit, with its interval where there is one."""
    ends = interval_of(name)
    known = all(end in at and np.isfinite(at[end]) for end in ends)
    return unit.text(at[name]) + (f" [{', '.join(unit.text(at[end]) for end in ends)}]" if known else "")


_SELECTION_RULES: Sequence[str] = ("two_sigma", "significant")


def _verdict(at: xr.Dataset, rule: str) -> str:
    if rule == "significant" and not is_tested(at):
        return UNTESTED
    return "yes" if at[rule] else "no"


def _condition_told(flat: xr.Dataset, place: int, condition: int, name: str, label: str, unit: Any) -> str:
    at = flat.isel(place=place, condition=condition)
    said = [f"<b>{name}</b>, {escape(label)}", f"{unit.text(at['effect'])} {unit.name}"]
    if "low" in at and "high" in at:
        said.append(f"[{unit.text(at['low'])}, {unit.text(at['high'])}]")
    if "p" in at and np.isfinite(at["p"]):
        said.append(f"over the conditions: p = {float(at['p']):.2g}")
    if "selection_frequency" in at and at["selection_frequency"].ndim == 0:
        said.append(f"selected in {float(at['selection_frequency']):.0%} of resamples")
    return "<br>".join(said)


def _title(effects: Any, values: xr.DataArray) -> str:
    attrs = getattr(effects, "attrs", {})
    said = [str(attrs[name]) for name in ("task", "corruption") if name in attrs]
    role = attrs.get("role", values.coords["role"].item() if "role" in values.coords else None)
    what = "Heads" if not said else f"Heads: {', '.join(said)}" + (" corruption" if "corruption" in attrs else "")
    return what + (f", at the role {role}" if role is not None else "")
