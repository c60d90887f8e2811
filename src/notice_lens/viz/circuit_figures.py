"""Figures of circuits: what the best heads carry together, and heads with their intervals one below the other."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP
from notice_lens.stats.dims import HEADS
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import flags, is_tested, unit_of
from notice_lens.viz.theme import DIVERGING, FRAME, INK, LINE_COLOURS, QUIET, around, finish
from notice_lens.viz.words import UNTESTED

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LINES = {"denoise": ("restored by clean heads", "solid"), "noise": ("lost by corrupted heads", "dash")}
"""The name of each direction's share, and how it is drawn."""
ENOUGH = 0.8
"""The share of the gap that the headline counts heads for."""
HARDLY = 0.05
"""Of the gap: where random heads restore almost as much, which heads they are hardly matters."""


def curve(curve: Any, *, share: float = ENOUGH, title: str | None = None) -> "Figure":
    """Draw how much of the answer the first k heads carry together, for every k.

    The bold line is what they restore when they are patched clean into the corrupted run, the dashed one what is lost
    when they are patched corrupted into the clean run, both with their intervals as bands. The dotted line is the share
    of answers that turn; grey is the range of random heads, as many of each layer. The thin line with crosses is what
    the same heads restore from each pair's mismatched donor. Of several conditions, what is restored is drawn.

    Args:
        curve: A result of `circuits.restoration_curve`, or a mapping of conditions' names to such results.
        share: Of the gap; the subtitle says how many heads reach it.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: It is something else.
        ValueError: There are no results, or `share` is out of range.
    """
    from plotly.graph_objects import Figure

    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a share of the gap, above 0 and at most 1")
    several = curve if isinstance(curve, Mapping) and not isinstance(curve, xr.Dataset) else {"": curve}
    if not several:
        raise ValueError(
            "viz.curve got no results: expected a result of circuits.restoration_curve, or several by name"
        )
    for name, one in several.items():
        _check_curve(one, name)
    figure = Figure()
    if len(several) == 1:
        only = next(iter(several.values()))
        _one(figure, only)
        said = headline(only, share)
    else:
        for number, (name, one) in enumerate(several.items()):
            _line(
                figure,
                one.sel(direction="denoise"),
                "share",
                escape(str(name)),
                LINE_COLOURS[number % len(LINE_COLOURS)],
            )
        said = "restored by the first k heads together; bands are intervals over clusters of pairs"
    figure.update_layout(legend={"orientation": "h", "y": -0.2}, showlegend=True, hovermode="x unified")
    figure.update_xaxes(title="number of heads patched together", rangemode="tozero", showgrid=False)
    figure.update_yaxes(title="share of the gap", tickformat=".0%", gridcolor="#e4e7ec", zerolinecolor=INK)
    return finish(figure, title or "What the best heads carry together", said, (760, 480))


class EnoughHeads(NamedTuple):
    """The fewest of the best heads that restore a share of the gap together, beside random heads and a donor.

    Attributes:
        size: How many they are; the largest size of the curve if no size reaches the share.
        n: Of how many.
        what: `heads` or `nodes`.
        share: The share of the gap that they restore, with the ends of its interval.
        random: What as many random ones restore, with its range; NaN where that was not measured.
        mismatched: What they restore from a mismatched donor, with the ends of its interval; NaN without donors.
        names: Their names. Both halves of the pairs rank heads; `(L2.H1)` is among these by one of the two alone.
    """

    size: int
    n: int
    what: str
    share: tuple[float, float, float]
    random: tuple[float, float, float]
    mismatched: tuple[float, float, float]
    names: list[str]


def enough_heads(curve: xr.Dataset, share: float = ENOUGH) -> EnoughHeads:
    """Return the fewest of the best heads that restore a share of the gap together.

    Args:
        curve: A result of `circuits.restoration_curve`.
        share: Of the gap.
    """
    restored = curve.sel(direction="denoise")
    reached = np.flatnonzero(restored["share"].values >= share)
    at = restored.isel(size=int(reached[0]) if len(reached) else -1)
    what = "heads" if all(".H" in str(name) for name in curve["order"].values[0]) else "nodes"

    def with_ends(name: str) -> tuple[float, float, float]:
        value, low, high = (float(at.get(one, np.nan)) for one in (name, f"{name}_low", f"{name}_high"))
        return value, low, high

    size = int(at["size"])
    ranked = [list(map(_short, half[:size])) for half in curve["order"].values]
    names = [
        name if all(name in half for half in ranked) else f"({name})"
        for name in dict.fromkeys(name for half in ranked for name in half)
    ]
    return EnoughHeads(
        size, int(curve.attrs["n_nodes"]), what, with_ends("share"), with_ends("random"), with_ends("mismatched"),
        sorted(names, key=lambda name: name.startswith("(")),
    )  # fmt: skip


def _short(name: object) -> str:
    """Return a head's name without its stack: `L2.H1` of `text.cross_attn.L2.H1`."""
    return re.sub(r"^.*\.(L\d+\.H\d+)$", r"\1", str(name))


def in_brackets(share: tuple[float, float, float]) -> str:
    """Return a share in whole percent with its interval, if it has one: `81% [75, 86]`."""
    value, low, high = (100 * part for part in share)
    ends = f" [{round(low)}, {round(high)}]" if np.isfinite([low, high]).all() else ""
    return f"{round(value)}%{ends}"


def headline(curve: xr.Dataset, share: float = ENOUGH) -> str:
    """Return in one sentence how many heads restore a share of the gap, beside random heads and a mismatched donor.

    Args:
        curve: A result of `circuits.restoration_curve`.
        share: Of the gap.
    """
    found = enough_heads(curve, share)
    verb = "carries" if found.size == 1 else "carry"
    said = f"{found.size} of {found.n} {found.what} {verb} {in_brackets(found.share)} of the answer"
    by_chance = found.random[0]
    if np.isfinite(by_chance):
        said += f"; {'a random one' if found.size == 1 else 'as many at random'} {by_chance:.0%}"
    if np.isfinite(found.mismatched[0]):
        said += f"; these heads from an unrelated picture {in_brackets(found.mismatched)}"
    if by_chance >= min(found.share[1], found.share[0] - HARDLY):
        said += "; so which heads these are hardly matters"
    return f"{said} ({_counted(curve)})"


def forest(heads: Any, *, top: int = 24, title: str | None = None) -> "Figure":
    """Draw heads one below the other: the effect with its interval, and the smallest effect of interest as a band.

    A filled mark is a head that is significant, an open one a head that is not, a cross one that was not tested.

    Args:
        heads: A result of `circuits.important_heads`.
        top: How many heads at most: those with the largest effects.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: It is something else.
        ValueError: It has no effect with an interval by layer and head, or `top` is below 1.
    """
    from plotly.graph_objects import Figure, Scatter

    if not isinstance(heads, xr.Dataset):
        raise TypeError(f"viz.forest takes a result of circuits.important_heads; got {type(heads).__name__}")
    if not {"effect", "low", "high"} <= {*map(str, heads.data_vars)} or {*heads["effect"].dims} != {*HEADS}:
        has = ", ".join(map(str, heads.data_vars)) or "no variables"
        raise ValueError(f"viz.forest draws `effect`, `low` and `high` by layer and head; the result has {has}")
    if top < 1:
        raise ValueError(f"top={top}: expected a number of heads, 1 or more")
    unit = unit_of("effect", heads.attrs.get("share_of", GAP))
    flat = heads.stack(place=HEADS, create_index=False)
    order = np.argsort(-np.abs(flat["effect"].values), kind="stable")[:top]
    drawn = flat.isel(place=order)
    names = [f"L{layer}.H{head}" for layer, head in zip(*(drawn[dim].values for dim in HEADS), strict=True)]
    effect, low, high = (drawn[name].values for name in ("effect", "low", "high"))
    significant = (
        np.asarray(flags(drawn, "significant"), bool) if "significant" in drawn else np.zeros(len(names), bool)
    )
    marks, verdicts = [], []
    for number, yes in enumerate(significant):
        tested = is_tested(drawn.isel(place=number))
        marks.append("circle" if yes else "circle-open" if tested else "x-thin-open")
        verdicts.append("significant" if yes else "not significant" if tested else UNTESTED)
    hover = [
        f"<b>{name}</b>, {verdict}<br>{unit.text(effect[n])} [{unit.text(low[n])}, {unit.text(high[n])}]"
        for n, (name, verdict) in enumerate(zip(names, verdicts, strict=True))
    ]
    figure = Figure(
        Scatter(
            x=effect,
            y=names,
            mode="markers",
            marker={"symbol": marks, "size": 9, "color": DIVERGING[-1][1], "line": {"width": 2}},
            error_x={
                "type": "data", "symmetric": False, "array": high - effect, "arrayminus": effect - low,
                "color": QUIET, "thickness": 1.5,
            },
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    smallest = float(heads.attrs.get("smallest_effect", 0))
    if smallest:
        figure.add_vrect(x0=-smallest, x1=smallest, fillcolor=FRAME, opacity=0.35, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title=unit.name, tickformat="+.0%", gridcolor="#e4e7ec", zeroline=False)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    band = f"; grey: smaller than {smallest:.0%}, the smallest effect of interest" if smallest else ""
    left = f"the {len(names)} largest of {flat.sizes['place']}; " if len(names) < flat.sizes["place"] else ""
    return finish(
        figure, title or "Effects of single heads", left + _counted(heads) + band, (620, 170 + 22 * len(names))
    )


def _one(figure: "Figure", curve: xr.Dataset) -> None:
    """Draw all lines of one condition."""
    from plotly.graph_objects import Scatter

    sizes = curve["size"].values
    by_chance = curve.sel(direction="denoise")
    if by_chance["random"].notnull().any():
        low, high = (by_chance[f"random_{end}"].values for end in ("low", "high"))
        name = f"{curve.attrs['n_random']} random orders"
        figure.add_trace(around(sizes, low, high, "#98a2b3", "random", 0.35))
        figure.add_trace(
            Scatter(
                x=sizes,
                y=by_chance["random"].values,
                name=name,
                legendgroup="random",
                mode="lines",
                line={"color": "#667085", "width": 1.5},
                hovertemplate="%{y:.0%}",
            )
        )
    for number, (direction, (word, dash)) in enumerate(LINES.items()):
        _line(figure, curve.sel(direction=direction), "share", word, LINE_COLOURS[number], dash)
    turned = {"color": LINE_COLOURS[0], "dash": "dot", "width": 1.5}
    figure.add_trace(
        Scatter(
            x=sizes,
            y=by_chance["turned"].values,
            name="answers turned",
            mode="lines",
            line=turned,
            hovertemplate="%{y:.0%}",
        )
    )
    if curve["mismatched"].notnull().any():
        figure.add_trace(
            Scatter(
                x=sizes,
                y=curve["mismatched"].values,
                name="from a mismatched donor",
                mode="lines+markers",
                line={"color": LINE_COLOURS[2], "width": 1},
                marker={"symbol": "x-thin-open", "size": 6},
                hovertemplate="%{y:.0%}",
            )
        )


def _line(figure: "Figure", of: xr.Dataset, name: str, label: str, colour: str, dash: str = "solid") -> None:
    """Draw a share by size, with its interval as a band."""
    from plotly.graph_objects import Scatter

    sizes, low, high = of["size"].values, of[f"{name}_low"].values, of[f"{name}_high"].values
    figure.add_trace(around(sizes, low, high, colour, label))
    figure.add_trace(
        Scatter(
            x=sizes,
            y=of[name].values,
            name=label,
            legendgroup=label,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"size": 5},
            customdata=np.stack([low, high], -1),
            hovertemplate="%{y:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}]",
        )
    )


def _check_curve(curve: Any, name: str) -> None:
    of = f" of {name!r}" if name else ""
    if not isinstance(curve, xr.Dataset):
        raise TypeError(f"viz.curve takes a result of circuits.restoration_curve; got {type(curve).__name__}{of}")
    if "share" not in curve or {*curve["share"].dims} != {"direction", "size"}:
        has = ", ".join(map(str, curve.data_vars)) or "no variables"
        raise ValueError(f"viz.curve draws `share` by direction and size; the result{of} has {has}")


def _counted(result: xr.Dataset) -> str:
    """Return how many pairs and clusters a result is of."""
    pairs, clusters = (result.attrs.get(name) for name in ("pairs", "clusters"))
    return f"{pairs} pairs in {clusters} clusters" if clusters not in (None, pairs) else f"{pairs} pairs"
