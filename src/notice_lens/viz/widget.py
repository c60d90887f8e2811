"""The report's page as a notebook widget: the same template, style and script on the same data.

The page stands in a shadow root, so that the notebook's own styles (of tables and lists, among others) do not reach it.
It has the notebook's theme, light or dark, whatever the system's is. Where there is no kernel, as in a notebook on a
code-hosting site, numbers and findings are shown in its place.
"""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xarray as xr

from notice_lens.report.data import ReportData
from notice_lens.report.page import page_script, part, render
from notice_lens.report.page_data import MAP_BYTES, page_data
from notice_lens.report.sentences import findings

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

MODULE = """
// The notebook's theme, where it says which: JupyterLab, VS Code, Colab; elsewhere the system's.
function notebookScheme() {
  const { body, documentElement } = document;
  const said = `${body.dataset.vscodeThemeKind || ""} ${body.className}`;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (/vscode-(high-contrast-)?light/.test(said)) return "light";
  if (/vscode-(dark|high-contrast)/.test(said)) return "dark";
  return documentElement.getAttribute("theme") || "light dark";
}

export default {
  render({ model, el }) {
    const root = document.createElement("div"), style = document.createElement("style");
    root.innerHTML = model.get("html");
    style.textContent = model.get("style");
    el.attachShadow({ mode: "open" }).append(style, root);
    // Keys that are typed here are not the notebook's: in JupyterLab a letter would add or delete cells.
    el.dataset.lmSuppressShortcuts = "true";
    const page = root.querySelector(".notice-lens");
    const follow = () => { page.style.colorScheme = notebookScheme(); };
    const themes = new MutationObserver(follow);
    for (const one of [document.body, document.documentElement]) themes.observe(one, { attributes: true });
    follow();
    // A link to a section cannot reach into a shadow root by itself.
    page.querySelector("nav").addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      event.preventDefault();
      root.querySelector(link.getAttribute("href")).scrollIntoView();
    });
    start(page, model.get("data"));
    return () => themes.disconnect();
  },
};
"""


def explore(
    effects: Any,
    model: "HookedBLIP | None" = None,
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
        model: The model.
        pairs: The pairs.
        important: A result of `circuits.important_heads`.
        name: Of the condition; None takes its task and corruption.
        **collected: Further arguments of `ReportData.collect`, such as `max_pairs`.

    Returns:
        An `anywidget.AnyWidget`; a notebook shows it where it is the last value of a cell.

    Raises:
        ImportError: anywidget is not installed.
        TypeError: `effects` are not a result, or come without their pairs.
    """
    anywidget, traitlets = _libraries()
    if isinstance(effects, ReportData):
        report = effects
    elif isinstance(effects, xr.Dataset) and pairs is not None:
        called = name or _name(effects)
        statistics = {"important": {called: important}} if important is not None else {}
        report = ReportData.collect(model, {called: pairs}, {called: effects}, **statistics, **collected)
    else:
        needs = "viz.explore takes a result of patch_heads with its model and pairs, or a ReportData"
        raise TypeError(f"{needs}; got {type(effects).__name__}" + (" without pairs" if pairs is None else ""))

    class Explorer(anywidget.AnyWidget):
        """The page as a widget."""

        _esm = page_script() + MODULE
        html = traitlets.Unicode().tag(sync=True)
        style = traitlets.Unicode().tag(sync=True)
        data = traitlets.Dict().tag(sync=True)

        def __repr__(self) -> str:
            return "\n".join([*findings(report), "Run this cell again to choose heads and to see where they look."])

        def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            bundle, metadata = super()._repr_mimebundle_(**kwargs)
            return {**bundle, "text/plain": repr(self), "text/html": static}, metadata

    html = render("body.html.j2", report, MAP_BYTES, prefix=f"nl{uuid4().hex[:8]}-")
    static = render("static.html.j2", report, MAP_BYTES)
    return Explorer(html=html, style=part("page.css"), data=page_data(report))


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
