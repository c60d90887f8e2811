"""The report in a real browser: a click or a key shows where a head looks; nothing is loaded, and nothing complains."""

import re
from typing import Any

import numpy as np
import pytest

from browsing import needs_browser, opened, until
from notice_lens.report.data import ReportData
from report_pages import button, shown

pytestmark = needs_browser


def overlays(page: Any) -> list[str]:
    return page.locator(".pairs canvas").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")


def said_of(data: ReportData, pair: int, run: str, layer: int, head: int, role: str = "correct") -> str:
    """Where a map is largest, as an overlay says it."""
    one = data.maps().isel(pair=pair).sel(run=run, role=role, layer=layer, head=head)
    best = int(one.values.argmax())
    return f"L{layer}.H{head} looks most at row {best // 8 + 1}, column {best % 8 + 1}"


def test_a_click_on_a_head_shows_its_overlays(chromium, path, data):
    one = opened(chromium, path)
    shown(one.page, 0, 1, 2)  # the strongest head of the first condition
    button(one.page, 0, 0, 5).click()
    shown(one.page, 0, 0, 5)
    found = overlays(one.page)
    assert len(found) == 2 * 6
    for place, number in enumerate(data.conditions[0].shown[:6]):
        assert said_of(data, number, "clean", 0, 5) in found[2 * place]
        assert said_of(data, number, "image", 0, 5) in found[2 * place + 1]
        assert found[2 * place + 1].startswith("corrupted image")
    assert one.page.locator(".chosen").inner_text() == "L0.H5 \u2014 states, image"
    assert button(one.page, 0, 0, 5).get_attribute("aria-pressed") == "true"
    assert one.page.locator("[aria-pressed=true]").count() >= 1
    one.calm()


def test_overlays_are_painted_where_the_head_looks(chromium, path, data):
    one = opened(chromium, path)
    button(one.page, 0, 2, 2).click()
    shown(one.page, 0, 2, 2)
    number = data.conditions[0].shown[0]
    maps = data.maps().isel(pair=number).sel(run="clean", role="correct", layer=2, head=2).values
    brightness = np.array(one.page.locator(".pairs canvas").first.evaluate(RED))[maps.argsort()]
    assert brightness[-1] > np.median(brightness) + 40, "the brightest patch is where most of the attention is"
    read = re.search(r"column \d+ \(([\d.]+)\xa0%\).*class token ([\d.]+)\xa0%", overlays(one.page)[0])
    token = float(data.maps().isel(pair=number).sel(run="clean", role="correct", layer=2, head=2).elsewhere)
    assert read is not None
    assert float(read[1]) == pytest.approx(100 * maps.max(), abs=0.6)
    assert float(read[2]) == pytest.approx(100 * token, abs=0.6)
    inside = float(maps[data.pairs[number].regions["clean"]["object"].ravel()].sum())
    assert f"object {100 * inside:.0f}\xa0%" in overlays(one.page)[0]
    one.page.select_option("select[name=role]", "[SEP]")
    until(one.page, "[...document.querySelectorAll('.pairs mark')].some((one) => one.textContent === '[SEP]')")
    assert said_of(data, number, "clean", 2, 2, "[SEP]") in overlays(one.page)[0]
    one.calm()


def painted_relative(page: Any, data: ReportData) -> None:
    """More than the mean of heads is orange and less is blue, on the first overlay of the chosen head L1.H2."""
    name = page.locator(".pair header").first.get_attribute("title")
    number = next(place for place, pair in enumerate(data.pairs) if pair.id == name)
    maps = data.maps().isel(pair=number).sel(run="clean", role="correct")
    relative = (maps - maps.mean(("layer", "head"))).sel(layer=1, head=2).values
    page.wait_for_timeout(300)
    warm = np.array(page.locator(".pairs canvas").first.evaluate(WARM))
    assert warm[relative.argmax()] > warm[relative.argmin()] + 30


def test_the_keyboard_does_it_too(chromium, path, data):
    one = opened(chromium, path)
    shown(one.page, 0, 1, 2)
    button(one.page, 0, 1, 2).focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp"):
        one.page.keyboard.press(key)
    place = one.page.evaluate("[document.activeElement.dataset.layer, document.activeElement.dataset.head]")
    assert place == ["0", "3"], "the first row ends the way up"
    assert one.page.locator("[data-map='0'] button[tabindex='0']").get_attribute("data-head") == "3", (
        "where Tab returns"
    )
    outline = one.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2, "the focus can be seen"
    one.page.keyboard.press("Enter")
    shown(one.page, 0, 0, 3)
    assert said_of(data, data.conditions[0].shown[0], "clean", 0, 3) in overlays(one.page)[0]
    one.page.keyboard.press("End")
    one.page.keyboard.press("Space")
    shown(one.page, 0, 0, 7)
    assert "Layer 0, head 7" in one.page.locator(".said").inner_text()
    assert one.page.locator("[data-map='0'] button[tabindex='0']").count() == 1
    one.calm()


def test_text_conditions_compare_prompts(chromium, path, data):
    one = opened(chromium, path)
    button(one.page, 1, 1, 2).click()
    shown(one.page, 1, 1, 2)
    number = data.conditions[1].shown[0]
    assert said_of(data, number, "text", 1, 2) in overlays(one.page)[1]
    questions = one.page.locator(".pair").first.locator(".question").all_inner_texts()
    assert questions == [data.pairs[number].prompts["clean"], data.pairs[number].prompts["corrupt"]]
    one.calm()


def test_what_is_chosen_by_hand(chromium, path, data):
    one = opened(chromium, path)
    shown(one.page, 0, 1, 2)
    one.page.locator(".more").click()
    until(one.page, "document.querySelectorAll('.pair').length === 8")
    one.page.select_option("select[name=order]", "effect")
    effects = [re.sub(r"[^0-9\u2212]", "", text) for text in one.page.locator(".pair .effect").all_inner_texts()]
    numbers = [int(text.replace("\u2212", "-")) for text in effects]
    assert numbers == sorted(numbers, reverse=True)
    one.page.select_option("select[name=scale]", "relative")
    assert one.page.locator(".scale-note").is_visible()
    painted_relative(one.page, data)
    one.page.locator("input[name=regions]").check()
    assert "object: solid" in one.page.locator(".region-note").inner_text()
    before = button(one.page, 0, 1, 2).inner_text()
    one.page.locator("input[data-values=effect_mismatched]").check()
    assert before == "22"
    assert button(one.page, 0, 1, 2).inner_text() == str(
        round(100 * float(data.conditions[0].heads.effect_mismatched[1, 2]))
    )
    assert "mismatched" in button(one.page, 0, 1, 2).get_attribute("aria-label")
    one.page.locator("details.looks summary").click()
    auroc = float(
        data.functions["all pairs"].auroc.sel(maps="attention", role="correct", region="object", layer=1, head=2)
    )
    assert f"{auroc:.2f}" in one.page.locator(".scores tr").first.inner_text()
    one.page.locator("#universal button.head").nth(1).click()
    shown(one.page, 0, 2, 5)
    one.calm()


def test_on_a_phone_the_pairs_come_to_the_head_and_back(chromium, path):
    one = opened(chromium, path, width=390)
    shown(one.page, 0, 1, 2)
    button(one.page, 0, 0, 1).click()
    shown(one.page, 0, 0, 1)
    until(one.page, "Math.abs(document.querySelector('.browser').getBoundingClientRect().top) < 60")
    one.page.locator(".back").click()
    assert one.page.evaluate("document.activeElement.dataset.head") == "1"
    one.calm()


def test_a_head_has_a_link_that_opens_it(chromium, path, data):
    one = opened(chromium, path)
    shown(one.page, 0, 1, 2)
    assert "#" not in one.page.url, "nobody has chosen yet"
    button(one.page, 0, 0, 5).click()
    shown(one.page, 0, 0, 5)
    assert one.page.url.endswith("#states-image/L0.H5")
    assert one.page.locator(".chosen a").get_attribute("href") == "#states-image/L0.H5"
    # The same address in another tab, and another one typed into it.
    other = opened(chromium, path, anchor="states-text/L2.H3")
    shown(other.page, 1, 2, 3)
    assert other.page.locator(".chosen").inner_text() == "L2.H3 \u2014 states, text"
    other.page.evaluate("location.hash = '#states-image/L1.H1'")
    shown(other.page, 0, 1, 1)
    other.calm()
    one.calm()


@pytest.mark.parametrize("anchor", ["states-image/L99.H0", "nothing/L0.H0", "universal", "%/L0.H0", "/L0.H0"])
def test_a_link_to_nothing_shows_what_the_page_shows_first(chromium, path, anchor):
    one = opened(chromium, path, anchor=anchor)
    shown(one.page, 0, 1, 2)
    one.calm()


RED = """(one) => {
  const size = one.width / 8, { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  const sums = new Array(64).fill(0);
  for (let place = 0; place < data.length / 4; place++) {
    const row = Math.floor(place / one.width / size), column = Math.floor(place % one.width / size);
    sums[row * 8 + column] += data[4 * place] / size / size;
  }
  return sums;
}"""


WARM = """(one) => {
  const size = one.width / 8, { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  const sums = new Array(64).fill(0);
  for (let place = 0; place < data.length / 4; place++) {
    const row = Math.floor(place / one.width / size), column = Math.floor(place % one.width / size);
    sums[row * 8 + column] += (data[4 * place] - data[4 * place + 2]) / size / size;
  }
  return sums;
}"""
