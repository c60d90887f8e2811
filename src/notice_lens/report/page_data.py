"""The data of the page's script: conditions, pairs and attention maps as one JSON value, within a budget of bytes."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import GAP
from notice_lens.report.data import ReportData, ShownCondition, ShownPair
from notice_lens.report.image_bytes import address
from notice_lens.report.plain import plain
from notice_lens.viz.selection import bound, is_tested
from notice_lens.viz.words import interval_of

MAP_BYTES = 7_500_000
"""Of the page, for attention maps; pictures and the rest come on top."""
SIZE_STEPS = 65_535
"""Class tokens and largest patches go as 16 bits."""
CONTROLLED = ("effect_matched", "effect_mismatched")
SHARES = ("effect", "effect_of_gap", *CONTROLLED)
VALUES = (*SHARES, *(end for name in SHARES for end in interval_of(name)), "p", "q")
FLAGS = ("two_sigma", "significant")
SCORES = ("auroc", "auroc_null", "pointing", "iou", "q_segmentation", "q_avoidance", "q_outlier")


class Kept(NamedTuple):
    """The part of the attention that fits the page: roles, and the pairs of each condition, None for all."""

    roles: tuple[str, ...]
    most: int | None


def safe_json(value: Any) -> str:
    """JSON that may stand in a script element: no character in it can end the element, begin a comment or a line.

    `<`, `>` and `&` are escaped everywhere, and so are U+2028 and U+2029, which end lines in JavaScript.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def ranked_by(condition: ShownCondition) -> str:
    """Return what a condition ranks heads by: matched minus mismatched, or matched."""
    return str(condition.heads.attrs.get("ranked_by", "effect"))


def share_of(condition: ShownCondition) -> str:
    """Return the denominator of a condition's effects: the gap, or what a mismatched donor leaves of it."""
    return str(condition.heads.attrs.get("share_of", GAP))


def shown_effect(condition: ShownCondition) -> str:
    """Return which effect a condition's map shows: a share of the gap, so that all numbers of a page have one unit."""
    return "effect_of_gap" if share_of(condition) != GAP and "effect_of_gap" in condition.heads else "effect"


def colour_limit(data: ReportData) -> float:
    """Return the end of the scale of all heat maps: one for all, so that they can be compared.

    Ends of intervals are in no map; of few pairs they may be many times an effect.
    """
    shown = [(one.heads, name) for one in data.conditions for name in (shown_effect(one), *CONTROLLED)]
    return bound(*(heads[name] for heads, name in shown if name in heads))


def page_data(data: ReportData, map_bytes: int = MAP_BYTES) -> dict[str, Any]:
    """Everything that the script needs.

    Args:
        data: Of the report.
        map_bytes: What attention maps may take.
    """
    kept = fitting(data, map_bytes)
    sent = _sent(data, kept)
    return {
        "limit": colour_limit(data),
        "conditions": [_condition(condition, kept, sent) for condition in data.conditions],
        "pairs": [_pair(data.pairs[number]) for number in sent],
        "attention": None if data.attention is None else _attention(data, kept, sent),
        "functions": [
            {"name": name, "conditions": _conditions_of(name, data, everywhere=True), **_scores(one)}
            for name, one in data.functions.items()
        ],
        "labels": [
            {"layer": row["layer"], "head": row["head"], "label": row["label"], "conditions": places}
            for row, places in zip(data.labels, label_places(data), strict=True)
            if row.get("layer") is not None and row.get("label")
        ],
    }


def task_of(row: Mapping[str, Any]) -> str | None:
    """Return the task whose pairs a label was tested on; None where the row does not say."""
    evidence = row.get("evidence")
    return row.get("task") or (evidence.get("task") if isinstance(evidence, Mapping) else None)


def label_places(data: ReportData) -> list[list[int]]:
    """Return, for each label, the numbers of the conditions that it is about: those of its task.

    A label that names no task is about the conditions of the one task that there is; of several tasks it could be any,
    and it is shown at none.
    """
    only = {condition.task for condition in data.conditions}
    tasks = [task_of(row) or (next(iter(only)) if len(only) == 1 else None) for row in data.labels]
    return [_conditions_of(task, data) for task in tasks]


def _conditions_of(task: str | None, data: ReportData, *, everywhere: bool = False) -> list[int]:
    """Return the numbers of a task's conditions; of a name that is no task all of them where `everywhere` says so."""
    found = [number for number, condition in enumerate(data.conditions) if condition.task == task]
    return found or (list(range(len(data.conditions))) if everywhere else [])


def fitting(data: ReportData, map_bytes: int) -> Kept:
    """Return what fits the budget: everything, else only the roles that are read, else fewer pairs of each."""
    if data.attention is None:
        return Kept((), None)
    roles = tuple(map(str, data.attention["role"].values))
    if _bytes(data, Kept(roles, None)) <= map_bytes:
        return Kept(roles, None)
    read = tuple(role for role in roles if role in {condition.role for condition in data.conditions}) or roles[:1]
    longest = max((len(condition.shown) for condition in data.conditions), default=1)
    most = longest
    while most > 1 and _bytes(data, Kept(read, most)) > map_bytes:
        most -= 1
    return Kept(read, None if most == longest else most)


def _bytes(data: ReportData, kept: Kept) -> float:
    """Return the size of the maps in base64, in bytes."""
    assert data.attention is not None
    each = int(np.prod([data.attention.sizes[dim] for dim in ("layer", "head", "patch")]))
    there = data.attention["largest"].isel(layer=0, head=0).notnull().sel(role=list(kept.roles))
    return float(there.isel(pair=_sent(data, kept)).sum()) * each * 4 / 3


def _sent(data: ReportData, kept: Kept) -> list[int]:
    """Return the pairs that the page shows, which it counts anew; the others' pictures would only take room."""
    return sorted({number for condition in data.conditions for number in condition.shown[: kept.most]})


def _condition(condition: ShownCondition, kept: Kept, sent: Sequence[int]) -> dict[str, Any]:
    found = {name: _rounded(condition.heads[name].values.ravel()) for name in VALUES if name in condition.heads}
    found |= {
        name: plain(condition.heads[name].values.astype(bool).ravel()) for name in FLAGS if name in condition.heads
    }
    return {
        "name": condition.name,
        "task": condition.task,
        "role": condition.role,
        "ranked": ranked_by(condition),
        "of": share_of(condition),
        "inMap": shown_effect(condition),
        "tested": is_tested(condition.heads),
        "runs": list(condition.runs),
        "layers": plain(condition.heads["layer"].values),
        "heads": plain(condition.heads["head"].values),
        "values": found,
        "shown": [sent.index(number) for number in condition.shown[: kept.most]],
        "byPair": [_rounded(row.ravel()) for row in condition.by_pair[: kept.most]],
    }


def _rounded(values: Any) -> list[Any]:
    """Return numbers with five significant digits; None for NaN."""
    return [None if not np.isfinite(value) else float(f"{value:.5g}") for value in np.asarray(values, float)]


def _pair(pair: ShownPair) -> dict[str, Any]:
    bits = {
        side: {name: "".join("01"[bool(each)] for each in np.ravel(mask)) for name, mask in found.items()}
        for side, found in pair.regions.items()
    }
    return {
        "id": pair.id,
        "task": pair.task,
        "group": pair.group,
        "prompts": dict(pair.prompts),
        "answers": dict(pair.answers),
        "spans": plain(pair.spans),
        "pictures": {side: address(picture.content, picture.kind) for side, picture in pair.pictures.items()},
        "regions": bits,
    }


def _attention(data: ReportData, kept: Kept, sent: Sequence[int]) -> dict[str, Any]:
    """Maps by pair and run: the roles that are there, their patches, largest patches, and the rest, in base64."""
    assert data.attention is not None
    chosen = data.attention.sel(role=list(kept.roles))
    maps = {str(place): _maps_of(chosen.isel(pair=number)) for place, number in enumerate(sent)}
    labels = {f"{dim}s": plain(chosen[dim].values) for dim in ("role", "layer", "head")}
    return {"grid": plain(chosen.attrs["grid"]), "beside": chosen.attrs["beside"], **labels, "maps": maps}


def _maps_of(one: xr.Dataset) -> dict[str, Any]:
    found = {}
    for run in one["run"].values.tolist():
        at = one.sel(run=run)
        there = np.isfinite(at["largest"].isel(layer=0, head=0).values)
        if there.any():
            kept = at.isel(role=np.flatnonzero(there))
            sizes = np.stack([kept["largest"].values, kept["elsewhere"].values])
            found[run] = {
                "roles": np.flatnonzero(there).tolist(),
                "patches": _base64(kept["attention"].values),
                "sizes": _base64((np.clip(sizes, 0, 1) * SIZE_STEPS).round().astype("<u2")),
            }
    return found


def _base64(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _scores(functions: xr.Dataset) -> dict[str, Any]:
    """Scores of attention by role, region, layer and head."""
    at = functions.sel(maps="attention") if "maps" in functions.dims else functions
    dims: Sequence[str] = ("role", "region", "layer", "head")
    names = [name for name in SCORES if name in at and set(at[name].dims) == set(dims)]
    labels = {f"{dim}s": plain(at[dim].values) for dim in dims if dim in at.coords}
    return labels | {"scores": {name: _rounded(at[name].transpose(*dims).values.ravel()) for name in names}}
