"""Plotly figures. They are returned, never shown; no global renderer or template is set."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


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
