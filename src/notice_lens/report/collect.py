"""From results, pairs and a model to the data of a report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import DIFFERENCE, GAP, LEFT
from notice_lens.errors import one_of
from notice_lens.pairs.roles import ALL
from notice_lens.patching.results import CARRIED
from notice_lens.report.data import ReportData, ReportPicture, ShownCondition, ShownPair
from notice_lens.report.image_bytes import thumbnail
from notice_lens.report.label_rows import label_rows
from notice_lens.report.maps import maps_of_runs, packed
from notice_lens.report.plain import plain
from notice_lens.stats.dims import HEADS
from notice_lens.viz.marked_text import replaced
from notice_lens.viz.selection import averaged

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.pairs.minimal_pair import MinimalPair

OF_A_CONDITION = (
    "direction",
    "contrast",
    "source",
    "sites",
    "pairs_source",
    "pairs_below_min_gap",
    "pairs_without_donor",
)
"""Attributes of a sweep that may differ between conditions; others that all share are settings of the report."""


def collect(
    model: "VisionLanguageModel | None",
    pairs: Mapping[str, "MinimalPairs"],
    effects: Mapping[str, xr.Dataset],
    given: Mapping[str, Mapping[str, xr.Dataset]],
    rest: Mapping[str, Any],
    roles: Sequence[str] | None,
    max_pairs: int,
    progress: bool,
) -> ReportData:
    """Return the data of a report; arguments and errors as of `ReportData.collect`.

    Args:
        model: The model, or None.
        pairs: By condition.
        effects: By condition.
        given: `important`, `profiles`, `curves` and `graphs`, by condition each.
        rest: The other fields of `ReportData`, in the caller's form.
        roles: Whose attention is kept.
        max_pairs: Of each condition.
        progress: Whether there is a bar.
    """
    _check(pairs, effects, given, max_pairs)
    keys = {name: _keys(one) for name, one in pairs.items()}
    chosen = {name: _chosen(name, keys, effects[name], pairs[name], max_pairs) for name in effects}
    numbers: dict[Any, int] = {}
    added: dict[str, list[int]] = {name: [] for name in effects}
    for name, places in chosen.items():
        for place in places:
            if keys[name][place] not in numbers:
                numbers[keys[name][place]] = len(numbers)
                added[name].append(place)
    conditions = tuple(
        _condition(
            name, effects[name], pairs[name], given, chosen[name], [numbers[keys[name][i]] for i in chosen[name]]
        )
        for name in effects
    )
    grid = None if model is None else _grid(model, pairs)
    shown = tuple(_shown(pairs[name][place], grid) for name, places in added.items() for place in places)
    runs = list(dict.fromkeys(run for condition in conditions for run in condition.runs))
    kept = {name: pairs[name].select(places) for name, places in added.items() if places}
    looks = _looks(model, effects) and bool(kept)
    attention = _attention(model, kept, runs, roles, progress) if model is not None and looks else None
    fields = dict(rest) | {
        "functions": _by_name(rest["functions"]),
        "labels": label_rows(rest["labels"]),
        "curves": {name: without_pairs(one) for name, one in given["curves"].items()},
        "graphs": {name: _checked_graph(one) for name, one in given["graphs"].items()},
        "notes": tuple(map(str, rest["notes"])),
        "settings": _shared(effects) | plain(rest["settings"]),
    }
    return ReportData(conditions=conditions, pairs=shown, attention=attention, **fields)


def _check(pairs: Any, effects: Any, given: Any, max_pairs: int) -> None:
    if not effects:
        raise ValueError("no effects: a report needs the result of at least one sweep, by its condition's name")
    for name in effects:
        if name not in pairs:
            raise ValueError(f"effects of the condition {name!r} come without pairs: " + one_of("pairs", name, pairs))
    for what, results in {"pairs": pairs, **given}.items():
        for name in results:
            if name not in effects:
                raise ValueError(
                    f"{what} are given for a condition that has no effects: " + one_of("condition", name, effects)
                )
    if max_pairs < 0:
        raise ValueError(f"max_pairs={max_pairs}: expected a number of pairs, 0 or more")


def without_pairs(curve: xr.Dataset) -> xr.Dataset:
    """Return a restoration curve without what it has for each pair."""
    if not {"share", "turned", "mismatched"} <= {*map(str, curve.data_vars)}:
        raise ValueError("curves: expected results of circuits.restoration_curve, by condition")
    return curve.drop_dims("pair")


def _checked_graph(graph: xr.Dataset) -> xr.Dataset:
    """Return a circuit's graph. Raises ValueError if it is something else."""
    if not {"source", "target", "via", "effect", "node"} <= {*map(str, graph.variables)}:
        raise ValueError("graphs: expected results of circuits.circuit_graph, by condition")
    return graph


def _keys(pairs: "MinimalPairs") -> list[Any]:
    """Return a key for each pair that no pair of another condition has."""
    columns = ("id", "clean_digest", "corrupt_digest", "clean_prompt", "corrupt_prompt")
    return list(zip(*(pairs[column] for column in columns), strict=True))


def _chosen(name: str, keys: Any, effects: xr.Dataset, pairs: "MinimalPairs", most: int) -> list[int]:
    """Return the pairs of a condition to show: pairs that other conditions share come first, for comparison."""
    ids = pairs["id"]
    lacking = [one for one in effects["pair"].values.tolist() if one not in set(ids)]
    if lacking:
        raise ValueError(
            f"effects of the condition {name!r} are of other pairs: {len(lacking)} of {effects.sizes['pair']} are not "
            f"among its {len(ids)} pairs, such as {lacking[0]!r}"
        )
    swept = set(effects["pair"].values.tolist())
    others = [set(found) for condition, found in keys.items() if condition != name]
    places = [place for place, one in enumerate(ids) if one in swept]
    shared = {place: sum(keys[name][place] in found for found in others) for place in places}
    return sorted(sorted(places, key=lambda place: -shared[place])[:most])


def _condition(
    name: str, effects: xr.Dataset, pairs: "MinimalPairs", given: Any, places: list[int], numbers: list[int]
) -> ShownCondition:
    important = given["important"].get(name)
    where = {} if important is None else {"role": important.attrs["role"]}
    mean = averaged(effects, None, where, HEADS, "report")
    role = str(mean.coords["role"].item()) if "role" in mean.coords else ALL
    single = effects["patching_effect"]
    single = single.sel(role=role) if "role" in single.dims else single
    ids = [pairs["id"][place] for place in places]
    by_pair = single.sel(pair=ids).transpose("pair", *HEADS).values.astype(np.float32)
    heads = important if important is not None else plain_means(effects, where)
    tasks = list(dict.fromkeys(effects["task"].values.tolist())) if "task" in effects.coords else [name]
    return ShownCondition(
        name=name,
        task=", ".join(map(str, tasks)),
        corruption=str(effects.attrs.get("corruption", "image")),
        role=role,
        heads=heads.transpose(*HEADS, ...),
        shown=tuple(numbers),
        by_pair=by_pair,
        facts=_facts(effects) | _answered(pairs, effects.attrs.get("corruption")),
        profile=given["profiles"].get(name),
    )


def plain_means(effects: xr.Dataset, where: Mapping[str, Any]) -> xr.Dataset:
    """Mean effects by layer and head, without statistics: matched minus mismatched where there is a control."""
    matched = averaged(effects, "patching_effect", where, HEADS, "report").drop_vars("n")
    control = effects.get("patching_effect_mismatched")
    if control is None or not bool(control.notnull().any()):
        return xr.Dataset({"effect": matched}).drop_attrs().assign_attrs(ranked_by="the effect")
    mismatched = averaged(effects, "patching_effect_mismatched", where, HEADS, "report").drop_vars("n")
    of_gap = matched - mismatched
    known = CARRIED in effects
    effect = averaged(effects, CARRIED, where, HEADS, "report").drop_vars("n") if known else of_gap
    parts = {"effect": effect, "effect_of_gap": of_gap, "effect_matched": matched, "effect_mismatched": mismatched}
    said = {"ranked_by": DIFFERENCE, "share_of": LEFT if known else GAP}
    return xr.Dataset(parts).drop_attrs().assign_attrs(said)


def _facts(effects: xr.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = {"pairs": effects.sizes["pair"]}
    for name in ("logit_diff_clean", "logit_diff_corrupt"):
        if name in effects:
            found[name] = float(effects[name].mean())
    if "noise_floor" in effects:
        found["noise_floor"] = float(effects["noise_floor"].max())
    return plain(found | {name: effects.attrs[name] for name in OF_A_CONDITION if name in effects.attrs})


def _answered(pairs: "MinimalPairs", corruption: object) -> dict[str, Any]:
    """Return how many pairs the model answered as expected, by the last behaviour filter for a corruption, if any."""
    filters = [one for one in pairs.manifest.steps if one["step"] == "behaviour_filter" and "of" in one]
    ours = [one for one in filters if one["corruption"] == corruption]
    return {"answered_as_expected": [ours[-1]["kept"], ours[-1]["of"]]} if ours else {}


def _shared(effects: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Attributes on which all results agree."""
    first, *others = [one.attrs for one in effects.values()]
    same = {
        name: value for name, value in first.items() if all(plain(each.get(name)) == plain(value) for each in others)
    }
    skipped = {*OF_A_CONDITION, "corruption", "pairs", "rows_at_a_time", "pairs_at_a_time"}
    return plain({name: value for name, value in same.items() if name not in skipped})


def _grid(model: "VisionLanguageModel", pairs: Mapping[str, "MinimalPairs"]) -> tuple[int, int] | None:
    """Rows and columns of patches that all pairs' images have; None where conditions differ in them."""
    from notice_lens.models.protocol import image_stream

    grids = {one.layout(model).grid(image_stream(model.cfg)) for one in pairs.values() if len(one)}
    return grids.pop() if len(grids) == 1 else None


def _shown(pair: "MinimalPair", grid: tuple[int, int] | None) -> ShownPair:
    from notice_lens.models.layout import resample

    prompts = {"clean": pair.clean_prompt} | ({"corrupt": pair.corrupt_prompt} if pair.corrupt_prompt else {})
    answers = {"clean": pair.correct_answer, "image": pair.incorrect_answer}
    answers |= {"text": pair.corrupt_answer} if pair.corrupt_answer else {}
    spans: dict[str, dict[str, tuple[int, int]]] = {"clean": dict(pair.roles)}
    if pair.corrupt_prompt:
        found = replaced(pair.clean_prompt, pair.corrupt_prompt)
        spans["corrupt"] = {f"replaced {number}": span for number, span in enumerate(found, 1)}
    pictures = {side: ReportPicture(*thumbnail(getattr(pair, f"{side}_image"))) for side in ("clean", "corrupt")}
    cells = grid or (1, 1)
    masks = {side: getattr(pair, f"{side}_regions") for side in ("clean", "corrupt")} if grid else {}
    regions = {side: {name: resample(mask, cells) for name, mask in found.items()} for side, found in masks.items()}
    return ShownPair(pair.id, pair.task, pair.group, prompts, answers, spans, pictures, regions)


def _looks(model: "VisionLanguageModel | None", effects: Mapping[str, xr.Dataset]) -> bool:
    """Return whether the swept heads attend to the image, so that their maps can be laid over it."""
    if model is None:
        return False
    stack, _, module = model.cfg.looking_site.partition(".")
    looking = f'"stack": "{stack}", "activation": "{module}.'
    return any(looking in str(one.attrs.get("sites", looking)) for one in effects.values())


def _attention(
    model: "VisionLanguageModel", kept: Mapping[str, "MinimalPairs"], runs: list[str], roles: Any, progress: bool
) -> xr.Dataset:
    """Maps of all pairs in one array; a role that a pair lacks is NaN."""
    parts = []
    for one in kept.values():
        known = {ALL, *(role for found in one.token_spans(model) for role in found)}
        wanted = [role for role in roles if role in known] if roles is not None else None
        parts.append(packed(maps_of_runs(model, one, runs=runs, roles=wanted, progress=progress)))
    named = list(dict.fromkeys(role for part in parts for role in part["role"].values.tolist()))
    fill = {"attention": np.uint8(0), "largest": np.nan, "elsewhere": np.nan}
    same = [part.reindex(role=named, fill_value=fill) for part in parts]
    return cast(xr.Dataset, xr.concat(same, "pair", join="exact", combine_attrs="override"))


def _by_name(functions: Any) -> dict[str, xr.Dataset]:
    if functions is None:
        return {}
    return (
        {functions.attrs.get("task") or "all pairs": functions}
        if isinstance(functions, xr.Dataset)
        else dict(functions)
    )
