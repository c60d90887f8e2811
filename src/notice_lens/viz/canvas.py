"""A Plotly figure laid out in pixels from its top left corner, for text and pictures that stand below each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from notice_lens.viz.marked_text import Piece, lines

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WIDTHS = {2: 560.0, 3: 704.0}
"""Pixels: the width of the drawing, by columns of pictures; 64 pixels become 224 to 272."""
PICTURE_GAP, EDGE = 16.0, 20.0
"""Pixels: the space between two pictures, and the figure's edge."""
FONT, TITLE = 13, 17
SPACING = 1.3
"""Pixels of text, and Plotly's height of a line in units of them."""


class Box(NamedTuple):
    """A picture's place in the figure, and its size there in pixels (across, down)."""

    x: float
    y: float
    width: float
    height: float
    pixels: tuple[int, int]


@dataclass
class Canvas:
    """A figure under construction, in pixels from the top left corner; `y` is the top of the next item."""

    columns: int
    y: float = 0.0
    texts: list[dict[str, Any]] = field(default_factory=list)
    rules: list[float] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    traces: list[Any] = field(default_factory=list)

    @property
    def width(self) -> float:
        """The width of the drawing, in pixels."""
        return WIDTHS[self.columns]

    @property
    def cell(self) -> float:
        """The width of a column of pictures."""
        return (self.width + PICTURE_GAP) / self.columns - PICTURE_GAP

    def text(self, x: float, width: float, pieces: Sequence[Piece]) -> float:
        """Write pieces into a column from `y` on, and return their height."""
        broken = lines(pieces, width / FONT)
        self.texts.append({"x": x, "y": self.y, "text": "<br>".join(broken)})
        return SPACING * FONT * len(broken)

    def figure(self, title: str, legend: dict[str, Any] | None) -> "Figure":
        """Return the figure drawn so far, in Plotly's shares of its sides from the lower left corner."""
        from plotly.graph_objects import Figure

        across, down = self.width, self.y
        paper = {"xref": "paper", "yref": "paper"}
        text = {**paper, "showarrow": False, "align": "left", "xanchor": "left", "yanchor": "top", "borderpad": 0}
        rule = {**paper, "type": "line", "x0": 0, "x1": 1, "line": {"color": "#e4e7ec", "width": 1}}
        figure = Figure(self.traces)
        for number, box in enumerate(self.boxes, 1):
            figure.update_layout(_axes_of_box(number, box, across, down))
        figure.update_layout(
            annotations=[
                {**text, "x": each["x"] / across, "y": 1 - each["y"] / down, "text": each["text"]}
                for each in self.texts
            ],
            shapes=[{**rule, "y0": 1 - y / down, "y1": 1 - y / down} for y in self.rules],
            title={**paper, "text": title, "x": 0, "y": 1, "yanchor": "top", "font": {"size": TITLE}},
            legend={**legend, "y": 1 - legend["y"] / down} if legend else None,
            showlegend=legend is not None,
            font={"size": FONT},
            width=round(across + 2 * EDGE),
            height=round(down + 2 * EDGE),
            margin={"l": EDGE, "r": EDGE, "t": EDGE, "b": EDGE, "autoexpand": False},
            template="plotly_white",
        )
        return figure


def axes(number: int) -> dict[str, str]:
    """The axes of the picture of a number from 1 on; Plotly writes the first without it."""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"} if number > 1 else {"xaxis": "x", "yaxis": "y"}


def _axes_of_box(number: int, box: Box, across: float, down: float) -> dict[str, Any]:
    """The layout of a box's two axes, which count its picture's pixels and keep them square at any size."""
    names = axes(number)
    frame = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "constrain": "domain"}
    frame |= {"showline": True, "mirror": True, "linecolor": "#d0d5dd"}
    horizontal = {
        "domain": [box.x / across, (box.x + box.width) / across],
        "range": [-0.5, box.pixels[0] - 0.5],
        "anchor": names["yaxis"],
        "constraintoward": "left",
    }
    vertical = {
        "domain": [1 - (box.y + box.height) / down, 1 - box.y / down],
        "range": [box.pixels[1] - 0.5, -0.5],
        "anchor": names["xaxis"],
        "scaleanchor": names["xaxis"],
        "constraintoward": "top",
    }
    suffix = names["xaxis"].removeprefix("x")
    return {f"xaxis{suffix}": frame | horizontal, f"yaxis{suffix}": frame | vertical}
