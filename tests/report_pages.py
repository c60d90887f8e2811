"""A report of two conditions, and the heads of its page, for tests in a browser."""

from typing import Any

import made_results as made
from notice_lens.pairs import mini_world
from notice_lens.report.data import ReportData


def two_conditions(mini: Any) -> ReportData:
    """The report of one task under two corruptions."""
    pairs = mini_world("states", 8)
    conditions = {"states, image": pairs, "states, text": pairs}
    effects = {name: made.swept(pairs, name.split(", ")[1], seed=number) for number, name in enumerate(conditions)}
    important = {name: made.important(seed=number) for number, name in enumerate(conditions)}
    return ReportData.collect(
        mini, conditions, effects, important=important, universal=made.universal(important), functions=made.functions(),
        labels=made.labels(), profiles=dict.fromkeys(conditions, made.profile()), progress=False,
    )  # fmt: skip


def button(page: Any, condition: int, layer: int, head: int) -> Any:
    return page.locator(f"[data-map='{condition}'] button[data-layer='{layer}'][data-head='{head}']")


def shown(page: Any, condition: int, layer: int, head: int) -> None:
    page.wait_for_selector(f".notice-lens[data-shown='{condition}/{layer}/{head}']")
