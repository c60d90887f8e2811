"""The context of the page's template: every sentence, table and small picture, from the data of a report."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import DIFFERENCE, GAP
from notice_lens.report.data import ReportData, ShownCondition
from notice_lens.report.image_bytes import address
from notice_lens.report.page_data import Kept, label_places, ranked_by, share_of, task_of
from notice_lens.stats.dims import HEADS
from notice_lens.viz import words
from notice_lens.viz.circuit_figures import headline
from notice_lens.viz.head_figures import ranked
from notice_lens.viz.selection import MINUS, bound, is_tested

STRONGEST = 6
"""Heads of a condition that are compared."""


def ends(conditions: Sequence[ShownCondition]) -> tuple[float, float]:
    """The smallest and the largest effect that is compared, and zero between them."""
    names = ("effect_matched", "effect_mismatched")
    values = np.concatenate(
        [np.zeros(1), *(condition.heads[name].values.ravel() for condition in conditions for name in names)]
    )
    return float(np.nanmin(values)), float(np.nanmax(values))


def is_controlled(condition: ShownCondition) -> bool:
    """Return whether any head has a mismatched effect: without donors there is nothing to compare with."""
    return "effect_mismatched" in condition.heads and bool(np.isfinite(condition.heads["effect_mismatched"]).any())


def contrast(condition: ShownCondition, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """The strongest heads: matched and mismatched effect as places in a picture 240 pixels wide, in words."""
    flat = condition.heads.stack(place=HEADS, create_index=False)
    order = np.argsort(-abs(flat["effect"]).fillna(-1.0).values, kind="stable")[:STRONGEST]
    drawn = flat.isel(place=order)
    scale = 220 / (limits[1] - limits[0] or 1.0)

    def x(value: Any) -> float | None:
        return round(10 + scale * (float(value) - limits[0]), 1) if np.isfinite(value) else None

    return [
        {
            "layer": int(one["layer"]),
            "head": int(one["head"]),
            "matched": words.with_interval(one, "effect_matched"),
            "mismatched": words.with_interval(one, "effect_mismatched"),
            "x_matched": x(one["effect_matched"]),
            "x_mismatched": x(one["effect_mismatched"]),
            "zero": x(0.0),
            "said": words.with_interval(one),
            "p": words.small(one.get("p", np.nan)),
            "q": words.small(one.get("q", np.nan)),
            "rules": words.rules(one),
        }
        for one in (drawn.isel(place=place) for place in range(drawn.sizes["place"]))
    ]


def profile(condition: ShownCondition) -> dict[str, Any]:
    """A condition's shares by layer as bars in a picture 150 pixels high, whose base line is at 120."""
    found = condition.profile
    assert found is not None
    shares = found["share"].values
    tops = found["high"].values if "high" in found else shares
    scale = 110 / float(np.nanmax(np.concatenate([tops, shares, [1e-9]])))
    step = max(18.0, 240 / len(shares))

    def y(name: str, number: int) -> float | None:
        value = float(found[name].values[number]) if name in found else np.nan
        return round(120 - scale * value, 1) if np.isfinite(value) else None

    bars = [
        {
            "layer": int(layer),
            "x": round(number * step + step * 0.15, 1),
            "middle": round((number + 0.5) * step, 1),
            "width": round(step * 0.7, 1),
            "y": y("share", number),
            "height": round(scale * float(share), 1),
            "low": y("low", number),
            "high": y("high", number),
        }
        for number, (layer, share) in enumerate(zip(found["layer"].values, shares, strict=True))
    ]
    listed = ", ".join(f"layer {bar['layer']} {_in_percent(share)}" for bar, share in zip(bars, shares, strict=True))
    centre = finite(found.get("centre_of_mass"))
    first = float(found["layer"].values[0])
    return {
        "name": condition.name,
        "width": round(step * len(shares), 1),
        "bars": bars,
        "centre": None if centre is None else round((centre - first + 0.5) * step, 1),
        "label": f"{condition.name}: {listed}",
        "said": _centre_said(found, centre),
    }


def curve(name: str, found: xr.Dataset) -> dict[str, Any]:
    """What the best heads of a condition carry together, as lines in a picture 260 by 150 whose base line is at 120."""
    restored, sizes = found.sel(direction="denoise"), found["size"].values
    scale = 240 / max(1, int(sizes[-1]))

    def line(values: Any) -> str:
        """Return the points of a line; values that are not numbers are left out."""
        return " ".join(
            f"{10 + scale * float(size):.1f},{120 - 105 * float(np.clip(value, -0.1, 1.1)):.1f}"
            for size, value in zip(sizes, np.asarray(values, float), strict=True)
            if np.isfinite(value)
        )

    band = f"{line(restored['share_low'])} {' '.join(reversed(line(restored['share_high']).split()))}"
    return {
        "name": name,
        "said": headline(found),
        "share": line(restored["share"]),
        "band": band,
        "random": line(restored["random"]),
        "mismatched": line(found["mismatched"]),
        "most": int(sizes[-1]),
    }


def finite(value: Any) -> float | None:
    """Return the number, or None where it is missing or not a number."""
    return None if value is None or not np.isfinite(value) else float(value)


def _in_percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "none"


def _centre_said(profile: xr.Dataset, centre: float | None) -> str:
    low, high = finite(profile.get("centre_low")), finite(profile.get("centre_high"))
    said = [] if centre is None else [f"centre of mass {centre:.2f}"]
    if centre is not None and low is not None and high is not None:
        said[0] += f" [{low:.2f}, {high:.2f}]"
    if (middle := finite(profile.get("middle_share"))) is not None:
        said.append(f"middle layers {middle:.0%}{_between(profile, 'middle_low', 'middle_high')}")
    if "middle_p" in profile:
        p = words.small(profile["middle_p"])
        said.append(p if p == words.UNTESTED else f"p {p}" if p.startswith("<") else f"p = {p}")
    return "; ".join(said)


def _between(profile: xr.Dataset, *ends: str) -> str:
    """Return an interval of shares in brackets, or an empty string."""
    low, high = (finite(profile.get(end)) for end in ends)
    return "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"


MOST_UNIVERSAL = 12
"""Heads in the table of universal heads, unless more are universal."""
SMALLEST = 0.0005
"""Of the gap: an effect that is printed as 0.0 % is no finding."""
WIDE = 10
"""Heads a layer: from here on each heat map has the full width."""


def page_context(data: ReportData, kept: Kept) -> dict[str, Any]:
    """The template's `page`.

    Args:
        data: Of the report.
        kept: What of the attention is on the page.
    """
    controlled = {number: condition for number, condition in enumerate(data.conditions) if is_controlled(condition)}
    limits = ends(list(controlled.values()))
    return {
        "title": data.title,
        "findings": findings(data),
        "first_pair": _first_pair(data),
        "curves": [curve(name, one) for name, one in data.curves.items()],
        "about": _about(data),
        "conditions": [
            {"number": number, **_condition(condition, _limit(data))}
            for number, condition in enumerate(data.conditions)
        ],
        "has_rules": any({"significant", "two_sigma"} & set(condition.heads) for condition in data.conditions),
        "tested": any(is_tested(condition.heads) for condition in data.conditions),
        "scale_end": words.percent(_limit(data), 0).removeprefix("+"),
        "intervals": any("low" in condition.heads for condition in data.conditions),
        "part_intervals": _part_intervals(data),
        "contrasts": [
            {
                "name": condition.name,
                "number": number,
                "ranked": ranked_by(condition),
                "rows": contrast(condition, limits),
            }
            for number, condition in controlled.items()
        ],
        "ranked": _ranked(data),
        "of": _same(
            [share_of(condition) for condition in data.conditions], "the gap, or of what the donor leaves of it"
        ),
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


def findings(data: ReportData) -> list[str]:
    """Return the findings in a few sentences, for the top of the page and for commands to print."""
    count = data.conditions[0].heads.sizes["layer"] * data.conditions[0].heads.sizes["head"]
    together = [f"{name}: {headline(one)}." for name, one in data.curves.items()]
    said = [_strongest_said(data)]
    if data.universal is not None:
        passed = [_name(*place) for place in _places(data.universal["universal"])]
        conditions, null = (
            words.counted(data.universal.sizes["condition"], "condition"),
            words.by_layers(data.universal),
        )
        if not np.isfinite(data.universal.get("p", 1.0)).any():
            said.insert(0, f"Universal heads: not tested over {conditions}, there are too few clusters of pairs.")
        elif passed:
            verb = "is" if len(passed) == 1 else "are"
            beside = "; ".join(
                filter(None, [f"{len(passed)} of {count} heads {verb} universal over {conditions}", null])
            )
            said.insert(0, f"{beside}: {', '.join(passed)}.")
        else:
            none = f"No head is universal: none of {count} passes in {_all_of(data.universal)}"
            said.insert(0, f"{'; '.join(filter(None, [none, null]))}.{_nearest(data.universal)}")
    if data.labels:
        given = [row for row in data.labels if row.get("label") and row.get("layer") is not None]
        several = len({condition.task for condition in data.conditions}) > 1
        found = dict.fromkeys(f"{_name(row['layer'], row['head'])} ({_claimed(row, several)})" for row in given)
        said.append(
            f"With causal evidence for what they do: {', '.join(found)}." if found else
            "No head has a function with causal evidence."
        )  # fmt: skip
    return [*together, *said]


def _first_pair(data: ReportData) -> dict[str, Any] | None:
    """The first pair that two pictures tell apart: the pictures, the question, and the answer to each; None without."""
    for condition in data.conditions:
        if condition.corruption != "image" or not condition.shown:
            continue
        pair = data.pairs[condition.shown[0]]
        if {"clean", "corrupt"} <= {*pair.pictures} and pair.prompts.get("clean"):
            sides = (("clean", "clean", "The clean picture"), ("corrupt", "image", "The corrupted picture"))
            return {
                "question": pair.prompts["clean"],
                "pictures": [
                    {
                        "address": address(pair.pictures[side].content, pair.pictures[side].kind),
                        "answer": pair.answers.get(answer, ""),
                        "alt": f"{told} of pair {pair.id}",
                    }
                    for side, answer, told in sides
                ],
            }
    return None


def _claimed(row: Any, several: bool) -> str:
    """A label, with its task where there are several: it was tested on the pairs of that task alone."""
    task = task_of(row) if several else None
    return str(row["label"]) + (f" in {task}" if task else "")


def _about(data: ReportData) -> str:
    """Return the scope of the report in one line."""
    heads, said = data.conditions[0].heads, []
    sites = re.findall(r'"stack": "(\w+)", "activation": "(\w+)\.', str(data.conditions[0].facts.get("sites", "")))
    said.append(
        f"{heads.sizes['layer']} layers x {heads.sizes['head']} heads" + (f" of {'.'.join(sites[0])}" if sites else "")
    )
    said.append(words.counted(len(data.conditions), "condition"))
    if model := str(data.settings.get("model", "")):
        said.append(f"model {PurePath(model).name}")
    return " · ".join([*said, f"notice-lens {data.settings.get('notice_lens', '')}".strip()])


def _all_of(universal: xr.Dataset) -> str:
    """The conditions in which a universal head has to matter, in words."""
    conditions, k = universal.sizes["condition"], universal.attrs.get("at_least")
    return f"all {conditions} conditions" if k in (None, conditions) else f"at least {k} of {conditions} conditions"


def _strongest_said(data: ReportData) -> str:
    tested = [each for each in data.conditions if is_tested(each.heads)]  # of few pairs any effect may look large
    condition = max(
        tested or data.conditions,
        key=lambda each: bound(each.heads["effect"]) if np.isfinite(each.heads["effect"]).any() else 0,
    )
    best = _best(condition)
    if not best["size"] >= SMALLEST:
        where = dict.fromkeys(f" at “{each.role}”" for each in data.conditions if each.role is not None)
        at = where.popitem()[0] if len(where) == 1 else ""
        least = words.percent(SMALLEST, 2).removeprefix("+")
        return f"No head has an effect{at}: all are below {least} of the gap."
    what = " beyond what a mismatched image does" if ranked_by(condition) == DIFFERENCE else ""
    of, more = share_of(condition), ""
    if of != GAP:
        one = condition.heads.sel(layer=best["layer"], head=best["head"])
        more = f" ({words.with_interval(one, 'effect_of_gap')} of the gap)" if "effect_of_gap" in one else ""
        what = ""
    where = f"{_name(best['layer'], best['head'])} in {condition.name}"
    return f"Strongest: {where}, {best['said']} of {of}{more}{what}; {_evidence(condition)}{_null(condition, best)}."


def _null(condition: ShownCondition, best: Mapping[str, Any]) -> str:
    """Return what a head was tested against, and with what result; nothing where the heads say neither."""
    heads = condition.heads
    if "q" not in heads or "smallest_effect" not in heads.attrs:
        return ""
    q = words.small(heads["q"].sel(layer=best["layer"], head=best["head"]))
    tested = f"q {q}" if q.startswith("<") else f"q = {q}"
    least = f"{100 * float(heads.attrs['smallest_effect']):.3g}\xa0%"
    if q == words.UNTESTED:
        return f"; {words.UNTESTED} against {least}"
    return f"; {tested} that it is no larger than {least} of it, all heads allowed for"


def _evidence(condition: ShownCondition) -> str:
    """Return the numbers of pairs and clusters of a condition."""
    attrs = condition.heads.attrs
    said = words.counted(int(attrs.get("pairs", condition.facts.get("pairs", 0))), "pair")
    return f"{said}, {words.counted(int(attrs['clusters']), 'cluster')}" if "clusters" in attrs else said


def _nearest(universal: xr.Dataset) -> str:
    if "count" not in universal:
        return ""
    flat = universal.stack(place=HEADS, create_index=False)
    first = flat.isel(place=int(ranked(universal)[0]))
    if int(first["count"]) == 0:
        return " No head is significant in any of them."
    name = _name(int(first["layer"]), int(first["head"]))
    return f" The nearest is {name}, significant in {int(first['count'])} of {universal.sizes['condition']}."


def _part_intervals(data: ReportData) -> str:
    """Return a sentence on the intervals of matched and mismatched, or an empty string."""
    known = [one for one in data.conditions if is_controlled(one) and "effect_matched_low" in one.heads]
    if not known:
        return ""
    levels = {f"{100 * float(condition.heads.attrs.get('confidence', 0.95)):.3g}\xa0%" for condition in known}
    clusters = "; ".join(f"{condition.name}: {_evidence(condition)}" for condition in known)
    said = "the interval" if len(levels) > 1 else f"the {levels.pop()} interval"
    return f"In brackets stands {said} of each, by resampling clusters of pairs ({clusters}); no effect would be 0."


def _ranked(data: ReportData) -> str:
    """Return the unit of the numbers, if it is the same in all conditions."""
    return _same([ranked_by(condition) for condition in data.conditions], "what is ranked, as each map says")


def _same(kinds: Sequence[str], otherwise: str) -> str:
    return kinds[0] if len({*kinds}) == 1 else otherwise


def _name(layer: Any, head: Any) -> str:
    return f"L{layer}.H{head}"


def _labels(data: ReportData, dim: str) -> list[int]:
    return sorted({int(label) for condition in data.conditions for label in condition.heads[dim].values})


def _places(found: xr.DataArray) -> list[tuple[int, int]]:
    table = found.transpose(*HEADS)
    rows, columns = table["layer"].values, table["head"].values
    return [(int(rows[i]), int(columns[j])) for i, j in np.argwhere(table.values.astype(bool))]


def _best(condition: ShownCondition) -> dict[str, Any]:
    """The head with the largest effect, either way."""
    sizes = abs(condition.heads["effect"]).fillna(-1.0).values
    row, column = np.unravel_index(int(sizes.argmax()), sizes.shape)
    one = condition.heads.isel(layer=int(row), head=int(column))
    size = float(sizes[row, column])
    return {"layer": int(one["layer"]), "head": int(one["head"]), "size": size, "said": words.with_interval(one)}


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
        "of": share_of(condition),
        "best": _best(condition),
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
            "cells": [
                _button(condition.heads.isel(layer=i, head=j), layer, head, limit, first=i == j == 0)
                for j, head in enumerate(condition.heads["head"].values.tolist())
            ],
        }
        for i, layer in enumerate(condition.heads["layer"].values.tolist())
    ]


def _button(one: xr.Dataset, layer: int, head: int, limit: float, *, first: bool) -> dict[str, Any]:
    label = f"{_name(layer, head)}: {words.with_interval(one)}"
    if "significant" in one or "two_sigma" in one:
        label += f"; rules passed: {words.rules(one)}"
    shade, text = words.shade(one["effect"], limit), words.whole(one["effect"])
    return {"head": head, "shade": shade, "frame": words.frame(one), "label": label, "text": text, "first": first}


def _limit(data: ReportData) -> float:
    """Return the end of the scale of all heat maps: one for all, so that they can be compared."""
    every = [
        condition.heads[name]
        for condition in data.conditions
        for name in condition.heads.data_vars
        if str(name).startswith("effect")
    ]
    return bound(*every)


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
    parts = [f"{said} in {_all_of(data.universal)}", words.by_layers(data.universal), more]
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
        label = f"{_name(layer, head)} in {name}: {words.with_interval(at)}"
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
        "functions": ", ".join(dict.fromkeys(_claimed(row, several) for row in found)) or "none found",
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
