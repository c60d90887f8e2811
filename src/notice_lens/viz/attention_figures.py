"""Attention of a head over the images of a pair, side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.pairs.roles import ALL, CORRECT, missing_role
from notice_lens.report.image_bytes import CRISP, data_uri, shrunk
from notice_lens.report.maps import RUNS
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import MINUS, chosen
from notice_lens.viz.theme import QUIET, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from notice_lens.pairs import MinimalPairs
    from notice_lens.pairs.minimal_pair import MinimalPair

WIDTH = 320
"""Pixels of each image in the figure."""
SEQUENTIAL = [
    [0.0, "rgba(12,8,38,0.5)"],
    [0.35, "rgba(120,28,109,0.6)"],
    [0.65, "rgba(237,105,37,0.7)"],
    [1.0, "rgba(252,250,150,0.8)"],
]
RELATIVE = [[0.0, "rgba(31,78,158,0.8)"], [0.5, "rgba(250,250,250,0.15)"], [1.0, "rgba(194,65,12,0.8)"]]


def attention(
    maps: Any,
    pairs: "MinimalPairs",
    pair: Any = 0,
    layer: int | None = None,
    head: int | None = None,
    *,
    role: str | None = None,
    relative: bool = False,
    title: str | None = None,
) -> "Figure":
    """Overlays of a head's attention on the images of a pair; the share that lies on no patch is given separately.

    Args:
        maps: An array [pair, role, layer, head, patch], with `run` or without, with the coordinate `elsewhere`, as
            `ReportData.maps` gives it; or what `circuits.attention_maps` gives, of which attention is drawn; or several
            of these by run: `clean`, `image`, `text`.
        pairs: The pairs that they are of.
        pair: Its number, or its id.
        layer: Of the head, from 0.
        head: Its number in the layer, from 0.
        role: Which words ask; None takes `correct`, or `all` where the maps have no such role.
        relative: Whether the mean over all layers and heads is taken off: what this head looks at more (orange) or
            less (blue, with a minus sign) than others. For display alone: it sums to zero over heads, so one that looks
            everywhere alike seems to avoid what others look at.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: `maps` is not one of these, or layer or head is missing.
        ValueError: There is no such pair, role, layer or head, or the pair has no map there.
    """
    from plotly.subplots import make_subplots

    maps = _one_array(maps)
    if layer is None or head is None:
        raise TypeError(f"viz.attention draws one head; got layer={layer}, head={head}: give both, from 0 on")
    of = _found(pairs, pair)
    role = _role(maps, role)
    shown = chosen(chosen(maps, "pair", of.id), "role", role)
    if relative:
        shown = shown - shown.mean(("layer", "head")).drop_vars("elsewhere", errors="ignore")
    tokens = chosen(chosen(maps, "pair", of.id), "role", role).coords.get("elsewhere")
    shown = chosen(chosen(shown, "layer", layer), "head", head)
    shown = shown if "run" in shown.dims else shown.expand_dims(run=["clean"])
    if not np.isfinite(shown).any():
        raise ValueError(f"pair {of.id!r} has no attention map at the role {role!r}: its question has no such word")
    runs = [str(run) for run in shown["run"].values]
    panels = [(run, _view(of, run)) for run in runs] + ([("", _view(of, "image"))] if runs == ["clean"] else [])
    beside = str(maps.attrs.get("beside", "outside the image"))
    names = [_caption(run, view, of, (beside, tokens), layer, head) for run, view in panels]
    figure = make_subplots(1, len(panels), subplot_titles=names, horizontal_spacing=0.04)
    for column, (run, (image, _)) in enumerate(panels, 1):
        figure.add_trace(_picture(image), 1, column)
        if run:
            figure.add_trace(_overlay(shown.sel(run=run), _grid(maps), image, relative), 1, column)
    _axes(figure, [image for _, (image, _) in panels])
    figure.update_layout(coloraxis=_scale(float(np.nanmax(np.abs(shown.values))) or 1.0, relative))
    words = (
        f"asked at “{_words(of, role)}” (role {role})"
        if role in of.roles
        else f"asked at {'all words' if role == ALL else role}"
    )
    said = title or f"L{layer}.H{head}: where it looks, {words}"
    tall = max(image.height * WIDTH / image.width for _, (image, _) in panels)
    return finish(
        figure, said, of.clean_prompt, (round(len(panels) * (WIDTH + 14) + 210), round(tall + 235))
    ).update_layout(margin_t=165)


def _role(maps: xr.DataArray, asked: str | None) -> str:
    """The role asked for; by default `correct`, or else `all`."""
    roles = list(map(str, maps["role"].values)) if "role" in maps.dims else []
    found = asked if asked is not None else next((role for role in (CORRECT, ALL) if role in roles), CORRECT)
    if roles and found not in roles:
        raise ValueError(missing_role(found, roles))
    return found


def _scale(limit: float, relative: bool) -> dict[str, Any]:
    """The colour axis of attention, or of attention minus the mean of heads."""
    unit = "attention minus<br>mean of heads" if relative else "share of<br>attention"
    scale = {"colorscale": RELATIVE if relative else SEQUENTIAL, "cmin": -limit if relative else 0.0, "cmax": limit}
    bar = {"title": {"text": unit, "font": {"size": 12}}, "tickformat": "+.1%" if relative else ".1%", "thickness": 14}
    return {**scale, "colorbar": bar}


def _one_array(maps: Any) -> xr.DataArray:
    """Maps in any of their forms as one array with the coordinate `elsewhere`, where they say it."""
    if isinstance(maps, Mapping) and not isinstance(maps, xr.Dataset) and maps:
        for run in maps:
            if run not in RUNS:
                raise ValueError(one_of("run", run, RUNS))
        runs = xr.IndexVariable("run", list(maps))
        return xr.concat([_one_array(each) for each in maps.values()], runs, join="outer", combine_attrs="override")
    if isinstance(maps, xr.Dataset) and "weight" in maps:
        kinds = maps.sel(maps="attention") if "maps" in maps.dims else maps
        array = kinds["weight"].drop_vars("maps", errors="ignore").assign_attrs(maps.attrs)
        return array.assign_coords(elsewhere=kinds["elsewhere"].variable) if "elsewhere" in maps else array
    if isinstance(maps, xr.DataArray) and "patch" in maps.dims:
        return maps
    raise TypeError(
        f"viz.attention takes attention maps, an array with a dimension `patch`; got {_said(maps)}. "
        "circuits.attention_maps(model, pairs) makes them"
    )


def _said(maps: Any) -> str:
    return f"dimensions {', '.join(map(str, maps.dims))}" if isinstance(maps, xr.DataArray) else type(maps).__name__


def _found(pairs: "MinimalPairs", pair: Any) -> "MinimalPair":
    """The pair with a number or id."""
    if isinstance(pair, int | np.integer):
        if not -len(pairs) <= pair < len(pairs):
            raise ValueError(f"pair {pair} asked for; there are {len(pairs)}, from 0 on")
        return pairs[int(pair)]
    ids = pairs["id"]
    if pair not in ids:
        raise ValueError(one_of("pair", pair, ids[:20]))
    return pairs[ids.index(pair)]


def _view(pair: "MinimalPair", run: str) -> tuple[Any, str]:
    """Return the image of a run, and its name."""
    image = RUNS[run][0]
    return getattr(pair, f"{image}_image"), {"clean": "clean", "image": "corrupted image", "text": "corrupted prompt"}[
        run
    ]


def _caption(
    run: str, view: tuple[Any, str], pair: "MinimalPair", aside: tuple[str, Any], layer: int, head: int
) -> str:
    """What a picture is, and how much of the attention lies on no patch of it, and on what instead."""
    beside, tokens = aside
    answer = {"clean": pair.correct_answer, "image": pair.incorrect_answer, "text": pair.corrupt_answer or ""}[
        run or "image"
    ]
    said = f"{view[1]}: <b>{escape(answer)}</b>" if answer else view[1]
    if not run or tokens is None:
        return said
    share = chosen(chosen(tokens, "layer", layer), "head", head)
    share = float(share.sel(run=run) if "run" in share.dims else share)
    return f'{said}<br><span style="color:{QUIET};font-size:12px">{escape(beside)} {share:.1%}</span>'


def _words(pair: "MinimalPair", role: str) -> str:
    start, end = pair.roles[role]
    return pair.clean_prompt[start:end]


def _grid(maps: xr.DataArray) -> tuple[int, int]:
    """Rows and columns of patches."""
    if "grid" in maps.attrs:
        rows, columns = maps.attrs["grid"]
        return int(rows), int(columns)
    side = round(maps.sizes["patch"] ** 0.5)
    if side * side != maps.sizes["patch"]:
        raise ValueError(
            f"{maps.sizes['patch']} patches do not form a square; the attribute `grid` says their rows and columns"
        )
    return side, side


def _picture(image: Any) -> Any:
    from plotly.graph_objects import Image as Picture

    small = shrunk(image)
    crisp = max(small.size) <= CRISP
    step = {"dx": image.width / small.width, "dy": image.height / small.height}
    return Picture(source=data_uri(small), hoverinfo="skip", zsmooth=False if crisp else "fast", **step)


def _overlay(values: Any, grid: tuple[int, int], image: Any, relative: bool) -> Any:
    """The map stretched over its image, which models read stretched to a square."""
    from plotly.graph_objects import Heatmap

    table = np.asarray(values).reshape(grid)
    high, wide = image.height / grid[0], image.width / grid[1]
    largest = np.nanmax(np.abs(table)) if np.isfinite(table).any() else 1.0
    marks = [[MINUS if relative and value < -0.1 * largest else "" for value in row] for row in table]
    return Heatmap(
        z=table,
        x=(np.arange(grid[1]) + 0.5) * wide - 0.5,
        y=(np.arange(grid[0]) + 0.5) * high - 0.5,
        text=marks,
        texttemplate="%{text}",
        coloraxis="coloraxis",
        customdata=np.moveaxis(np.indices(grid), 0, -1),
        hovertemplate="patch row %{customdata[0]}, column %{customdata[1]}<br>%{z:.2%}<extra></extra>",
    )


def _axes(figure: "Figure", images: list[Any]) -> None:
    """Axes in pixels of each image, square, without ticks."""
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "constrain": "domain"}
    for column, image in enumerate(images, 1):
        figure.update_xaxes(range=[-0.5, image.width - 0.5], col=column, **bare)
        anchor = "x" if column == 1 else f"x{column}"
        figure.update_yaxes(range=[image.height - 0.5, -0.5], scaleanchor=anchor, col=column, **bare)
