"""The page of the first demo as one HTML file that works from disk: no network, all text escaped."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def write(path: Path, **content: Any) -> Path:
    """Fills the template and writes it. Returns the path.

    Args:
        path: Where to.
        **content: What the template asks for.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("notice_lens.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path.write_text(
        environment.get_template("demo.html.j2").render(plotly=plotly_script(), **content), encoding="utf-8"
    )
    return path


def figure_html(figure: "Figure") -> Any:
    """The figure as markup that needs `plotly_script` on the same page."""
    from markupsafe import Markup

    html = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return Markup(html)


def plotly_script() -> Any:
    """Plotly's own script, so that the page needs no network."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(f"<script>{get_plotlyjs()}</script>")


def heads(share: pd.DataFrame, title: str) -> "Figure":
    """A layer x head heat map of signed effects, symmetric about zero.

    Args:
        share: Effects as shares of the gap between the unpatched runs, layers down and heads across.
        title: What it shows.
    """
    import plotly.express as px

    bound = float(share.abs().to_numpy().max()) or 1.0
    figure = px.imshow(
        share,
        color_continuous_scale="RdBu_r",
        range_color=(-bound, bound),
        labels={"x": "head", "y": "layer", "color": "share of the gap restored"},
        title=title,
        aspect="auto",
    )
    figure.update_traces(
        hovertemplate="layer %{y}, head %{x}<br>restores %{z:.1%} of the gap<extra></extra>", xgap=1, ygap=1
    )
    figure.update_xaxes(dtick=1, showgrid=False)
    figure.update_yaxes(dtick=1, showgrid=False)
    figure.update_coloraxes(colorbar={"tickformat": ".0%", "title": {"text": "share of<br>the gap<br>restored"}})
    figure.update_layout(margin={"l": 50, "r": 20, "t": 60, "b": 50}, template="plotly_white")
    return figure
