"""Figures of the flow of information: modules by word and layer, shares by layer, and paths from sender to receiver."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.pairs.roles import ALL
from notice_lens.viz.head_figures import heads
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import averaged, bound, unit_of
from notice_lens.viz.theme import FRAME, INK, LINE_COLOURS, around, cells, colour_bar, finish, grid_axes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PLACES = ("role", "position", "region")
TITLES = {
    "attn_out": "attention",
    "cross_attn_out": "cross-attention",
    "mlp_out": "MLP",
    "normalized_resid_post": "residual stream",
    "resid_post": "residual stream",
}
PATTERNS = ("", "/", ".", "x", "-", "+")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
KNOCKED = {
    "prob_change": "change of the answer's probability",
    "patching_effect": "share of the gap",
    "logit_diff_change": "change of the logit difference",
}
"""Metrics of a knockout, in words."""


def modules(effects: Any, *, metric: str | None = None, title: str | None = None, **where: Any) -> "Figure":
    """Words (or positions) x layers of what each module restores, a panel for each kind of module.

    Args:
        effects: A result of `patch_modules`: dims pair, site, layer and role, position, region or none.
        metric: A variable of it; None takes `patching_effect`.
        title: The title; None for a description of the figure.
        **where: Which label of a dimension that is left, or `site=` for one panel alone.

    Raises:
        TypeError: `effects` is not an xarray object.
        ValueError: There is no such metric, dimension or label, or one has to be chosen.
    """
    from plotly.subplots import make_subplots

    there = [dim for dim in PLACES if dim in getattr(effects, "dims", ())]
    if not there and isinstance(effects, xr.Dataset | xr.DataArray):
        effects = effects.expand_dims(role=[ALL])
    place = next((dim for dim in there if dim not in where), "role")
    single = "site" in where or "site" not in getattr(effects, "dims", ())
    dims = (place, "layer") if single else ("site", place, "layer")
    values = averaged(effects, metric, where, dims, "modules")
    if single:
        values = values.expand_dims(site=[str(where.get("site", "module"))])
    sites = [str(site) for site in values["site"].values]
    unit, limit = unit_of(values.name), bound(values)
    rows, layers = values[place].values.tolist(), values["layer"].values.tolist()
    names = [escape(_module(site)) for site in sites]
    figure = make_subplots(1, len(sites), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.03)
    for panel, name in enumerate(names, 1):
        table = values.values[panel - 1]
        hover = [
            [f"<b>{name}</b>, layer {layer}, {escape(str(row))}<br>{unit.text(table[i, j])} {unit.name}"
             for j, layer in enumerate(layers)]
            for i, row in enumerate(rows)
        ]  # fmt: skip
        figure.add_trace(cells(table, list(map(str, layers)), list(map(str, rows)), unit, hover, limit), 1, panel)
    grid_axes(figure, "layer", "")
    figure.update_yaxes(title=place, col=1)
    colour_bar(figure, unit, limit)
    said = title or f"Modules of the {sites[0].partition('.')[0]} stack by {place} and layer"
    size = (200 + len(sites) * max(150, 34 * len(layers)), max(330, 190 + 30 * len(rows)))
    return finish(figure, said, "", size)


def profile(profile: Any, *, metric: str = "prob_change", title: str | None = None) -> "Figure":
    """Profiles over layers: bars of each layer's share of all effect, or lines of what a knockout changes.

    Bars have intervals, and the centre of mass is a line with its interval as a band. Lines have bands: intervals over
    clusters of pairs.

    Args:
        profile: A result of `circuits.layer_profile`, or a mapping of conditions' names to such results; or a result of
            `patching.knockout`.
        metric: Of a knockout, the variable that is drawn.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: It is neither.
        ValueError: A result has no `share` by layer, or no result is given; or a knockout has no such metric, or heads.
    """
    from plotly.graph_objects import Bar, Figure

    if isinstance(profile, xr.Dataset) and "flow" in profile.dims:
        return _flows(profile, metric, title)
    several = profile if isinstance(profile, Mapping) and not isinstance(profile, xr.Dataset) else {"": profile}
    if not several:
        raise ValueError("viz.profile got no results: expected a result of circuits.layer_profile, or several by name")
    figure = Figure()
    for number, (name, result) in enumerate(several.items()):
        _check_profile(result, name)
        share, colour = result["share"], LINE_COLOURS[number % len(LINE_COLOURS)]
        pattern = {"shape": PATTERNS[number % len(PATTERNS)], "fgcolor": "white", "size": 6}
        figure.add_trace(
            Bar(
                x=result["layer"].values,
                y=share.values,
                name=escape(str(name)),
                error_y=_interval(result),
                marker={"color": colour, "line": {"color": INK, "width": 1}, "pattern": pattern},
                hovertemplate=f"{escape(str(name))}<br>layer %{{x}}: %{{y:.1%}}<extra></extra>",
            )
        )
        _centre(figure, result, colour, len(several) == 1)
    legend = {"orientation": "h", "y": -0.2}
    figure.update_layout(barmode="group", bargap=0.3, showlegend=len(several) > 1, legend=legend)
    figure.update_xaxes(title="layer", dtick=1, showgrid=False)
    figure.update_yaxes(title="share of all |effect|", tickformat=".0%", rangemode="tozero", gridcolor="#e4e7ec")
    first = next(iter(several.values()))
    return finish(figure, title or "Effect by layer", _centre_said(first) if len(several) == 1 else "", (680, 420))


def _flows(lost: xr.Dataset, metric: str, title: str | None) -> "Figure":
    """Lines of a knockout by layer, one for each flow, with intervals over clusters of pairs."""
    from plotly.graph_objects import Figure, Scatter

    from notice_lens.stats.clusters import clusters_of
    from notice_lens.stats.intervals import ratio_of_sums

    valid = [str(name) for name, values in lost.data_vars.items() if {"flow", "layer"} <= set(values.dims)]
    if metric not in valid:
        raise ValueError(one_of("metric of this knockout", metric, valid))
    if "head" in lost.dims:
        raise ValueError("viz.profile draws flow x layer, and this knockout has 'head' too: take lost.sel(head=0)")
    values = lost[metric].transpose("pair", "flow", "layer").values.astype(float)
    labels = clusters_of(lost)
    interval = ratio_of_sums(values, np.ones(len(values)), labels)
    layers, share = lost["layer"].values, metric in ("prob_change", "answer_prob", "patching_effect", "accuracy")
    figure = Figure()
    for number, flow in enumerate(map(str, lost["flow"].values)):
        colour, name = LINE_COLOURS[number % len(LINE_COLOURS)], escape(flow)
        mean, low, high = (part[number] for part in (interval.mean, interval.low, interval.high))
        figure.add_trace(around(layers, low, high, colour, name))
        form = ".1%" if share else ".3g"
        figure.add_trace(
            Scatter(
                x=layers,
                y=mean,
                name=name,
                legendgroup=name,
                mode="lines+markers",
                line={"color": colour, "dash": DASHES[number % len(DASHES)]},
                customdata=np.stack([low, high], -1),
                hovertemplate=f"{name}<br>layer %{{x}}: %{{y:{form}}} "
                f"(%{{customdata[0]:{form}}} to %{{customdata[1]:{form}}})<extra></extra>",
            )
        )
    figure.update_layout(legend={"orientation": "h", "y": -0.2}, showlegend=True)
    figure.update_xaxes(
        title="layer in the middle of the window", dtick=max(1, len(layers) // 12), showgrid=False, zeroline=False
    )
    named = KNOCKED.get(metric, metric)
    figure.update_yaxes(title=named, tickformat=".0%" if share else None, gridcolor="#e4e7ec", zerolinecolor=INK)
    n_pairs, n_clusters = len(values), len(set(labels.tolist()))
    said = f"mean over {n_pairs} pairs in {n_clusters} clusters, with 95 % intervals"
    return finish(figure, title or "Attention knockout by layer", said, (720, 440))


def paths(
    effects: Any, *, metric: str | None = None, top: int = 24, title: str | None = None, **where: Any
) -> "Figure":
    """Senders down, receivers across: what is restored when one talks to the other, signed and symmetric about zero.

    Args:
        effects: Dims sender_layer, sender_head, receiver_layer, receiver_head (and pair). Without receivers, or
            with one chosen by `receiver_layer=3, receiver_head=1`, senders are drawn as layer x head.
        metric: A variable of it; None takes `patching_effect`.
        top: How many senders and receivers at most: those with the largest effects, in the order of the network.
        title: The title; None for a description of the figure.
        **where: Which label of a dimension that is left, such as `role="noun"`; the role is `correct` otherwise, or
            `all` where there are no roles.

    Raises:
        TypeError: `effects` is not an xarray object.
        ValueError: There is no such metric, dimension or label, or one has to be chosen.
    """
    from plotly.graph_objects import Figure

    left = [dim for dim in getattr(effects, "dims", ()) if dim not in where]
    senders, receivers = (tuple(f"{side}_{dim}" for dim in ("layer", "head")) for side in ("sender", "receiver"))
    across = tuple(dim for dim in receivers if dim in left)
    values = averaged(effects, metric, where, senders + across, "paths")
    if not across:
        named = values.rename({"sender_layer": "layer", "sender_head": "head"})
        return heads(named, title=title or "Senders")
    flat = values.stack(sender=senders, receiver=across, create_index=False).transpose("sender", "receiver")
    rows, columns = _strongest(flat, "sender", top), _strongest(flat, "receiver", top)
    drawn = flat.isel(sender=rows, receiver=columns)
    down, right = _names(drawn, "sender", senders), _names(drawn, "receiver", across)
    unit, limit = unit_of(values.name), bound(drawn)
    hover = [
        [
            f"<b>{sender} → {receiver}</b><br>{unit.text(drawn.values[i, j])} {unit.name}"
            for j, receiver in enumerate(right)
        ]
        for i, sender in enumerate(down)
    ]
    figure = Figure(cells(drawn, right, down, unit, hover, limit))
    colour_bar(figure, unit, limit)
    grid_axes(figure, "receiver", "sender")
    # The head below its layer: beside each other, labels of large models run into their neighbours'.
    below = [name.replace(".", "<br>") for name in right]
    figure.update_xaxes(tickmode="array", tickvals=right, ticktext=below)
    dropped = len(down) < flat.sizes["sender"] or len(right) < flat.sizes["receiver"]
    note = f"the {len(down)} senders and {len(right)} receivers with the largest effects" if dropped else ""
    return finish(figure, title or "Paths", note, (max(480, 220 + 38 * len(right)), max(340, 206 + 28 * len(down))))


def _module(site: str) -> str:
    """Return the title of a site of `patch_modules`."""
    return next((title for part, title in TITLES.items() if site.endswith(f"hook_{part}")), site)


def _check_profile(result: Any, name: str) -> None:
    of = f" of {name!r}" if name else ""
    if not isinstance(result, xr.Dataset):
        raise TypeError(f"viz.profile takes a result of circuits.layer_profile; got {type(result).__name__}{of}")
    if "share" not in result or result["share"].dims != ("layer",):
        has = ", ".join(map(str, result.data_vars)) or "no variables"
        raise ValueError(f"viz.profile draws `share` by layer; the result{of} has {has}")


def _interval(result: xr.Dataset) -> dict[str, Any] | None:
    if "low" not in result or "high" not in result:
        return None
    share = result["share"].values
    up, down = result["high"].values - share, share - result["low"].values
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": INK, "thickness": 1.5}


def _centre(figure: "Figure", result: xr.Dataset, colour: str, alone: bool) -> None:
    if "centre_of_mass" not in result or not np.isfinite(result["centre_of_mass"]):
        return
    if alone and "centre_low" in result:
        low, high = float(result["centre_low"]), float(result["centre_high"])
        figure.add_vrect(x0=low, x1=high, fillcolor=FRAME, opacity=0.35, line_width=0, layer="below")
    figure.add_vline(x=float(result["centre_of_mass"]), line={"color": colour, "width": 2, "dash": "dash"})


def _centre_said(result: xr.Dataset) -> str:
    if "centre_of_mass" not in result:
        return ""
    said = f"dashed: centre of mass, layer {float(result['centre_of_mass']):.2f}"
    if "centre_low" in result:
        said += f" [{float(result['centre_low']):.2f}, {float(result['centre_high']):.2f}]"
    if "middle_share" in result:
        said += f"; middle layers {float(result['middle_share']):.0%}"
        if "middle_low" in result:
            said += f" [{float(result['middle_low']):.0%}, {float(result['middle_high']):.0%}]"
    return said + (f", p = {float(result['middle_p']):.2g}" if np.isfinite(result.get("middle_p", np.nan)) else "")


def _strongest(flat: xr.DataArray, dim: str, top: int) -> Any:
    """The labels' numbers with the largest effects, in their own order."""
    other = "receiver" if dim == "sender" else "sender"
    sizes = abs(flat).max(other).fillna(-1).values
    return np.sort(np.argsort(-sizes, kind="stable")[: max(1, top)])


def _names(drawn: xr.DataArray, dim: str, levels: tuple[str, ...]) -> list[str]:
    """`L3.H1` for each sender or receiver; `L3` where it has no head."""
    parts = [drawn[level].values.tolist() for level in levels]
    letters = ["LH"[level.endswith("head")] for level in levels]
    return [
        ".".join(f"{letter}{value}" for letter, value in zip(letters, row, strict=True))
        for row in zip(*parts, strict=True)
    ]
