"""The notebook's widget: the report's page on the same data."""

import base64
import sys

import pytest

import made_results as made
from browsing import browser, needs_browser, opened
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.viz.report_data import ReportData


@pytest.fixture(scope="module")
def widget(mini):
    pairs = mini_world("states", 3)
    return viz.explore(made.swept(pairs), mini, pairs, important=made.important(), max_pairs=2, progress=False)


def test_the_widget_has_the_pages_data(widget):
    assert [cell["name"] for cell in widget.data["cells"]] == ["states, image"]
    assert len(widget.data["pairs"]) == 2
    assert "<script" not in widget.html
    assert "function start(root, data)" in widget._esm


@needs_browser
def test_a_click_in_the_widget_shows_overlays(widget):
    """Its module is given a stand-in for the model, and two elements, as a notebook does that shows it twice."""
    address = "data:text/javascript;base64," + base64.b64encode(str(widget._esm).encode()).decode()
    script = """async ([address, state]) => {
      const module = await import(address);
      for (const place of [0, 1]) {
        const el = document.body.appendChild(document.createElement("div"));
        module.default.render({ model: { get: (name) => state[name] }, el });
      }
    }"""
    with browser() as found:
        one = opened(found)
        one.page.add_style_tag(content=str(widget._css))
        one.page.evaluate(script, [address, {"html": widget.html, "data": widget.data}])
        second = one.page.locator(".notice-lens").nth(1)
        second.locator("[data-map='0'] button[data-layer='2'][data-head='1']").click()
        one.page.wait_for_selector(".notice-lens[data-shown='0/2/1']")
        assert second.locator(".chosen").inner_text().startswith("L2.H1")
        assert one.page.locator(".notice-lens").first.locator(".chosen").inner_text().startswith("L1.H2")
        assert "L2.H1 looks most at" in second.locator("canvas").first.get_attribute("aria-label")
        one.calm()


def test_data_of_a_report_can_be_explored(mini):
    pairs = mini_world("states", 2)
    data = ReportData.collect(None, {"one": pairs}, {"one": made.swept(pairs)})
    assert viz.explore(data).data["cells"][0]["name"] == "one"


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
