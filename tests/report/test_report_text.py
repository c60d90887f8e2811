"""Text of the report in the browser: words are marked where they stand, long ones break, and all can be read."""

from dataclasses import replace

import pytest

import made_results as made
from browsing import needs_browser, opened, until
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.roles import ALL
from notice_lens.report.data import ReportData
from report_pages import button, shown

pytestmark = needs_browser


NASTY = "<script>alert(1)</script>"


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
