"""The look of the Plotly figures: signed heat maps that can still be read in black and white, titles, units.

Blue is above zero and red below, with the same darkness for the same size, so a print without colour needs the sign as
well: cells have their number in them where there is room, and a minus sign where there is not. What stands out has an
outline: full where it is significant, dotted where it passes the two-sigma rule alone.
"""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import MINUS, Unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DIVERGING = [[0.0, "#7f1d1d"], [0.25, "#dc6b57"], [0.5, "#fafafa"], [0.75, "#5b94cf"], [1.0, "#123a6f"]]
INK, QUIET, FRAME = "#1c2024", "#5b646e", "#c4cad1"
LINE_COLOURS = ("#123a6f", "#b45309", "#4d7c0f", "#7e22ce", "#0e7490", "#475569")
WIDTH_OF_SMALL, HEIGHT_OF_SMALL = 5.6, 16
"""Pixels: of a letter of a subtitle on average, and of a line."""
ROOM = 400
"""Cells: with no more, their numbers are written into them."""
FAINT = 0.05
"""Of the largest: below that a cell gets no minus sign, since one could not be told from zero."""


def cells(
    values: Any, columns: Sequence[str], rows: Sequence[str], unit: Unit, hover: Sequence[Sequence[str]], limit: float
) -> Any:
    """A signed heat map's trace, on the figure's colour axis, with signs for black and white.

    Args:
        values: Numbers [row, column]; NaN stays empty.
        columns: Labels.
        rows: Labels.
        unit: Of the numbers.
        hover: What each cell tells, escaped; [row, column].
        limit: The end of the colour scale.
    """
    from plotly.graph_objects import Heatmap

    return Heatmap(
        z=np.asarray(values, float),
        x=[escape(str(each)) for each in columns],
        y=[escape(str(each)) for each in rows],
        text=_marks(np.asarray(values, float), unit, limit),
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=np.array(hover, dtype=object),
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        coloraxis="coloraxis",
    )


def _marks(values: Any, unit: Unit, limit: float) -> list[list[str]]:
    """Return the text of each square of a heat map."""
    if values.size <= ROOM:
        return [[_short(value, unit, limit) for value in row] for row in values]
    return [[MINUS if value < -FAINT * limit else "" for value in row] for row in values]


def _short(value: float, unit: Unit, limit: float) -> str:
    if not np.isfinite(value):
        return ""
    if unit.form.endswith("%"):
        rounded = round(100 * float(value), digits := _digits(limit))
        return "0" if rounded == 0 else f"{rounded:.{digits}f}".replace("-", MINUS)
    return format(value, ".2g").replace("-", MINUS).replace("+", "")


def outlined(figure: "Figure", places: Iterable[Any], *, dotted: bool = False, **axes: str) -> None:
    """Draw a frame around cells.

    Args:
        figure: The figure to draw on.
        places: Row and column of each, from 0.
        dotted: Whether the frame is dotted.
        **axes: `xref` and `yref` of the heat map.
    """
    line = {"color": INK, "width": 2.5 if not dotted else 1.5, "dash": "dot" if dotted else "solid"}
    for row, column in places:
        box = {"x0": column - 0.48, "x1": column + 0.48, "y0": row - 0.48, "y1": row + 0.48}
        figure.add_shape(type="rect", line=line, layer="above", **box, **axes)


def around(x: Any, low: Any, high: Any, colour: str, group: str, opacity: float = 0.15) -> Any:
    """Return the trace of a band around a line, of the same group of the legend and without an entry of its own.

    Args:
        x: Places along the line, in their order.
        low: The lower end at each.
        high: The upper end at each.
        colour: Of the band.
        group: The line's.
        opacity: Of the band.
    """
    from plotly.graph_objects import Scatter

    return Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        mode="lines",
        fillcolor=colour,
        opacity=opacity,
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
    )


def finish(figure: "Figure", title: str, subtitle: str = "", size: tuple[int, int] = (640, 420)) -> "Figure":
    """Title, size in pixels, fonts and background, the same for all figures; returns the figure.

    A subtitle that is longer than the figure is wide goes on below, and the figure grows by that: Plotly would cut it.
    """
    heading: dict[str, Any] = {"text": escape(title), "x": 0.01, "xanchor": "left", "font": {"size": 17}}
    lines = wrap(subtitle, int(size[0] / WIDTH_OF_SMALL))
    more = HEIGHT_OF_SMALL * max(0, len(lines) - 1)
    if lines:
        heading["subtitle"] = {"text": "<br>".join(map(escape, lines)), "font": {"size": 12, "color": QUIET}}
    if more:  # fixed from the top, since the title's default place moves with its height
        heading |= {"y": 1 - 24 / (size[1] + more), "yanchor": "top"}
    figure.update_layout(
        title=heading,
        width=size[0],
        height=size[1] + more,
        margin={"l": 70, "r": 30, "t": 84 + more, "b": 60},
        font={"size": 13, "color": INK},
        template="plotly_white",
    )
    return figure


def _digits(limit: float) -> int:
    """Decimals of percents: single paths are often worth less than one percent each."""
    return 0 if limit >= 0.1 else 1 if limit >= 0.01 else 2


def colour_bar(figure: "Figure", unit: Unit, limit: float) -> None:
    """The colour axis of signed numbers: symmetric about zero, named, in their unit."""
    words = unit.name.split(" ")
    lines = [" ".join(words[start : start + 2]) for start in range(0, len(words), 2)]
    figure.update_layout(
        coloraxis={
            "colorscale": DIVERGING,
            "cmin": -limit,
            "cmax": limit,
            "colorbar": {
                "title": {"text": "<br>".join(escape(line) for line in lines), "font": {"size": 12}},
                "tickformat": unit.form.replace(".1%", f".{_digits(limit)}%"),
                "outlinewidth": 1,
                "outlinecolor": FRAME,
                "thickness": 14,
            },
        }
    )


def grid_axes(figure: "Figure", columns: str, rows: str, **where: Any) -> None:
    """Axes of a heat map: each label once, the first row on top."""
    plain = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", "showline": False}
    figure.update_xaxes(title=columns, tickangle=0, **plain, **where)
    figure.update_yaxes(title=rows, autorange="reversed", **plain, **where)
