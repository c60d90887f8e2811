"""The report's page as a notebook widget: the same template, style and script on the same data."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xarray as xr

from notice_lens.viz.page_data import MAP_BYTES, page_data
from notice_lens.viz.report_data import ReportData
from notice_lens.viz.report_page import page_script, part, render

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

MODULE = """
export default {
  render({ model, el }) {
    el.innerHTML = model.get("html");
    start(el.querySelector(".notice-lens"), model.get("data"));
  },
};
"""


def explore(
    effects: Any,
    blip: "HookedBLIP | None" = None,
    pairs: "MinimalPairs | None" = None,
    *,
    important: xr.Dataset | None = None,
    name: str | None = None,
    **collected: Any,
) -> Any:
    """A notebook widget: heat maps in which a click on a head shows where it looks, over the pairs.

    Experimental: not every notebook front end was tried.

    Args:
        effects: A result of `patch_heads`, with the model and the pairs that it is of; or a `ReportData`, alone.
        blip: The model.
        pairs: The pairs.
        important: A result of `circuits.important_heads`.
        name: Of the cell; None takes its task and corruption.
        **collected: Further arguments of `ReportData.collect`, such as `max_pairs`.

    Returns:
        An `anywidget.AnyWidget`; a notebook shows it where it is the last value of a cell.

    Raises:
        ImportError: anywidget is not installed.
        TypeError: `effects` are not a result, or come without their pairs.
    """
    anywidget, traitlets = _libraries()
    if isinstance(effects, ReportData):
        data = effects
    elif isinstance(effects, xr.Dataset) and pairs is not None:
        called = name or _name(effects)
        statistics = {"important": {called: important}} if important is not None else {}
        data = ReportData.collect(blip, {called: pairs}, {called: effects}, **statistics, **collected)
    else:
        needs = "viz.explore takes a result of patch_heads with its model and pairs, or a ReportData"
        raise TypeError(f"{needs}; got {type(effects).__name__}" + (" without pairs" if pairs is None else ""))

    class Explorer(anywidget.AnyWidget):
        """The page as a widget."""

        _esm = page_script() + MODULE
        _css = part("page.css")
        html = traitlets.Unicode().tag(sync=True)
        data = traitlets.Dict().tag(sync=True)

    html = render("body.html.j2", data, MAP_BYTES, prefix=f"nl{uuid4().hex[:8]}-")
    return Explorer(html=html, data=page_data(data))


def _libraries() -> tuple[Any, Any]:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("viz.explore needs anywidget: pip install 'notice-lens[notebook]'") from error
    return anywidget, traitlets


def _name(effects: xr.Dataset) -> str:
    tasks = dict.fromkeys(map(str, effects["task"].values)) if "task" in effects.coords else ["pairs"]
    return f"{', '.join(tasks)}, {effects.attrs.get('corruption', 'image')}"
