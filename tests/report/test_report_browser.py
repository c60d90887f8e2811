"""The report in a real browser: a click or a key shows where a head looks; nothing is loaded, and nothing complains."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_results as made
from browsing import browser, needs_browser, opened, until
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.roles import ALL
from notice_lens.report.data import ReportData

pytestmark = needs_browser
NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def data(mini) -> ReportData:
    pairs = mini_world("states", 8)
    conditions = {"states, image": pairs, "states, text": pairs}
    effects = {name: made.swept(pairs, name.split(", ")[1], seed=number) for number, name in enumerate(conditions)}
    important = {name: made.important(seed=number) for number, name in enumerate(conditions)}
    return ReportData.collect(
        mini, conditions, effects, important=important, universal=made.universal(important), functions=made.functions(),
        labels=made.labels(), profiles=dict.fromkeys(conditions, made.profile()), progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> Path:
    return viz.report(data, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


def button(page: Any, condition: int, layer: int, head: int) -> Any:
    return page.locator(f"[data-map='{condition}'] button[data-layer='{layer}'][data-head='{head}']")


def shown(page: Any, condition: int, layer: int, head: int) -> None:
    page.wait_for_selector(f".notice-lens[data-shown='{condition}/{layer}/{head}']")


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
    assert before == "31"
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_text_can_be_read(chromium, path, width, scheme):
    one = opened(chromium, path, width=width, scheme=scheme)
    shown(one.page, 0, 1, 2)
    assert one.page.evaluate("document.documentElement.scrollWidth") == width
    ratios = one.page.evaluate(CONTRAST)
    assert len(ratios) > 100
    assert min(ratio for ratio, _ in ratios) >= 4.5, min(ratios)
    assert one.page.evaluate(UNNAMED) == []
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


def test_prompts_and_names_that_are_tags_do_no_harm(chromium, mini, tmp_path):
    image = tmp_path / "<img src=x onerror=alert(2)>.png"
    drawn = mini_world("states", 1)[0]
    drawn.clean_image.save(image)
    row = {
        "id": NASTY, "task": "</script><b>task", "group": "<i>group", "clean_image": str(image),
        "corrupt_image": drawn.corrupt_image,
        "clean_prompt": f"is this {NASTY} red or green?", "correct_answer": "red", "incorrect_answer": "green",
        "roles": {NASTY: [8, 8 + len(NASTY)], "correct": "red"}, "clean_regions": {NASTY: [0, 0, 32, 32]},
    }  # fmt: skip
    pairs = MinimalPairs.from_rows([row], progress=False)
    name = f"{NASTY}, \u2028image"
    labels = [{"layer": 1, "head": 2, "label": NASTY}]
    data = ReportData.collect(
        mini, {name: pairs}, {name: made.swept(pairs)}, title=NASTY, notes=[NASTY], labels=labels, progress=False
    )
    one = opened(chromium, viz.report(data, tmp_path / "report.html"))
    shown(one.page, 0, 1, 2)
    button(one.page, 0, 2, 7).click()
    shown(one.page, 0, 2, 7)
    one.page.select_option("select[name=role]", NASTY)
    one.page.locator("input[name=regions]").check()
    assert NASTY in one.page.locator(".pair .question").inner_text()
    assert one.page.locator("h1").inner_text() == NASTY
    assert one.page.locator(".notice-lens").locator("script, img:not(.first-pair img), b, i").count() == 0
    one.calm()


@pytest.fixture(scope="module")
def tasks(mini) -> ReportData:
    """Two tasks, the second without donors and with too few clusters for a test; each has a label of the same head."""
    conditions = {"states, image": mini_world("states", 4), "scenes, image": mini_world("scenes", 4)}
    effects = {name: made.swept(pairs, seed=number) for number, (name, pairs) in enumerate(conditions.items())}
    tested = made.important()
    few = made.untested(made.important(seed=1)).drop_vars("effect_mismatched")
    few["effect"][{"layer": 2, "head": 5}] = np.nan
    return ReportData.collect(
        mini, conditions, effects, important={"states, image": tested, "scenes, image": few}, progress=False,
        universal=made.universal({"states, image": tested, "scenes, image": few}),
        functions={"states": made.functions(), "scenes": made.functions()},
        labels=[{"layer": 1, "head": 2, "label": "implicit segmentation", "task": "states"},
                {"layer": 1, "head": 2, "label": "object inhibition", "task": "scenes"}],
    )  # fmt: skip


@pytest.fixture
def two_tasks(chromium, tasks, tmp_path) -> Any:
    one = opened(chromium, viz.report(tasks, tmp_path / "tasks.html"))
    one.page.wait_for_selector(".notice-lens[data-shown]")
    yield one
    one.calm()


def test_every_button_opens_the_condition_that_it_stands_at(two_tasks):
    """In all tables: the panel, its chosen head and its number are those of the row, and never of another condition."""
    page, seen = two_tasks.page, []
    for table in page.locator("table.plain:has(button)").all():
        caption = table.locator("caption").all_inner_texts()
        names = table.locator("thead th").all_inner_texts()
        for row in table.locator("tbody tr").all():
            for button in row.locator("button[data-head]").all():
                column = button.evaluate("one => one.closest('th, td').cellIndex")
                name = f"L{button.get_attribute('data-layer')}.H{button.get_attribute('data-head')}"
                button.click()
                chosen = page.locator(".chosen").inner_text()
                known = [
                    condition
                    for condition in ("states, image", "scenes, image")
                    if condition in [*caption, names[column]]
                ]
                known = known or [
                    condition for condition in ("states, image", "scenes, image") if condition in row.inner_text()
                ]
                assert chosen.startswith(f"{name} \u2014 "), (name, chosen)
                assert not known or chosen.endswith(known[0]), (known, chosen)
                assert button.get_attribute("aria-pressed") == "true"
                seen += known
    assert set(seen) == {"states, image", "scenes, image"}
    assert len(seen) > 25


def test_a_condition_that_was_not_tested_says_so_in_the_panel(two_tasks):
    button(two_tasks.page, 1, 1, 2).click()
    shown(two_tasks.page, 1, 1, 2)
    facts = two_tasks.page.locator(".facts").inner_text()
    assert "p, q\nnot tested" in facts
    assert "significance not tested" in facts
    assert "\u2717 significant" not in facts
    assert "mismatched" not in facts.replace("matched minus mismatched", "")
    button(two_tasks.page, 0, 1, 2).click()
    shown(two_tasks.page, 0, 1, 2)
    assert "\u2713 significant" in two_tasks.page.locator(".facts").inner_text()


def test_every_share_in_the_panel_has_its_interval(two_tasks, tasks):
    button(two_tasks.page, 0, 1, 2).click()
    shown(two_tasks.page, 0, 1, 2)
    facts = two_tasks.page.locator(".facts > div").all_inner_texts()
    heads = tasks.conditions[0].heads.sel(layer=1, head=2)
    names = {"matched": "effect_matched", "mismatched": "effect_mismatched", "the same, of the gap": "effect_of_gap"}
    for label, name in names.items():
        values = [f"{100 * float(heads[each]):+.1f}" for each in (name, f"{name}_low", f"{name}_high")]
        values = [value.replace("-", "\u2212") for value in values]
        assert f"{label}\n{values[0]}\u00a0% [{values[1]}, {values[2]}]" in facts


def test_labels_and_scores_are_shown_at_their_own_task(two_tasks):
    page = two_tasks.page
    for condition, (own, other) in enumerate((("implicit segmentation", "object inhibition"),) * 2):
        button(page, condition, 1, 2).click()
        shown(page, condition, 1, 2)
        said = page.locator(".facts").inner_text()
        own, other = (own, other) if condition == 0 else (other, own)
        assert own in said
        assert other not in said
        page.locator("details.looks").evaluate("one => { one.open = true; }")
        regions = page.locator(".scores th").all_inner_texts()
        assert regions
        assert {region.partition(":")[0] for region in regions} == {("states", "scenes")[condition]}


def test_a_number_that_is_not_there_is_not_shown_as_another(two_tasks):
    """Mismatched effects of a condition without donors, and a missing effect, are empty: neither zero nor matched."""
    page = two_tasks.page
    assert button(page, 1, 2, 5).inner_text() == ""
    page.locator("input[data-values=effect_mismatched]").check()
    assert {button(page, 1, layer, head).inner_text() for layer in range(3) for head in range(8)} == {""}
    assert "+" not in button(page, 1, 1, 2).get_attribute("aria-label")
    assert button(page, 0, 1, 2).inner_text() != ""
    assert page.locator("[data-map='0'] caption").inner_text().endswith("mismatched")
    assert "minus" not in page.locator("[data-map='0'] caption").inner_text()
    assert page.locator("table.dumbbells").count() == 1, "without donors there is nothing to compare"


def test_a_condition_that_lacks_the_chosen_head_leaves_what_is_shown(chromium, tasks, tmp_path):
    """Conditions of models of other sizes: the selects always say what the panel shows."""
    small = replace(
        tasks.conditions[1],
        heads=tasks.conditions[1].heads.isel(layer=[0, 1], head=[0, 1, 2]),
        by_pair=tasks.conditions[1].by_pair[:, :2, :3],
    )
    mixed = replace(tasks, conditions=(tasks.conditions[0], small), universal=None)
    one = opened(chromium, viz.report(mixed, tmp_path / "mixed.html"))
    shown(one.page, 0, 1, 2)
    button(one.page, 0, 2, 7).click()
    shown(one.page, 0, 2, 7)
    one.page.select_option("select[name=condition]", "1")
    chosen = [one.page.locator(f"select[name={name}]").input_value() for name in ("condition", "layer", "head")]
    assert chosen == ["0", "2", "7"]
    button(one.page, 1, 1, 2).click()
    shown(one.page, 1, 1, 2)
    one.calm()


APPLE, FAMILY, BOLD = "\N{RED APPLE}", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001d420reen"


@pytest.mark.parametrize(
    "before", ["", APPLE, APPLE * 3 + " ", FAMILY + " ", "e\u0301 ", "\U0001f1e9\U0001f1ea " + BOLD + " "]
)
def test_marks_are_on_their_words_behind_any_character(chromium, tasks, tmp_path, before):
    """Spans count characters, of which JavaScript has two for some: the mark is on the word all the same."""
    clean, corrupt = f"{before}is this {APPLE} red or {BOLD}?", f"{before}is this {APPLE} {BOLD} or blue{APPLE}?"
    spans = {
        "clean": {"correct": (clean.index("red"), clean.index("red") + 3)},
        "corrupt": {
            "replaced 2": (corrupt.index("blue"), corrupt.index("blue") + 5),
            "replaced 1": (corrupt.rindex(BOLD), corrupt.rindex(BOLD) + len(BOLD)),
        },
    }
    pairs = tuple(replace(pair, prompts={"clean": clean, "corrupt": corrupt}, spans=spans) for pair in tasks.pairs)
    condition = replace(tasks.conditions[0], corruption="text", name="states, text")
    data = replace(tasks, pairs=pairs, conditions=(condition,), universal=None, labels=(), functions={}, attention=None)
    one = opened(chromium, viz.report(data, tmp_path / "emoji.html"))
    one.page.wait_for_selector(".notice-lens[data-shown]")
    card = one.page.locator(".pair").first
    assert card.locator(".question").all_inner_texts() == [clean, corrupt]
    assert card.locator(".question").nth(1).locator("mark").all_inner_texts() == [BOLD, f"blue{APPLE}"]
    one.calm()


def test_where_a_token_stands_that_is_no_word(chromium, mini, tmp_path):
    """`[CLS]` stands in front of the question, `?` and `[SEP]` end it; a role of another task is in no question."""
    conditions = {"states, image": mini_world("states", 2), "scenes, image": mini_world("scenes", 2)}
    effects = {name: made.swept(pairs) for name, pairs in conditions.items()}
    data = ReportData.collect(mini, conditions, effects, progress=False)
    one = opened(chromium, viz.report(data, tmp_path / "tokens.html"))
    one.page.wait_for_selector(".notice-lens[data-shown]")
    asked = data.pairs[data.conditions[0].shown[0]].prompts["clean"]
    for role, text in (("[CLS]", f"[CLS] {asked}"), ("?", asked), ("[SEP]", f"{asked} [SEP]")):
        one.page.select_option("select[name=role]", role)
        until(one.page, f"document.querySelector('.pairs mark').textContent === {role!r}")
        assert one.page.locator(".pair .question").first.inner_text() == text
    one.page.select_option("select[name=condition]", "1")
    one.page.select_option("select[name=role]", "noun")  # scenes have none
    until(one.page, "document.querySelectorAll('.pairs mark').length === 0")
    scene = data.pairs[data.conditions[1].shown[0]].prompts["clean"]
    assert one.page.locator(".pair .question").first.inner_text() == scene
    assert "no attention map" in one.page.locator(".pair figcaption").first.inner_text()
    one.calm()


def test_a_condition_of_all_positions_asks_at_a_word(chromium, tasks, tmp_path):
    for kept, word in ((["[CLS]", "noun", "correct"], "correct"), (["[CLS]", "noun", "[SEP]"], "noun")):
        attention = tasks.attention.sel(role=kept)
        conditions = tuple(replace(condition, role=ALL) for condition in tasks.conditions)
        one = opened(
            chromium, viz.report(replace(tasks, conditions=conditions, attention=attention), tmp_path / "all.html")
        )
        one.page.wait_for_selector(".notice-lens[data-shown]")
        assert one.page.locator("select[name=role]").input_value() == word
        one.calm()


LONG = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft" * 2


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (718, "print")])
def test_long_words_break_and_no_column_is_cut(chromium, data, tmp_path, width, media):
    """One word of 160 letters wherever a user's word may stand; on paper, whose width is 718, nothing can scroll."""
    conditions = [
        replace(condition, name=f"{number}{LONG}", task=LONG, role=LONG)
        for number, condition in enumerate(data.conditions)
    ]
    pairs = tuple(
        replace(pair, id=LONG, task=LONG, group=LONG + "2", prompts={"clean": LONG, "corrupt": LONG},
                spans={"clean": {}}, answers=dict.fromkeys(("clean", "image", "text"), LONG))
        for pair in data.pairs
    )  # fmt: skip
    labels = [{"layer": 1, "head": 2, "label": LONG, "task": LONG, "evidence": LONG}]
    universal = data.universal.assign_coords(condition=[condition.name for condition in conditions])
    long = replace(
        data, title=LONG, conditions=tuple(conditions), pairs=pairs, labels=tuple(labels), notes=(LONG,),
        universal=universal, settings={LONG: LONG, "model": LONG}, functions={LONG: data.functions["all pairs"]},
    )  # fmt: skip
    for number, each in enumerate((data, long)):
        one = opened(chromium, viz.report(each, tmp_path / f"{number}.html"), width=width)
        one.page.wait_for_selector(".notice-lens[data-shown]")
        one.page.emulate_media(media=media)
        one.page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
        assert one.page.evaluate("document.documentElement.scrollWidth") == width
        if width != 390:  # on a phone tables of many columns scroll in their boxes
            wide = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.ariaLabel)"
            assert one.page.locator(".scroll").evaluate_all(wide) == []
        names = one.page.locator(".scroll tbody th").evaluate_all("all => all.map((one) => one.offsetWidth)")
        assert max(names) < 0.75 * width, "a long name leaves room for its row"
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

UNNAMED = """[...document.querySelectorAll("button, select, input, canvas, svg[role=img]")].filter((one) =>
  !(one.getAttribute("aria-label") || one.textContent.trim() || one.closest("label"))).map((one) => one.outerHTML)"""

CONTRAST = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (text) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => {
    const part = (value) => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    return .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour[3] > .99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const element of document.querySelectorAll(".notice-lens *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || element.closest(".hidden") || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const name = element.className + ": " + element.textContent.trim().slice(0, 40);
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), name]);
  }
  return found;
}"""
