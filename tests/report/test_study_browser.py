"""A report that a real study wrote, in a real browser: a click on a head's cell shows where that head looks."""

from pathlib import Path

import pytest

from browsing import browser, needs_browser, opened
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.report.data import ReportData
from notice_lens.study import Choices, run_study
from notice_lens.study.runner import SAVED

pytestmark = needs_browser
SHOWN_IN_A_DEMO, SHOWN = 24, 6


@pytest.fixture(scope="module")
def folder(mini, tmp_path_factory) -> Path:
    """Two tasks under image corruptions, a few pairs each."""
    out = tmp_path_factory.mktemp("study")
    tasks = {task: mini_world(task, 16) for task in ("states", "faces")}
    run_study(mini, tasks, out, Choices(corruptions=("image",), shown=SHOWN), progress=False, memory=2e7)
    viz.report(out / SAVED, out / "report.html")
    return out


@pytest.mark.large
@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_on_a_head_shows_its_overlays(folder, width):
    data = ReportData.load(folder / SAVED)
    with browser() as chromium:
        one = opened(chromium, folder / "report.html", width=width)
        for condition, (layer, head) in enumerate([(0, 5), (2, 1)]):
            one.page.locator(f"[data-map='{condition}'] button[data-layer='{layer}'][data-head='{head}']").click()
            one.page.wait_for_selector(f".notice-lens[data-shown='{condition}/{layer}/{head}']")
            labels = one.page.locator(".pairs canvas").evaluate_all("a => a.map((c) => c.getAttribute('aria-label'))")
            assert len(labels) == 2 * SHOWN
            number = data.conditions[condition].shown[0]
            maps = data.maps().isel(pair=number).sel(run="clean", role="correct", layer=layer, head=head).values
            row, column = divmod(int(maps.argmax()), 8)
            assert f"L{layer}.H{head} looks most at row {row + 1}, column {column + 1}" in labels[0]
        assert one.page.evaluate("document.documentElement.scrollWidth") == width
        one.calm()


def test_the_report_of_a_demo_is_at_most_12_megabytes(folder):
    """Three tasks, two corruptions and 24 pairs a condition, were all that grows with pairs to grow as they do."""
    size = (folder / "report.html").stat().st_size
    assert size * (3 * 2 * SHOWN_IN_A_DEMO) / (2 * SHOWN) < 12e6
