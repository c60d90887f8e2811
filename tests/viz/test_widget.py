"""The notebook's widget: the report's page on the same data."""

import base64
import sys
from typing import Any

import pytest

import made_results as made
from browsing import browser, needs_browser, opened
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.report.data import ReportData


@pytest.fixture(scope="module")
def widget(mini):
    pairs = mini_world("states", 3)
    return viz.explore(made.swept(pairs), mini, pairs, important=made.important(), max_pairs=2, progress=False)


def test_the_widget_has_the_pages_data(widget):
    assert [condition["name"] for condition in widget.data["conditions"]] == ["states, image"]
    assert len(widget.data["pairs"]) == 2
    assert "<script" not in widget.html
    assert "function start(root, data, linked = false)" in widget._esm


JUPYTER = """
.jp-RenderedHTMLCommon dt { float: left; width: 20%; display: block; }
.jp-RenderedHTMLCommon dd { float: left; width: 80%; display: block; }
.jp-RenderedHTMLCommon table { border-collapse: collapse; font-size: 40px; table-layout: fixed; margin: 0 auto; }
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { text-align: center !important; padding: 2em !important; }
.jp-RenderedHTMLCommon tbody tr:nth-child(odd) { background: rgb(255, 0, 0); }
button { border: 9px solid lime; } select { display: none; } p { color: rgb(1, 2, 3); font-size: 40px; }
"""
"""Styles as notebooks have them for what a cell shows (the first two rules are JupyterLab's own), and ruder ones."""
RENDER = """async ([address, state, count]) => {
  const module = await import(address);
  for (let place = 0; place < count; place++) {
    const el = document.body.appendChild(document.createElement("div"));
    el.className = "jp-RenderedHTMLCommon";
    window.end = module.default.render({ model: { get: (name) => state[name] }, el });
  }
}"""


def rendered(one: Any, widget: Any, count: int = 1) -> Any:
    """The page with the widget in it: its module is given a stand-in for the model, and an element a view."""
    address = "data:text/javascript;base64," + base64.b64encode(str(widget._esm).encode()).decode()
    state = {"html": widget.html, "style": getattr(widget, "style", ""), "data": widget.data}
    if css := getattr(widget, "_css", ""):  # which anywidget adds to the notebook's page
        one.page.add_style_tag(content=str(css))
    one.page.evaluate(RENDER, [address, state, count])
    return one.page


@needs_browser
def test_a_click_in_the_widget_shows_overlays(widget):
    with browser() as found:
        one = opened(found)
        page = rendered(one, widget, 2)  # a notebook that shows it twice
        second = page.locator(".notice-lens").nth(1)
        second.locator("[data-map='0'] button[data-layer='2'][data-head='1']").click()
        page.wait_for_selector(".notice-lens[data-shown='0/2/1']")
        assert second.locator(".chosen").inner_text().startswith("L2.H1")
        assert page.locator(".notice-lens").first.locator(".chosen").inner_text().startswith("L1.H2")
        assert "L2.H1 looks most at" in second.locator("canvas").first.get_attribute("aria-label")
        second.locator("nav a").last.click()
        assert second.locator("pre").evaluate("one => one.getBoundingClientRect().top") < 900, "a link scrolls there"
        one.calm()


LOOK = """root => [...root.querySelectorAll("dt, dd, td, th, select, p, button")].map((one) => {
  const { float, width, fontSize, padding, textAlign, display, borderTopWidth, color } = getComputedStyle(one);
  return [one.tagName, float, width, fontSize, padding, textAlign, display, borderTopWidth, color].join(" ");
})"""


@needs_browser
def test_the_notebooks_own_styles_do_not_reach_the_widget(widget):
    """All lists, tables, buttons and texts look as they do where the page around has no styles at all."""
    looks = []
    with browser() as found:
        for styles in ("/* none */", JUPYTER):
            one = opened(found)
            page = rendered(one, widget)
            page.wait_for_selector(".notice-lens[data-shown]")
            page.add_style_tag(content=styles)
            looks.append(page.locator(".notice-lens").evaluate(LOOK))
            boxes = page.locator(".facts dt, .facts dd").evaluate_all(
                "all => all.map((one) => { const { left, top, right, bottom } = one.getBoundingClientRect();"
                " return [left, top, right, bottom]; })"
            )
            overlap = [
                (a, b) for n, a in enumerate(boxes) for b in boxes[:n]
                if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
            ]  # fmt: skip
            assert not overlap, "no label lies on a number"
    assert len(looks[0]) > 60
    assert looks[0] == looks[1]


WHITE, BLACK = "rgb(255, 255, 255)", "rgb(20, 24, 28)"


@needs_browser
@pytest.mark.parametrize(
    ("system", "set_theme", "background"),
    [
        ("dark", "document.body.dataset.jpThemeLight = 'true'", WHITE),
        ("light", "document.body.dataset.jpThemeLight = 'false'", BLACK),
        ("dark", "document.body.className = 'vscode-light'", WHITE),
        ("light", "document.body.className = 'vscode-dark'", BLACK),
        ("dark", "document.body.dataset.vscodeThemeKind = 'vscode-high-contrast-light'", WHITE),
        ("light", "document.body.dataset.vscodeThemeKind = 'vscode-high-contrast'", BLACK),
        ("light", "document.documentElement.setAttribute('theme', 'dark')", BLACK),
        ("light", "0", WHITE),
        ("dark", "0", BLACK),
    ],
)
def test_the_widget_has_the_notebooks_theme_and_not_the_systems(widget, system, set_theme, background):
    look = "getComputedStyle(one).backgroundColor"
    with browser() as found:
        for before in (True, False):
            one = opened(found, scheme=system)
            if before:
                one.page.evaluate(set_theme)
            page = rendered(one, widget)
            page.evaluate("0" if before else set_theme)  # a theme that is changed while the widget is shown
            page.wait_for_timeout(50)
            assert page.locator(".notice-lens").evaluate(f"one => {look}") == background
            assert (page.locator("select").first.evaluate("one => getComputedStyle(one).colorScheme") == "dark") == (
                background == BLACK and set_theme != "0"
            )


def test_where_no_kernel_answers_the_findings_and_numbers_are_shown(widget):
    """As in a notebook on a code-hosting site: text and a table of every head, and no object's address."""
    bundle, _ = widget._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    for said in (bundle["text/plain"], bundle["text/html"], repr(widget)):
        assert "L1.H2 in states, where the picture is changed" in said
        assert "+21.7" in said
        assert "object at 0x" not in said
    assert bundle["text/html"].count("<td") == 24
    assert "<strong>22</strong>" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


def test_data_of_a_report_can_be_explored(mini):
    pairs = mini_world("states", 2)
    data = ReportData.collect(None, {"one": pairs}, {"one": made.swept(pairs)})
    assert viz.explore(data).data["conditions"][0]["name"] == "one"


def test_messages(monkeypatch, mini):
    pairs = mini_world("states", 2)
    with pytest.raises(
        TypeError,
        match="takes a result of patch_heads with its model and pairs, or a ReportData; got Dataset without pairs",
    ):
        viz.explore(made.swept(pairs), mini)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"viz.explore needs anywidget: pip install 'notice-lens\[notebook\]'"):
        viz.explore(made.swept(pairs), mini, pairs)
