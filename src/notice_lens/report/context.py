"""The context of the page's template: its tables and heat maps, beside sentences and small pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP
from notice_lens.report.data import ReportData, ShownCondition
from notice_lens.report.image_bytes import address
from notice_lens.report.page_data import Kept, colour_limit, label_places, ranked_by, share_of, shown_effect, task_of
from notice_lens.report.sentences import (
    about,
    all_of,
    claimed,
    elsewhere,
    few_heads,
    few_heads_rows,
    head_name,
    idle_heads,
    level,
    part_intervals,
    single_heads,
    strongest,
    worked_example,
)
from notice_lens.report.small_pictures import curve, finite, forest, forest_limits, graph, is_controlled, profile
from notice_lens.stats.dims import HEADS
from notice_lens.viz import words
from notice_lens.viz.head_figures import ranked
from notice_lens.viz.selection import MINUS, bound, is_tested

MOST_UNIVERSAL = 12
"""Heads in the table of universal heads, unless more are universal."""
WIDE = 10
"""Heads a layer: from here on each heat map has the full width."""


def page_context(data: ReportData, kept: Kept) -> dict[str, Any]:
    """The template's `page`.

    Args:
        data: Of the report.
        kept: What of the attention is on the page.
    """
    limits, limit = forest_limits(data.conditions), colour_limit(data)
    return {
        "title": data.title,
        "few_heads": few_heads(data),
        "few_heads_rows": few_heads_rows(data),
        "few_heads_level": _same([level(one.attrs) for one in data.curves.values()] or [""], ""),
        "idle": idle_heads(data),
        "elsewhere": elsewhere(data),
        "left_out": [note for note in data.notes if ": left out, " in note],
        "worked_example": worked_example(data),
        "findings": single_heads(data),
        "first_pair": _first_pair(data),
        "curves": [curve(name, one) for name, one in data.curves.items()],
        "graphs": [graph(name, one) for name, one in data.graphs.items()],
        "about": about(data),
        "conditions": [
            {"number": number, **_condition(condition, limit)} for number, condition in enumerate(data.conditions)
        ],
        "has_rules": any({"significant", "two_sigma"} & set(condition.heads) for condition in data.conditions),
        "tested": any(is_tested(condition.heads) for condition in data.conditions),
        "scale_end": words.percent(limit, 0).removeprefix("+"),
        "intervals": any("low" in condition.heads for condition in data.conditions),
        "part_intervals": part_intervals(data),
        "controlled": any(map(is_controlled, data.conditions)),
        "forests": [
            {
                "name": condition.name,
                "number": number,
                "ranked": ranked_by(condition),
                "controlled": is_controlled(condition),
                "twice": is_controlled(condition) and ranked_by(condition) == "matched",
                "rows": forest(condition, limits),
            }
            for number, condition in enumerate(data.conditions)
            if is_controlled(condition) or "low" in condition.heads
        ],
        "ranked": _ranked(data),
        "of": _same([_unit(one) for one in data.conditions], "the gap, or of what the donor leaves of it"),
        "carried": any(share_of(condition) != GAP for condition in data.conditions),
        "wide": max(condition.heads.sizes["head"] for condition in data.conditions) > WIDE,
        "layers": _labels(data, "layer"),
        "heads": _labels(data, "head"),
        "roles": list(kept.roles),
        "no_attention": "Where these heads look is not part of this report: they do not look at the image, or no model "
        "was at hand when the data were collected.",
        "fewer": _fewer(kept),
        "universal": _universal(data),
        "tasks": any(task_of(row) for row in data.labels),
        "labels": [_label(row, places, data) for row, places in zip(data.labels, label_places(data), strict=True)],
        "profiles": [profile(condition) for condition in data.conditions if condition.profile is not None],
        "notes": list(data.notes),
        "settings": [(name.replace("_", " "), words.one_line(value)) for name, value in data.settings.items()],
    }


def _first_pair(data: ReportData) -> dict[str, Any] | None:
    """The first pair that two pictures tell apart: the pictures, the question, and the answer to each; None without."""
    for condition in data.conditions:
        if condition.corruption != "image" or not condition.shown:
            continue
        pair = data.pairs[condition.shown[0]]
        if {"clean", "corrupt"} <= {*pair.pictures} and pair.prompts.get("clean"):
            sides = (("clean", "clean", "clean picture"), ("corrupt", "image", "corrupted picture"))
            return {
                "question": pair.prompts["clean"],
                "pictures": [
                    {
                        "address": address(pair.pictures[side].content, pair.pictures[side].kind),
                        "answer": pair.answers.get(answer, ""),
                        "side": told,
                        "alt": f"The {told} of pair {pair.id}",
                    }
                    for side, answer, told in sides
                ],
            }
    return None


def _ranked(data: ReportData) -> str:
    """Return the unit of the numbers, if it is the same in all conditions."""
    return _same([ranked_by(condition) for condition in data.conditions], "what is ranked, as each map says")


def _same(kinds: Sequence[str], otherwise: str) -> str:
    return kinds[0] if len({*kinds}) == 1 else otherwise


def _labels(data: ReportData, dim: str) -> list[int]:
    return sorted({int(label) for condition in data.conditions for label in condition.heads[dim].values})


def _condition(condition: ShownCondition, limit: float) -> dict[str, Any]:
    attrs, facts = condition.heads.attrs, condition.facts
    pairs = str(attrs.get("pairs", facts.get("pairs", "")))
    pairs += f" ({attrs['clusters']} clusters)" if "clusters" in attrs else ""
    ends = [facts.get(f"logit_diff_{run}") for run in ("clean", "corrupt")]
    gap = " → ".join(f"{float(end):.1f}".replace("-", MINUS) for end in ends if end is not None)
    counts: dict[str, Any] = {
        name: int(condition.heads[name].sum()) for name in ("significant", "two_sigma") if name in condition.heads
    }
    if "significant" in counts and not is_tested(condition.heads):
        counts["significant"] = words.UNTESTED
    centre = finite(condition.profile.get("centre_of_mass")) if condition.profile is not None else None
    said = {name: value for name, value in attrs.items() if name not in facts}
    return {
        "name": condition.name,
        "role": condition.role,
        "pairs": pairs,
        "gap": gap if None not in ends else "none",
        "ranked": ranked_by(condition),
        "of": _unit(condition),
        "best": strongest(condition),
        "significant": counts.get("significant", words.UNTESTED),
        "two_sigma": counts.get("two_sigma", words.UNTESTED),
        "centre": "none" if centre is None else f"layer {centre:.1f}",
        "heads": condition.heads["head"].values.tolist(),
        "rows": _rows(condition, limit),
        "empty": not np.isfinite(condition.heads["effect"]).any(),
        "facts": [(name.replace("_", " "), words.one_line(value)) for name, value in {**facts, **said}.items()],
    }


def _rows(condition: ShownCondition, limit: float) -> list[dict[str, Any]]:
    """A heat map's rows, one button a cell."""
    return [
        {
            "layer": layer,
            "cells": [_button(condition, i, j, limit) for j in range(condition.heads.sizes["head"])],
        }
        for i, layer in enumerate(condition.heads["layer"].values.tolist())
    ]


def _button(condition: ShownCondition, i: int, j: int, limit: float) -> dict[str, Any]:
    one, name = condition.heads.isel(layer=i, head=j), shown_effect(condition)
    head = int(one["head"])
    label = f"{head_name(int(one['layer']), head)}: {words.with_interval(one, name)}"
    if "significant" in one or "two_sigma" in one:
        label += f"; rules passed: {words.rules(one)}"
    shade, text = words.shade(one[name], limit), words.whole(one[name])
    return {"head": head, "shade": shade, "frame": words.frame(one), "label": label, "text": text, "first": i == j == 0}


def _unit(condition: ShownCondition) -> str:
    """Return what the numbers of a condition's map are shares of."""
    return share_of(condition) if shown_effect(condition) == "effect" else GAP


def _universal(data: ReportData) -> dict[str, Any] | None:
    """The table of universal heads, or of those that come nearest."""
    if data.universal is None:
        return None
    flat = data.universal.stack(place=HEADS, create_index=False)
    count = int(flat["universal"].sum())
    order = ranked(data.universal)[: max(count, MOST_UNIVERSAL)]
    limit = bound(flat["effect"])
    more = "below them those that come nearest" if count else "these come nearest"
    said = f"{count or 'No'} head{'' if count == 1 else 's'} of {flat.sizes['place']} " + (
        "passes" if count == 1 else "pass"
    )
    parts = [f"{said} in {all_of(data.universal)}", words.by_layers(data.universal), more]
    attrs = {name: str(value) for name, value in data.universal.attrs.items() if "rule" in str(name)}
    conditions = words.counted(data.universal.sizes["condition"], "condition")
    untested = not np.isfinite(flat.get("p", 1.0)).any()
    return {
        "said": f"{words.UNTESTED.capitalize()}: too few clusters of pairs. Heads over {conditions}, the largest first."
        if untested
        else f"{'; '.join(filter(None, parts))}.",
        "conditions": [str(name) for name in data.universal["condition"].values],
        "rows": [_universal_row(flat.isel(place=int(place)), limit, data) for place in order],
        "rules": [f"{str(name).replace('_', ' ')}: {value}" for name, value in attrs.items()],
    }


def _universal_row(one: xr.Dataset, limit: float, data: ReportData) -> dict[str, Any]:
    """A head's effect in each condition, and what follows over all of them."""
    layer, head = int(one["layer"]), int(one["head"])
    numbers = {condition.name: number for number, condition in enumerate(data.conditions)}
    conditions = []
    for place, name in enumerate(one["condition"].values):
        at = one.isel(condition=place)
        said = {"shade": words.shade(at["effect"], limit), "frame": words.frame(at), "text": words.whole(at["effect"])}
        label = f"{head_name(layer, head)} in {name}: {words.with_interval(at)}"
        conditions.append(said | {"number": numbers.get(str(name)), "label": label})
    largest = conditions[int(np.argmax(abs(one["effect"].fillna(0)).values))]
    several = len({condition.task for condition in data.conditions}) > 1
    found = [row for row in data.labels if (row.get("layer"), row.get("head")) == (layer, head) and row.get("label")]
    frequency = finite(one["selection_frequency"]) if one.get("selection_frequency", one["head"]).ndim == 0 else None
    return {
        "layer": layer,
        "head": head,
        "number": largest["number"],
        "universal": bool(one["universal"]),
        "conditions": conditions,
        "p": words.small(one.get("p", np.nan)),
        "q": words.small(one.get("q", np.nan)),
        "selected": words.UNTESTED if frequency is None else f"{frequency:.0%}",
        "functions": ", ".join(dict.fromkeys(claimed(row, several) for row in found)) or "none found",
    }


def _label(row: Any, places: Sequence[int], data: ReportData) -> dict[str, Any]:
    """A label with its task and its evidence; where nothing could be tested, why.

    Its button opens the condition of its task in which the head has the largest effect.
    """
    untested = row.get("testable") is False
    known = ("layer", "head", "label", "evidence", "reason", "testable", "task")
    more = {name: value for name, value in row.items() if name not in known}
    evidence = row.get("evidence")
    if isinstance(evidence, Mapping):
        evidence = {name: value for name, value in evidence.items() if name != "task"}
    said = [words.one_line(each) for each in (evidence, row.get("reason"), more) if each]
    where = {"layer": row.get("layer"), "head": row.get("head")}
    there = [number for number in places if all(where[dim] in data.conditions[number].heads[dim] for dim in HEADS)]
    sizes = {number: abs(float(data.conditions[number].heads["effect"].sel(where))) for number in there}
    label = row.get("label") or ("not testable" if untested else "none")
    best = max(there, key=lambda number: np.nan_to_num(sizes[number], nan=-1.0), default=None)
    return {**where, "number": best, "task": task_of(row) or "", "label": label, "evidence": "; ".join(said)}


def _fewer(kept: Kept) -> str:
    if kept.most is None:
        return ""
    pairs = words.counted(kept.most, "pair")
    said = f"it has the attention of {pairs} a condition at {', '.join(kept.roles)}; the saved data have all"
    return f"To keep this file small, {said}."
