"""Several conditions in one report: every button, number and label in the browser is that of its own condition."""

from dataclasses import replace
from typing import Any

import pytest

from browsing import needs_browser, opened
from notice_lens import viz
from notice_lens.viz.words import interval_of
from report_pages import button, shown

pytestmark = needs_browser


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
            for each in row.locator("button[data-head]").all():
                column = each.evaluate("one => one.closest('th, td').cellIndex")
                name = f"L{each.get_attribute('data-layer')}.H{each.get_attribute('data-head')}"
                each.click()
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
                assert each.get_attribute("aria-pressed") == "true"
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
    names = {
        "matched": "effect_matched", "mismatched": "effect_mismatched", "matched minus mismatched": "effect_of_gap",
        "of what the donor leaves": "effect",
    }  # fmt: skip
    for label, name in names.items():
        values = [f"{100 * float(heads[each]):+.1f}" for each in (name, *interval_of(name))]
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
    columns = [table.locator("thead th").all_inner_texts() for table in page.locator("table.forests").all()]
    assert ["mismatched [interval]" in names for names in columns] == [True, False], (
        "a condition without donors has no such column"
    )


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
