"""The findings of a report in sentences, with their evidence."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import DIFFERENCE, GAP
from notice_lens.report.data import ReportData, ShownCondition
from notice_lens.report.page_data import ranked_by, share_of, shown_effect, task_of
from notice_lens.report.small_pictures import SMALLEST, is_controlled
from notice_lens.stats.dims import HEADS
from notice_lens.viz import words
from notice_lens.viz.circuit_figures import ENOUGH, EnoughHeads, enough_heads, headline, in_brackets
from notice_lens.viz.head_figures import ranked
from notice_lens.viz.selection import bound, is_tested

IDLE = 0.001
"""Heads whose effects are smaller than this share in every condition do nothing."""
DIFFERS = {"image": "where the picture is changed", "text": "where the question is changed"}
"""Of a condition, by its corruption."""
MEANT = {
    "implicit segmentation": "looks at what is asked about, and the answer suffers where that is cut",
    "object inhibition": "looks away from what is asked about, and holds the answer back",
    "outlier inhibition": "looks away from patches of outlying size, and the answer gains where these are cut",
}
"""Functions of heads, in plain words."""


def findings(data: ReportData) -> list[str]:
    """Return the findings in a few sentences, as commands print them."""
    together = [f"{_called(data, name)}: {headline(one)}." for name, one in data.curves.items()]
    return [*together, *single_heads(data)]


def single_heads(data: ReportData) -> list[str]:
    """Return the findings about single heads: the strongest, universal ones, and what they do."""
    count = data.conditions[0].heads.sizes["layer"] * data.conditions[0].heads.sizes["head"]
    said = [_strongest_said(data), *_without_heads(data)]
    if data.universal is not None:
        passed = [head_name(*place) for place in head_places(data.universal["universal"])]
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
            enough = " with enough pairs" if data.universal.sizes["condition"] < len(data.conditions) else ""
            none = f"No head is universal: none of {count} is significant in {all_of(data.universal)}{enough}."
            said.insert(0, none + _nearest(data.universal))
    if data.labels:
        said += _functions_said(data)
    return said


def _functions_said(data: ReportData) -> list[str]:
    """Return a sentence on each function that heads have, or the one sentence that no head has a function."""
    given = [row for row in data.labels if row.get("label") and row.get("layer") is not None]
    several = len({condition.task for condition in data.conditions}) > 1
    heads: dict[str, list[str]] = {}
    for row in given:
        task = task_of(row) if several else None
        name = head_name(row["layer"], row["head"]) + (f" in {task}" if task else "")
        heads.setdefault(str(row["label"]), []).append(name)
    if not heads:
        return ["No head has a function that cutting its attention confirms."]
    return [
        f"{kind.capitalize()}, confirmed by cutting attention: {', '.join(dict.fromkeys(names))}."
        + (f" Such a head {MEANT[kind]}." if kind in MEANT else "")
        for kind, names in heads.items()
    ]


def few_heads(data: ReportData) -> str:
    """Return one sentence on how few heads carry the answer over all conditions; empty where none was measured."""
    enough = [enough_heads(one) for one in data.curves.values()]
    if not enough:
        return ""
    sizes, shares = [one.size for one in enough], [100 * one.share[0] for one in enough]
    of_images = all(one.corruption == "image" for one in data.conditions if one.name in data.curves)
    where = f"In each of {len(enough)} {'tasks' if of_images else 'conditions'}, " if len(enough) > 1 else ""
    verb = "carries" if max(sizes) == 1 else "carry"
    way = " from picture to words" if of_images else ""
    controls = {
        "as many random heads": [100 * one.random[0] for one in enough],
        "the same heads from an unrelated picture": [100 * one.mismatched[0] for one in enough],
    }
    beside = [f"{who} {_percents(values)}" for who, values in controls.items() if np.isfinite(values).all()]
    reached = min(shares) >= 100 * ENOUGH
    amount = f"{_percents([100 * ENOUGH])} of the answer and more" if reached else f"{_percents(shares)} of the answer"
    return (
        f"{where}{_range(sizes)} of {enough[0].n} {enough[0].what} {verb} {amount}{way}"
        + (f"; {' and '.join(beside)}" if beside else "")
        + "."
    )


def few_heads_rows(data: ReportData) -> list[dict[str, str]]:
    """Return a row for each condition: answers as expected, how few heads are enough, and what controls restore.

    Where all conditions are of pictures, their tasks name them.
    """
    known = {one.name: one for one in data.conditions}
    tasks = {
        name: known[name].task if name in known and known[name].corruption == "image" else "" for name in data.curves
    }
    names = tasks if len({*tasks.values()} - {""}) == len(tasks) else {name: _called(data, name) for name in tasks}
    facts = {name: known[name].facts if name in known else {} for name in names}
    return [_few_heads_row(names[name], facts[name], enough_heads(one)) for name, one in data.curves.items()]


def _few_heads_row(name: str, facts: Mapping[str, Any], enough: EnoughHeads) -> dict[str, str]:
    kept, asked = facts.get("answered_as_expected", (None, None))
    return {
        "name": name,
        "answered": "" if asked is None else f"{kept} of {asked}",
        "heads": f"{enough.size} of {enough.n}",
        "which": ", ".join(enough.names),
        "share": in_brackets(enough.share),
        **{
            control: in_brackets(share) if np.isfinite(share[0]) else "not measured"
            for control, share in (("random", enough.random), ("mismatched", enough.mismatched))
        },
    }


def _percents(values: list[float]) -> str:
    return f"{_range([round(value) for value in values])}\N{NO-BREAK SPACE}%"


def _range(numbers: list[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _called(data: ReportData, name: str) -> str:
    """Return a condition's name in words."""
    return next((in_words(one) for one in data.conditions if one.name == name), name)


def in_words(condition: ShownCondition) -> str:
    """Return a condition in words, if its name is its task and corruption: `states, where the question is changed`."""
    if condition.name == f"{condition.task}, {condition.corruption}" and condition.corruption in DIFFERS:
        return f"{condition.task}, {DIFFERS[condition.corruption]}"
    return condition.name


def _without_heads(data: ReportData) -> list[str]:
    """Return a sentence on the tested conditions in which no head is significant, if other conditions have one."""
    tested = [one for one in data.conditions if "significant" in one.heads and is_tested(one.heads)]
    none = [in_words(one) for one in tested if not bool(one.heads["significant"].any())]
    return [f"No single head is significant in {'; nor in '.join(none)}."] if 0 < len(none) < len(tested) else []


def claimed(row: Any, several: bool) -> str:
    """A label, with its task where there are several: it was tested on the pairs of that task alone."""
    task = task_of(row) if several else None
    return str(row["label"]) + (f" in {task}" if task else "")


def about(data: ReportData) -> str:
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


def all_of(universal: xr.Dataset) -> str:
    """The conditions in which a universal head has to matter, in words."""
    conditions, k = universal.sizes["condition"], universal.attrs.get("at_least")
    return f"all {conditions} conditions" if k in (None, conditions) else f"at least {k} of {conditions} conditions"


def _strongest_said(data: ReportData) -> str:
    tested = [each for each in data.conditions if is_tested(each.heads)]  # of few pairs any effect may look large
    condition = max(
        tested or data.conditions,
        key=lambda each: bound(each.heads["effect"]) if np.isfinite(each.heads["effect"]).any() else 0,
    )
    best = strongest(condition)
    if not best["size"] >= SMALLEST:
        where = dict.fromkeys(f" at “{each.role}”" for each in data.conditions if each.role is not None)
        at = where.popitem()[0] if len(where) == 1 else ""
        least = words.percent(SMALLEST, 2).removeprefix("+")
        return f"No head has an effect{at}: all are below {least} of the gap."
    one = condition.heads.sel(layer=best["layer"], head=best["head"])
    said = f"Strongest: {head_name(best['layer'], best['head'])} in {in_words(condition)}"
    if share_of(condition) != GAP and {"effect_matched", "effect_mismatched"} <= set(one):
        matched, mismatched = (words.with_interval(one, f"effect_{name}") for name in ("matched", "mismatched"))
        if "effect_of_gap" in one:
            beyond = f"{words.with_interval(one, 'effect_of_gap')} of the gap"
        else:
            beyond = f"{best['said']} of {share_of(condition)}"
        said += (
            f": alone it restores {matched} of the gap, and {mismatched} from an unrelated picture. "
            f"The difference is {beyond}"
        )
    else:
        beyond = " beyond what a mismatched image does" if ranked_by(condition) == DIFFERENCE else ""
        said += f": alone it restores {best['said']} of {share_of(condition)}{beyond}"
    tested, q = _null(condition, best)
    return f"{said}{tested} ({'; '.join(filter(None, [q, evidence(condition)]))})."


def _null(condition: ShownCondition, best: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a head was tested against with what result, and its q; nothing where the heads say neither."""
    heads = condition.heads
    if "q" not in heads or "smallest_effect" not in heads.attrs:
        return "", ""
    found = float(heads["q"].sel(layer=best["layer"], head=best["head"]))
    least = f"{100 * float(heads.attrs['smallest_effect']):.3g}\xa0%"
    if not np.isfinite(found):
        return f": {words.UNTESTED} against {least}", ""
    q = words.small(found)
    sure = "" if found <= float(heads.attrs.get("alpha", 0.05)) else "not "
    said = f": {sure}significantly more than {least}, corrected for all heads"
    return said, f"q {q}" if q.startswith("<") else f"q = {q}"


def evidence(condition: ShownCondition) -> str:
    """Return the numbers of pairs and clusters of a condition."""
    attrs = condition.heads.attrs
    pairs = int(attrs.get("pairs", condition.facts.get("pairs", 0)))
    said, clusters = words.counted(pairs, "pair"), int(attrs.get("clusters", pairs))
    return f"{said}, {words.counted(clusters, 'cluster')}" if clusters != pairs else said


def _nearest(universal: xr.Dataset) -> str:
    if "count" not in universal:
        return ""
    flat = universal.stack(place=HEADS, create_index=False)
    first = flat.isel(place=int(ranked(universal)[0]))
    if int(first["count"]) == 0:
        return " No head is significant in any of them."
    name = head_name(int(first["layer"]), int(first["head"]))
    return f" The nearest is {name}, significant in {int(first['count'])} of {universal.sizes['condition']}."


def part_intervals(data: ReportData) -> str:
    """Return a sentence on the intervals of matched and mismatched, or an empty string."""
    known = [one for one in data.conditions if is_controlled(one) and "effect_matched_low" in one.heads]
    if not known:
        return ""
    levels = {level(condition.heads.attrs) for condition in known}
    clusters = "; ".join(f"{condition.name}: {evidence(condition)}" for condition in known)
    said = "the interval" if len(levels) > 1 else f"the {levels.pop()} interval"
    return f"In brackets stands {said} of each, by resampling clusters of pairs ({clusters}); no effect would be 0."


def worked_example(data: ReportData) -> str:
    """Return the arithmetic behind the largest effect that is a share of what a mismatched donor leaves of the gap.

    Empty if no effect of the report is such a share.
    """
    parts = {"effect_matched", "effect_mismatched", "effect_of_gap"}
    known = [one for one in data.conditions if share_of(one) != GAP and parts <= {*map(str, one.heads)}]
    if not known:
        return ""
    condition = max(known, key=lambda one: bound(one.heads["effect"]))
    best = strongest(condition)
    one = condition.heads.sel(layer=best["layer"], head=best["head"])
    matched, mismatched, of_gap, effect = (
        100 * float(one[name]) for name in ("effect_matched", "effect_mismatched", "effect_of_gap", "effect")
    )
    if not np.isfinite([matched, mismatched, of_gap, effect]).all() or effect == 0:
        return ""
    return (
        f"For instance {head_name(best['layer'], best['head'])} in {condition.name}: matched {matched:.1f} less "
        f"mismatched {mismatched:.1f} is {of_gap:.1f}\N{NO-BREAK SPACE}% of the gap. The unrelated picture, "
        f"with all of its run, leaves {100 * of_gap / effect:.0f}\N{NO-BREAK SPACE}% of the gap to bring back, and of "
        f"that it is {effect:.1f}\N{NO-BREAK SPACE}%."
    )


def idle_heads(data: ReportData) -> str:
    """Return a sentence on heads that do nothing in any condition, if half of them do: random heads say little then."""
    effects = [one.heads["effect"].stack(place=HEADS, create_index=False) for one in data.conditions]
    if not data.curves or len({one.sizes["place"] for one in effects}) > 1:
        return ""
    largest = np.max([np.abs(one.fillna(0).values) for one in effects], axis=0)
    idle = int((largest < IDLE).sum())
    if 2 * idle < len(largest):
        return ""
    least = words.percent(IDLE).removeprefix("+")
    return (
        f"{idle} of the {len(largest)} heads do nothing here (below {least} in every condition), so random heads are "
        "a weak control in this model."
    )


def elsewhere(data: ReportData) -> str:
    """Return a sentence on where curves and maps patch, if these differ; else nothing."""
    roles = {one.role for one in data.conditions if one.name in data.curves} - {"all", None}
    if not roles:
        return ""
    where = " or ".join(f"“{role}”" for role in sorted(map(str, roles)))
    return (
        f"These heads are patched at all words at once. The maps below patch one head at {where} alone, so that a head "
        "that reads the picture into another word may be in this table and show 0 there."
    )


def level(attrs: Mapping[Any, Any]) -> str:
    """Return the level of a result's intervals, such as `95 %`."""
    return f"{100 * float(attrs.get('confidence', 0.95)):.3g}\N{NO-BREAK SPACE}%"


def head_name(layer: Any, head: Any) -> str:
    """Return a head's name, such as `L2.H3`."""
    return f"L{layer}.H{head}"


def head_places(found: xr.DataArray) -> list[tuple[int, int]]:
    """Return layer and head of the heads that are true in a table."""
    table = found.transpose(*HEADS)
    rows, columns = table["layer"].values, table["head"].values
    return [(int(rows[i]), int(columns[j])) for i, j in np.argwhere(table.values.astype(bool))]


def strongest(condition: ShownCondition) -> dict[str, Any]:
    """The head with the largest effect, either way."""
    sizes = abs(condition.heads["effect"]).fillna(-1.0).values
    row, column = np.unravel_index(int(sizes.argmax()), sizes.shape)
    one = condition.heads.isel(layer=int(row), head=int(column))
    size = float(sizes[row, column])
    said = words.with_interval(one, shown_effect(condition))
    return {"layer": int(one["layer"]), "head": int(one["head"]), "size": size, "said": said}
