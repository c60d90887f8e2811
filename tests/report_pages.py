"""Reports of two conditions and of two tasks, and the heads of their pages, for tests in a browser."""

import json
import re
from typing import Any

import numpy as np

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


def two_tasks_of(mini: Any) -> ReportData:
    """Two tasks, the second without donors and with too few clusters for a test; each has a label of the same head."""
    conditions = {"states, image": mini_world("states", 4), "scenes, image": mini_world("scenes", 4)}
    effects = {name: made.swept(pairs, seed=number) for number, (name, pairs) in enumerate(conditions.items())}
    tested = made.important()
    few = made.untested(made.important(seed=1)).drop_vars("effect_mismatched")
    for name in ("effect", "effect_of_gap"):
        few[name][{"layer": 2, "head": 5}] = np.nan
    return ReportData.collect(
        mini, conditions, effects, important={"states, image": tested, "scenes, image": few}, progress=False,
        universal=made.universal({"states, image": tested, "scenes, image": few}),
        functions={"states": made.functions(), "scenes": made.functions()},
        labels=[{"layer": 1, "head": 2, "label": "implicit segmentation", "task": "states"},
                {"layer": 1, "head": 2, "label": "object inhibition", "task": "scenes"}],
    )  # fmt: skip


def stored(text: str) -> Any:
    """The JSON that the script reads."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1])


def button(page: Any, condition: int, layer: int, head: int) -> Any:
    return page.locator(f"[data-map='{condition}'] button[data-layer='{layer}'][data-head='{head}']")


def shown(page: Any, condition: int, layer: int, head: int) -> None:
    page.wait_for_selector(f".notice-lens[data-shown='{condition}/{layer}/{head}']")
