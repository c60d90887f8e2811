"""The figure of a circuit's graph: from the image and the words, through the heads by layer, to the answer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from notice_lens.circuits.graph import ANSWER
from notice_lens.patching.positions import IN_IMAGE
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import SHARE
from notice_lens.viz.theme import DIVERGING, INK, QUIET, finish

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORWARDS, BACKWARDS = DIVERGING[3][1], DIVERGING[1][1]
WIDEST, NARROWEST = 11.0, 1.2
"""Widths of edges, in pixels."""
LABELLED_EDGES = 8
"""So many of the largest edges have their number written beside them."""
COLUMN_WIDTH, ROW_HEIGHT = 150, 58
"""Distances between nodes, in pixels."""
POINTS = 24
"""Of the curve of an edge."""
INPUTS = {"q": "its queries", "k": "its keys", "v": "its values", "mlp": "the MLP's input", "": "the logits"}
"""The inputs of a node, in words."""


class _Drawn(NamedTuple):
    """An edge that is drawn: the largest of those between two nodes.

    Attributes:
        source: Where it starts.
        target: Where it ends.
        effect: Share of the gap.
        said: What is shown on hovering, one line for each input.
    """

    source: str
    target: str
    effect: float
    said: str


def circuit(graph: Any, *, least: float = 0.01, top: int = 40, title: str | None = None) -> "Figure":
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
    edges = _edges(graph, least)[:top]
    places = _places(graph, edges)
    widest = max((abs(edge.effect) for edge in edges), default=1.0)
    figure = Figure()
    # The largest last, so that they lie above the others.
    for edge in reversed(edges):
        _draw(figure, edge, places, widest)
    _numbers(figure, edges[:LABELLED_EDGES], places)
    heads = [str(name) for name in graph["node"].values]
    figure.add_trace(
        Scatter(
            x=[places[name][0] for name in heads],
            y=[places[name][1] for name in heads],
            mode="markers+text",
            text=[escape(name.split(".", 2)[-1] if name.count(".") > 2 else name) for name in heads],
            textfont={"size": 11, "color": INK},
            marker={"size": 44, "color": "white", "line": {"color": INK, "width": 1.5}},
            hovertext=[escape(name) for name in heads],
            hoverinfo="text",
            cliponaxis=False,
        )
    )
    _ends(figure, graph, places)
    _axes(figure, graph, places)
    columns = len({place[0] for place in places.values()})
    rows = max((sum(other[0] == place[0] for other in places.values()) for place in places.values()), default=1)
    shown = f"edges of {least:.0%} of the gap and more whose interval does not hold 0" if least else "all clear edges"
    left = f", the {top} largest" if len(edges) == top else ""
    about = f"{shown}{left}; {graph.attrs.get('pairs')} pairs in {graph.attrs.get('clusters')} clusters"
    size = (220 + COLUMN_WIDTH * columns, 190 + ROW_HEIGHT * max(rows, 4))
    return finish(figure, title or "What the heads of the circuit read, tell each other, and write", about, size)


def _edges(graph: xr.Dataset, least: float) -> list[_Drawn]:
    """Return the edges that are drawn, the largest first."""
    between: dict[tuple[str, str], list[int]] = {}
    for number, ends in enumerate(zip(graph["source"].values, graph["target"].values, strict=True)):
        between.setdefault((str(ends[0]), str(ends[1])), []).append(number)
    effect, low, high = (graph[name].values for name in ("effect", "effect_low", "effect_high"))
    found = []
    for (source, target), numbers in between.items():
        clear = [n for n in numbers if abs(effect[n]) >= max(least, 1e-12) and (low[n] > 0 or high[n] < 0)]
        if clear:
            largest = max(clear, key=lambda n: abs(effect[n]))
            lines = [
                f"{INPUTS[str(graph['via'].values[n])]}: {SHARE.text(effect[n])} "
                f"[{SHARE.text(low[n])}, {SHARE.text(high[n])}]"
                for n in sorted(numbers, key=lambda n: -abs(np.nan_to_num(effect[n])))
            ]
            said = "<br>".join([f"<b>{escape(source)} → {escape(target)}</b>", *lines])
            found.append(_Drawn(source, target, float(effect[largest]), said))
    return sorted(found, key=lambda edge: -abs(edge.effect))


def _places(graph: xr.Dataset, edges: Sequence[_Drawn]) -> dict[str, tuple[float, float]]:
    """Return where each node is: a column for what is read, one for each layer, one for the answer."""
    names = [str(name) for name in graph["node"].values]
    layers = graph["layer"].values.tolist()
    stacks = [name.partition(".")[0] for name in names]
    order = sorted(dict.fromkeys(zip(stacks, layers, strict=True)), key=lambda one: _first(stacks, layers, one))
    read = {edge.source for edge in edges}
    columns: list[list[str]] = [[name for name in (*_read_from(graph),) if name in read]]
    columns += [[name for name, *one in zip(names, stacks, layers, strict=True) if tuple(one) == at] for at in order]
    columns.append([ANSWER])
    places = {}
    for column, own in enumerate(columns):
        for row, name in enumerate(own):
            places[name] = (float(column), (len(own) - 1) / 2 - row)
    return places


def _first(stacks: Sequence[str], layers: Sequence[int], one: tuple[str, int]) -> int:
    return list(zip(stacks, layers, strict=True)).index(one)


def _read_from(graph: xr.Dataset) -> list[str]:
    """Regions, then words."""
    return [*map(str, graph.attrs.get("regions", ())), *map(str, graph.attrs.get("roles", ()))]


def _curve(source: str, target: str, places: dict[str, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve that leaves and arrives level, and goes between the nodes of the columns that it passes."""
    (x0, y0), (x1, y1) = places[source], places[target]
    stops = [(x0, y0)]
    for column in np.arange(x0 + 1, x1):
        straight = stops[-1][1] + (y1 - stops[-1][1]) / (x1 - stops[-1][0])
        taken = [y for x, y in places.values() if x == column]
        beside = [straight, *(at + by for at in taken for by in (-0.5, 0.5))]
        free = [y for y in beside if all(abs(y - at) >= 0.5 for at in taken)]
        stops.append((column, min(free, key=lambda y: abs(y - straight))))
    stops.append((x1, y1))
    t = np.linspace(0, 1, POINTS)
    smooth = t * t * (3 - 2 * t)
    parts = [
        (start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * smooth) for start, end in pairwise(stops)
    ]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _draw(figure: "Figure", edge: _Drawn, places: Any, widest: float) -> None:
    from plotly.graph_objects import Scatter

    x, y = _curve(edge.source, edge.target, places)
    positive = edge.effect > 0
    line = {
        "width": NARROWEST + (WIDEST - NARROWEST) * abs(edge.effect) / widest,
        "color": FORWARDS if positive else BACKWARDS,
        "dash": "solid" if positive else "dash",
    }
    figure.add_trace(
        Scatter(x=x, y=y, mode="lines", line=line, opacity=0.75, hovertext=edge.said, hoverinfo="text", name="")
    )


def _numbers(figure: "Figure", edges: Sequence[_Drawn], places: dict[str, tuple[float, float]]) -> None:
    """Write edges' effects on them, half-way to the next column, but where a larger edge's number is there already."""
    written: list[tuple[float, float]] = []
    for edge in edges:
        x, y = (float(along[POINTS // 2]) for along in _curve(edge.source, edge.target, places))
        if any(abs(x - there[0]) < 0.2 and abs(y - there[1]) < 0.25 for there in written):
            continue
        written.append((x, y))
        figure.add_annotation(
            x=x, y=y, text=escape(f"{edge.effect:.0%}"), showarrow=False, font={"size": 10, "color": INK},
            bgcolor="rgba(255,255,255,.8)", borderpad=1,
        )  # fmt: skip


def _ends(figure: "Figure", graph: xr.Dataset, places: dict[str, tuple[float, float]]) -> None:
    """Write what is read from, and the answer."""
    regions = {*map(str, graph.attrs.get("regions", ()))}
    for name, (x, y) in places.items():
        if name in {*map(str, graph["node"].values)}:
            continue
        kind = "" if name == ANSWER else "image: " if name in regions else "word: "
        said = escape(name.removeprefix(IN_IMAGE) if name in regions else name)
        figure.add_annotation(
            x=x, y=y, text=f"<span style='color:{QUIET}'>{kind}</span><b>{said}</b>", showarrow=False,
            xanchor="left" if name == ANSWER else "right", font={"size": 12, "color": INK}, bgcolor="white",
            borderpad=3,
        )  # fmt: skip


def _axes(figure: "Figure", graph: xr.Dataset, places: dict[str, tuple[float, float]]) -> None:
    """Name the layers below their columns."""
    named = {
        places[str(name)][0]: f"layer {layer}"
        for name, layer in zip(graph["node"].values, graph["layer"].values.tolist(), strict=True)
    }
    last = max(place[0] for place in places.values())
    heights = [place[1] for place in places.values()]
    plain = {"showgrid": False, "zeroline": False, "showline": False}
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(tickvals=list(named), ticktext=list(named.values()), range=[-0.75, last + 0.55], **plain)
    figure.update_yaxes(showticklabels=False, range=[min(heights) - 0.8, max(heights) + 0.8], **plain)
