"""The layout of a circuit's graph, for the figure and for the page: which edges are drawn, and where everything is."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import xarray as xr

from notice_lens.pairs.roles import IN_IMAGE
from notice_lens.viz.selection import SHARE

LEAST, TOP = 0.01, 40
"""Edges of a smaller share of the gap are left out by default, and so are those behind so many larger ones."""
WIDEST, NARROWEST = 11.0, 1.2
"""Widths of edges, in pixels."""
LABELLED_EDGES = 8
"""So many of the largest edges have their number written beside them."""
POINTS = 24
"""Of the curve of an edge."""
INPUTS = {"q": "its queries", "k": "its keys", "v": "its values", "mlp": "the MLP's input", "": "the logits"}
"""The inputs of a node, in words."""


class DrawnEdge(NamedTuple):
    """An edge that is drawn: the largest of those between two nodes.

    Attributes:
        source: Where it starts.
        target: Where it ends.
        effect: Share of the gap.
        low: The lower end of its interval.
        high: The upper end.
        lines: What each input of the target receives, in words, the largest first.
    """

    source: str
    target: str
    effect: float
    low: float
    high: float
    lines: tuple[str, ...]

    @property
    def name(self) -> str:
        """Both ends."""
        return f"{self.source} → {self.target}"


class EndLabel(NamedTuple):
    """What is read from, or the answer.

    Attributes:
        x: The column.
        y: The row, upwards.
        kind: `image`, `word`, or empty for the answer.
        name: Without what marks a region.
    """

    x: float
    y: float
    kind: str
    name: str


Places = Mapping[str, tuple[float, float]]
"""By node, region, word or `answer`: the column, and the row upwards, in units of their distances."""


class GraphLayout:
    """A graph, laid out.

    Args:
        graph: A result of `circuits.circuit_graph`.
        least: Edges of a smaller share of the gap are left out.
        top: How many edges at most.

    Attributes:
        edges: Those that are drawn, the largest first.
        places: Of everything that is drawn.
        numbers: Where the largest edges' effects are written: column, row, text.
        ends: What is read from, and the answer.
        layers: The name of each column of heads.
    """

    def __init__(self, graph: xr.Dataset, least: float = LEAST, top: int = TOP) -> None:
        self.edges = _drawn_edges(graph, least, top)
        self.places = _places_of(graph, self.edges)
        self.numbers = _numbers_beside(self.edges, self.places)
        self.ends = _end_labels(graph, self.places)
        self.layers = _layer_labels(graph, self.places)

    def curve(self, edge: DrawnEdge) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and rows of an edge's points."""
        return _curve_of(edge.source, edge.target, self.places)

    def thickness(self, edge: DrawnEdge) -> float:
        """Return how wide an edge is, in pixels."""
        widest = max(abs(one.effect) for one in self.edges)
        return NARROWEST + (WIDEST - NARROWEST) * abs(edge.effect) / widest


def _drawn_edges(graph: xr.Dataset, least: float, top: int) -> list[DrawnEdge]:
    """Return the edges that are drawn: those that are large enough and whose interval does not hold 0, largest first.

    Args:
        graph: A result of `circuits.circuit_graph`.
        least: Share of the gap.
        top: How many at most.
    """
    between: dict[tuple[str, str], list[int]] = {}
    for number, ends in enumerate(zip(graph["source"].values, graph["target"].values, strict=True)):
        between.setdefault((str(ends[0]), str(ends[1])), []).append(number)
    effect, low, high = (np.asarray(graph[name].values, float) for name in ("effect", "effect_low", "effect_high"))
    via = graph["via"].values
    found = []
    for (source, target), numbers in between.items():
        clear = [n for n in numbers if abs(effect[n]) >= max(least, 1e-12) and (low[n] > 0 or high[n] < 0)]
        if clear:
            largest = max(clear, key=lambda n: abs(effect[n]))
            lines = tuple(
                f"{INPUTS[str(via[n])]}: {SHARE.text(effect[n])} [{SHARE.text(low[n])}, {SHARE.text(high[n])}]"
                for n in sorted(numbers, key=lambda n: -abs(np.nan_to_num(effect[n])))
            )
            size, least_of_it, most_of_it = (float(part[largest]) for part in (effect, low, high))
            found.append(DrawnEdge(source, target, size, least_of_it, most_of_it, lines))
    return sorted(found, key=lambda edge: -abs(edge.effect))[:top]


def _places_of(graph: xr.Dataset, edges: Sequence[DrawnEdge]) -> Places:
    """Return where each node is: a column for what is read, one for each layer, one for the answer."""
    names = [str(name) for name in graph["node"].values]
    layers = graph["layer"].values.tolist()
    stacks = [name.partition(".")[0] for name in names]
    order = sorted(dict.fromkeys(zip(stacks, layers, strict=True)), key=lambda one: _first(stacks, layers, one))
    read = {edge.source for edge in edges}
    columns: list[list[str]] = [[name for name in (*_read_from(graph),) if name in read]]
    columns += [[name for name, *one in zip(names, stacks, layers, strict=True) if tuple(one) == at] for at in order]
    columns.append(list(dict.fromkeys(str(one) for one in graph["target"].values if str(one) not in names)))
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


def _curve_of(source: str, target: str, places: Places) -> tuple[np.ndarray, np.ndarray]:
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


def _numbers_beside(edges: Sequence[DrawnEdge], places: Places) -> list[tuple[float, float, str]]:
    """Return where the largest edges' effects are written: half-way to the next column, none over a larger one's."""
    found: list[tuple[float, float, str]] = []
    for edge in edges[:LABELLED_EDGES]:
        x, y = (float(along[POINTS // 2]) for along in _curve_of(edge.source, edge.target, places))
        if not any(abs(x - there[0]) < 0.2 and abs(y - there[1]) < 0.25 for there in found):
            found.append((x, y, f"{edge.effect:.0%}"))
    return found


def _end_labels(graph: xr.Dataset, places: Places) -> list[EndLabel]:
    """Return what is read from, and the answer."""
    nodes, regions = {*map(str, graph["node"].values)}, {*map(str, graph.attrs.get("regions", ()))}
    targets = {*map(str, graph["target"].values)}
    found = []
    for name, (x, y) in places.items():
        if name not in nodes:
            kind = "" if name in targets else "image" if name in regions else "word"
            found.append(EndLabel(x, y, kind, name.removeprefix(IN_IMAGE) if kind == "image" else name))
    return found


def _layer_labels(graph: xr.Dataset, places: Places) -> dict[float, str]:
    """Return the layer of each column of heads."""
    nodes = zip(graph["node"].values, graph["layer"].values.tolist(), strict=True)
    return {places[str(name)][0]: f"layer {layer}" for name, layer in nodes}


def short_name(node: str) -> str:
    """Return the name of a node without its module: `L2.H3`."""
    return ".".join(node.split(".")[2:]) or node
