"""The figure of a circuit's graph: from the image and the words, through the heads by layer, to the answer."""

from typing import TYPE_CHECKING, Any

import xarray as xr

from notice_lens.viz.graph_layout import LEAST, TOP, DrawnEdge, GraphLayout, short_name
from notice_lens.viz.marked_text import escape
from notice_lens.viz.theme import DIVERGING, INK, QUIET, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORWARDS, BACKWARDS = DIVERGING[3][1], DIVERGING[1][1]
COLUMN_WIDTH, ROW_HEIGHT = 150, 58
"""Distances between nodes, in pixels."""


def circuit(graph: Any, *, least: float = LEAST, top: int = TOP, title: str | None = None) -> "Figure":
    """Draw the graph of a circuit: regions and words on the left, heads by layer, the answer on the right.

    An edge is as wide as its effect is large; a dashed red one works against the answer. Of the edges between two nodes
    (by queries, keys and values) the largest is drawn, and all are listed where the pointer is.

    Args:
        graph: A result of `circuits.circuit_graph`.
        least: Edges of a smaller share of the gap are left out, and so are those whose interval holds 0.
        top: How many edges at most: the largest.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: It is something else.
        ValueError: It is the result of another function, `least` is out of range, or `top` is below 1.
    """
    from plotly.graph_objects import Figure, Scatter

    if not isinstance(graph, xr.Dataset):
        raise TypeError(f"viz.circuit takes a result of circuits.circuit_graph; got {type(graph).__name__}")
    lacking = {"source", "target", "via", "effect", "effect_low", "effect_high", "node", "layer"} - {
        *map(str, graph.variables)
    }
    if lacking:
        raise ValueError(f"viz.circuit draws a result of circuits.circuit_graph; this one lacks {min(lacking)!r}")
    if not 0 <= least < 1:
        raise ValueError(f"least={least}: expected a share of the gap, from 0 to below 1")
    if top < 1:
        raise ValueError(f"top={top}: expected a number of edges, 1 or more")
    layout = GraphLayout(graph, least, top)
    edges, places = layout.edges, layout.places
    figure = Figure()
    # The largest last, so that they lie above the others.
    for edge in reversed(edges):
        _draw(figure, edge, layout)
    for x, y, text in layout.numbers:
        figure.add_annotation(
            x=x, y=y, text=escape(text), showarrow=False, font={"size": 10, "color": INK},
            bgcolor="rgba(255,255,255,.8)", borderpad=1,
        )  # fmt: skip
    heads = [str(name) for name in graph["node"].values]
    figure.add_trace(
        Scatter(
            x=[places[name][0] for name in heads],
            y=[places[name][1] for name in heads],
            mode="markers+text",
            text=[escape(short_name(name)) for name in heads],
            textfont={"size": 11, "color": INK},
            marker={"size": 44, "color": "white", "line": {"color": INK, "width": 1.5}},
            hovertext=[escape(name) for name in heads],
            hoverinfo="text",
            cliponaxis=False,
        )
    )
    _ends(figure, layout)
    _axes(figure, layout)
    columns = len({place[0] for place in places.values()})
    rows = max((sum(other[0] == place[0] for other in places.values()) for place in places.values()), default=1)
    shown = f"edges of {least:.0%} of the gap and more whose interval does not hold 0" if least else "all clear edges"
    left = f", the {top} largest" if len(edges) == top else ""
    pairs, clusters = graph.attrs.get("pairs"), graph.attrs.get("clusters")
    about = f"{shown}{left}; {pairs} pairs" + (f" in {clusters} clusters" if clusters != pairs else "")
    size = (220 + COLUMN_WIDTH * columns, 190 + ROW_HEIGHT * max(rows, 4))
    return finish(figure, title or "What the heads of the circuit read, tell each other, and write", about, size)


def _draw(figure: "Figure", edge: DrawnEdge, layout: GraphLayout) -> None:
    from plotly.graph_objects import Scatter

    x, y = layout.curve(edge)
    positive = edge.effect > 0
    line = {
        "width": layout.thickness(edge),
        "color": FORWARDS if positive else BACKWARDS,
        "dash": "solid" if positive else "dash",
    }
    said = "<br>".join([f"<b>{escape(edge.name)}</b>", *map(escape, edge.lines)])
    figure.add_trace(Scatter(x=x, y=y, mode="lines", line=line, opacity=0.75, hovertext=said, hoverinfo="text"))


def _ends(figure: "Figure", layout: GraphLayout) -> None:
    """Write what is read from, and the answer."""
    for x, y, kind, name in layout.ends:
        before = f"<span style='color:{QUIET}'>{kind}: </span>" if kind else ""
        figure.add_annotation(
            x=x, y=y, text=f"{before}<b>{escape(name)}</b>", showarrow=False, xanchor="right" if kind else "left",
            font={"size": 12, "color": INK}, bgcolor="white", borderpad=3,
        )  # fmt: skip


def _axes(figure: "Figure", layout: GraphLayout) -> None:
    """Name the layers below their columns."""
    named, places = layout.layers, layout.places
    last = max(place[0] for place in places.values())
    heights = [place[1] for place in places.values()]
    plain = {"showgrid": False, "zeroline": False, "showline": False}
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(tickvals=list(named), ticktext=list(named.values()), range=[-0.75, last + 0.55], **plain)
    figure.update_yaxes(showticklabels=False, range=[min(heights) - 0.8, max(heights) + 0.8], **plain)
