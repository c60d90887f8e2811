"""The logit lens: the answer against the foil after each block, by word and region, and the heads that write it."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from notice_lens.errors import check_choice, one_of
from notice_lens.pairs.roles import IN_IMAGE
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums
from notice_lens.viz.marked_text import escape
from notice_lens.viz.selection import Unit, bound
from notice_lens.viz.theme import INK, LINE_COLOURS, around, cells, colour_bar, finish, grid_axes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from notice_lens.pairs import MinimalPairs

METRICS = {
    "logit_diff": "logit of the answer less that of the foil",
    "answer_prob": "probability of the answer",
    "foil_prob": "probability of the foil",
    "answer_logit": "logit of the answer",
    "foil_logit": "logit of the foil",
}
WRITTEN = Unit("added to the logit difference", "+.2f")
MOST_LINES = len(LINE_COLOURS)


def lens(
    model: Any,
    pairs: "MinimalPairs | None" = None,
    *,
    metric: str = "logit_diff",
    run: Literal["clean", "corrupt"] = "clean",
    roles: "str | list[str] | None" = None,
    title: str | None = None,
) -> "Figure":
    """Lines of what the stream says after each block, by word and region, beside a map of the heads that write it.

    A line above zero: there the model's own read-out would give the answer, not the foil. Bands are 95 % intervals of
    the mean over clusters of pairs, where there are several.

    Args:
        model: A `HookedVLM`, with pairs; or a result of `patching.logit_lens` alone.
        pairs: The pairs; of a single one, `pairs[3:4]`.
        metric: `logit_diff`, or `answer_prob`, `foil_prob`, `answer_logit`, `foil_logit`.
        run: Which run to read.
        roles: Which roles and regions, six at most; None takes `last`, the image, and those whose line moves most.
        title: The title; None for a description of the figure.

    Raises:
        TypeError: There are no pairs, or a single pair that is no `MinimalPairs`.
        ValueError: The model has no stream that a lens could read; there is no such metric, run or role.
    """
    from plotly.subplots import make_subplots

    reading = _reading(model, pairs, roles)
    check_choice("metric", metric, tuple(METRICS))
    check_choice("run", run, tuple(map(str, reading["run"].values)))
    own = reading.sel(run=run)
    names = _chosen(own, metric, roles)
    figure = make_subplots(1, 2, column_widths=[0.56, 0.44], horizontal_spacing=0.12)
    for number, name in enumerate(names):
        _line(figure, own[metric].sel(role=name), name, LINE_COLOURS[number], clusters_of(own))
    form = ".0%" if metric.endswith("prob") else None
    figure.update_xaxes(title="blocks passed", dtick=_step(own.sizes["blocks"]), showgrid=False, zeroline=False, col=1)
    figure.update_yaxes(title=METRICS[metric], tickformat=form, gridcolor="#e4e7ec", zerolinecolor=INK, col=1)
    _heads(figure, own)
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "x": 0, "xanchor": "left"}, showlegend=True)
    n_pairs, n_clusters = own.sizes["pair"], len(np.unique(clusters_of(own)))
    over = "one pair" if n_pairs == 1 else f"mean over {n_pairs} pairs in {n_clusters} clusters, 95 % intervals"
    note = f"{run} run, {over}; right: what each head adds at `last`"
    size = (640 + 34 * own.sizes["head"], max(420, 210 + 26 * own.sizes["layer"]))
    return finish(figure, title or "Where the answer can be read off the stream", note, size)


def _reading(model: Any, pairs: Any, roles: Any) -> xr.Dataset:
    if isinstance(model, xr.Dataset):
        if "head_logit_diff" not in model:
            there = ", ".join(map(str, model))
            raise ValueError(f"viz.lens draws a result of patching.logit_lens; this one has {there}")
        return model
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching import logit_lens

    if not isinstance(pairs, MinimalPairs):
        raise TypeError(
            f"viz.lens(model, pairs) expects MinimalPairs, got {type(pairs).__name__}; of a single pair, pairs[3:4]"
        )
    return logit_lens(model, pairs, roles=roles, progress=len(pairs) > 8)


def _chosen(own: xr.Dataset, metric: str, asked: Any) -> list[str]:
    """Return the roles that are drawn, in the order of the result."""
    there = [str(name) for name in own["role"].values]
    if asked is not None:
        names = [asked] if isinstance(asked, str) else list(asked)
        for name in names:
            if name not in there:
                raise ValueError(one_of("role of this reading", name, there))
        if len(names) > MOST_LINES:
            raise ValueError(f"{len(names)} roles asked for; expected {MOST_LINES} at most, to be told apart")
        return names
    # Before the first block a word's own embedding names it: that tells nothing of the model.
    mean = own[metric].mean("pair").isel(blocks=slice(1, None))
    spread = (mean.max("blocks") - mean.min("blocks")).fillna(0.0)
    first = [name for name in ("last", "image") if name in there]
    rest = sorted((name for name in there if name not in first), key=lambda name: -float(spread.sel(role=name)))
    shown = {*first, *rest[: MOST_LINES - len(first)]}
    return [name for name in there if name in shown]


def _line(figure: "Figure", values: xr.DataArray, name: str, colour: str, labels: np.ndarray) -> None:
    from plotly.graph_objects import Scatter

    values = values.transpose("pair", "blocks")
    known = ~np.isnan(values.values).any(1)
    if not known.any():
        return
    label = escape(f"{name.removeprefix(IN_IMAGE)}, in the image" if name.startswith(IN_IMAGE) else name)
    found, blocks = values.values[known].astype(float), values["blocks"].values
    mean = found.mean(0)
    if len(np.unique(labels[known])) > 1:
        interval = ratio_of_sums(found, np.ones(len(found)), labels[known])
        figure.add_trace(around(blocks, interval.low, interval.high, colour, name), 1, 1)
    line = {"color": colour, "width": 3 if name == "last" else 2, "dash": "solid" if name == "last" else "dot"}
    template = f"{label}<br>after %{{x}} blocks: %{{y:.3g}}<extra></extra>"
    more = {"name": label, "legendgroup": name, "mode": "lines+markers", "line": line, "hovertemplate": template}
    figure.add_trace(Scatter(x=blocks, y=mean, **more), 1, 1)


def _heads(figure: "Figure", own: xr.Dataset) -> None:
    mean = own["head_logit_diff"].mean("pair").transpose("layer", "head")
    rows, columns = (list(map(str, mean[name].values)) for name in ("layer", "head"))
    hover = [
        [f"<b>L{row}.H{column}</b><br>{WRITTEN.text(mean.values[i, j])} {WRITTEN.name}"
         for j, column in enumerate(columns)]
        for i, row in enumerate(rows)
    ]  # fmt: skip
    limit = bound(mean)
    rounded = mean.round(2) + 0.0
    figure.add_trace(cells(rounded, columns, rows, WRITTEN, hover, limit), 1, 2)
    grid_axes(figure, "head", "layer", row=1, col=2)
    colour_bar(figure, WRITTEN, limit)


def _step(blocks: int) -> int:
    return max(1, blocks // 12)
