"""A study: pairs in; universal heads, what they do, and a report out. Commands of `notice-lens` carry one out.

1. Each task under each corruption is a *cell*. Pairs that the model does not answer as they ask are dropped.
2. Every head of the site is patched on every pair that is left, with both controls; a sweep that was killed goes on.
3. Before anything is looked at, role, metric and rules are fixed (`Choices`). Heads of each cell, universal heads, the
   profile over layers, and what heads do are read by these alone.
4. All of it goes into one folder, and a report is written from it.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens import circuits, patching
from notice_lens.pairs import MinimalPairs, Noise, behaviour_filter
from notice_lens.study_tables import agreement, label_rows, untested, write_tables
from notice_lens.viz.page_context import findings
from notice_lens.viz.report_data import ReportData

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP

FEWEST = 2
"""Pairs that a cell needs."""
SAVED = "report"
"""Folder of what a page is written from."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What is fixed before a study runs.

    Attributes:
        site: Whose heads are patched.
        corruptions: Of `image`, `text`, and `Noise(...)` as a baseline: it is compared with, and is no cell.
        role: At which effects are read.
        direction: `denoise` or `noise`.
        smallest_effect: Of interest, as a share of the gap.
        alpha: Error rate over heads.
        at_least: In how many cells a universal head matters; `all`, or a number.
        filtered: Whether pairs that the model does not answer are dropped.
        labelled: Heads of each task that are cut to see what they do, at most.
        shown: Pairs of each cell in the report.
        seed: Of all that is drawn.
    """

    site: str = "text.cross_attn"
    corruptions: tuple[str | Noise, ...] = ("image", "text")
    role: str | None = "correct"
    direction: str = "denoise"
    smallest_effect: float = 0.02
    alpha: float = 0.05
    at_least: int | str = "all"
    filtered: bool = True
    labelled: int = 8
    shown: int = 24
    seed: int = 0

    def rules(self) -> dict[str, Any]:
        """Options of the statistics."""
        return {"role": self.role, "smallest_effect": self.smallest_effect, "alpha": self.alpha, "seed": self.seed}


@dataclass
class Study:
    """What a study found.

    Attributes:
        choices: What was fixed before.
        pairs: Of each cell.
        effects: Of each cell, and of noise under `<task>, noise`.
        important: Of each cell: its heads.
        profiles: Of each cell: its layers.
        universal: Heads that matter in all cells; None with one cell.
        functions: Of each task: where its heads look.
        labels: Of each task: what heads may be called.
        comparisons: Of each task: what corruptions agree on.
        notes: What was left out, and why.
        data: What a report shows.
    """

    choices: Choices
    pairs: dict[str, MinimalPairs] = field(default_factory=dict)
    effects: dict[str, "xr.Dataset"] = field(default_factory=dict)
    important: dict[str, "xr.Dataset"] = field(default_factory=dict)
    profiles: dict[str, "xr.Dataset"] = field(default_factory=dict)
    universal: "xr.Dataset | None" = None
    functions: dict[str, "xr.Dataset"] = field(default_factory=dict)
    labels: dict[str, "xr.Dataset"] = field(default_factory=dict)
    comparisons: dict[str, "xr.Dataset"] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    data: "ReportData | None" = None

    @property
    def cells(self) -> dict[str, "xr.Dataset"]:
        """Effects of the cells, without those of noise."""
        return {name: own for name, own in self.effects.items() if name in self.pairs and not name.endswith(", noise")}

    def findings(self) -> list[str]:
        """What was found, a sentence each."""
        assert self.data is not None, "a study that was carried out"
        return [*findings(self.data), *self.notes]


def run_study(
    blip: "HookedBLIP",
    tasks: Mapping[str, MinimalPairs],
    folder: Path,
    choices: Choices | None = None,
    *,
    say: Say = lambda text: None,
    progress: bool = True,
    **options: Any,
) -> Study:
    """Carries a study out, and writes everything but the page into a folder.

    Args:
        blip: The model.
        tasks: Pairs by task.
        folder: Where results go; an earlier run's sweeps there are gone on with.
        choices: What is fixed before.
        say: Is told what is being done.
        progress: Whether there are bars.
        **options: Of sweeps: `memory`, `metrics`, ...

    Raises:
        ValueError: No cell has pairs that the model answers, or a sweep cannot be as asked for.
    """
    choices = choices or Choices()
    found = Study(choices)
    folder.mkdir(parents=True, exist_ok=True)
    _sweeps(blip, tasks, folder, found, say, {**options, "progress": progress})
    if not found.cells:
        raise ValueError("no cell is left to patch: " + "; ".join(found.notes))
    say("statistics ...")
    _statistics(found)
    say("what heads do ...")
    _functions(blip, tasks, found, progress)
    data = _collected(blip, found, progress)
    data.save(folder / SAVED)
    found.data = data
    write_tables(found.important, found.universal, found.labels, folder / "tables")
    return found


def _sweeps(
    blip: "HookedBLIP", tasks: Mapping[str, MinimalPairs], folder: Path, found: Study, say: Say, options: dict[str, Any]
) -> None:
    """Steps 1 and 2: the pairs of each cell, and what every head does there."""
    choices = found.choices
    for task, pairs in tasks.items():
        for corruption in choices.corruptions:
            noisy = isinstance(corruption, Noise)
            name = f"{task}, {'noise' if noisy else corruption}"
            kept = _kept(blip, pairs, "image" if noisy else str(corruption), name, found, options["progress"])
            if kept is None:
                continue
            say(f"{name}: patching {choices.site} on {len(kept)} pairs ...")
            found.pairs[name] = kept
            found.effects[name] = patching.patch_heads(
                blip, kept, choices.site, corruption=corruption, direction=choices.direction, seed=choices.seed,
                positions=None if choices.role else "all", store=folder / "cells" / f"{name}.zarr", **options,
            )  # fmt: skip


def _kept(
    blip: "HookedBLIP", pairs: MinimalPairs, corruption: str, name: str, found: Study, progress: bool
) -> MinimalPairs | None:
    """The pairs of a cell; None where there are too few."""
    if corruption == "text":
        some = [number for number, prompt in enumerate(pairs["corrupt_prompt"]) if prompt is not None]
        if len(some) < FEWEST:
            found.notes.append(f"{name}: left out, {len(some)} of {len(pairs)} pairs have a corrupted question.")
            return None
        pairs = pairs.select(some)
    if not found.choices.filtered:
        return pairs
    kept = behaviour_filter(blip, pairs, corruption, progress=progress)
    if len(kept) < FEWEST:
        found.notes.append(
            f"{name}: left out, the model answers {len(kept)} of {len(pairs)} pairs as they ask (the clean run right, "
            "the corrupted one otherwise)."
        )
        return None
    if len(kept) < len(pairs):
        found.notes.append(f"{name}: {len(kept)} of {len(pairs)} pairs, those that the model answers as they ask.")
    return kept


def _statistics(found: Study) -> None:
    """Step 3: heads of each cell, universal ones, layers, and corruptions beside each other."""
    rules, cells = found.choices.rules(), found.cells
    of_profiles = {"role": found.choices.role, "seed": found.choices.seed}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name, effects in cells.items():
            found.important[name] = circuits.important_heads(effects, **rules)
            found.profiles[name] = circuits.layer_profile(effects, **of_profiles)
        if len(cells) > 1:
            found.universal = circuits.universal_heads(cells, at_least=found.choices.at_least, **rules)
        for task in dict.fromkeys(name.rpartition(", ")[0] for name in found.effects):
            own = {name.rpartition(", ")[2]: one for name, one in found.effects.items() if name.startswith(f"{task}, ")}
            shared = set.intersection(*({*one["pair"].values.tolist()} for one in own.values()))
            if len(own) > 1 and len(shared) > 1:
                found.comparisons[task] = circuits.compare_corruptions(own, **rules)
    found.notes += dict.fromkeys(f"{one.message}" for one in said)


def _functions(blip: "HookedBLIP", tasks: Mapping[str, MinimalPairs], found: Study, progress: bool) -> None:
    """What heads do, on the pairs of each task's first cell; labels where cutting them confirms it."""
    choices = found.choices
    for task in tasks:
        name = next((cell for cell in found.cells if cell.startswith(f"{task}, ")), None)
        if name is None or not choices.site.endswith("cross_attn") or choices.role is None:
            continue
        pairs = found.pairs[name]
        found.functions[task] = circuits.head_functions(
            blip, pairs, choices.site, roles=[choices.role], maps=["attention"], progress=progress
        )
        heads = _candidates(found, task)
        if heads:
            found.labels[task] = circuits.label_heads(
                blip, pairs, found.functions[task], heads, alpha=choices.alpha, seed=choices.seed, progress=progress
            )


def _candidates(found: Study, task: str) -> list[tuple[int, int]]:
    """The heads of a task that matter most: significant in one of its cells or standing out, the strongest first."""
    strength: dict[tuple[int, int], float] = {}
    for name, own in found.important.items():
        if name.startswith(f"{task}, "):
            frame = own[["effect", "significant", "two_sigma"]].to_dataframe()
            frame = frame[frame.significant | frame.two_sigma].reset_index()
            for layer, head, effect in zip(frame.layer, frame["head"], frame.effect, strict=True):
                strength[layer, head] = max(strength.get((layer, head), 0.0), abs(effect))
    return sorted(strength, key=lambda head: -strength[head])[: found.choices.labelled]


def _collected(blip: "HookedBLIP", found: Study, progress: bool) -> ReportData:
    """Step 4: what the page shows."""
    choices = found.choices
    corruptions = [repr(one) if isinstance(one, Noise) else one for one in choices.corruptions]
    return ReportData.collect(
        blip,
        {name: found.pairs[name] for name in found.cells},
        found.cells,
        important=found.important,
        profiles=found.profiles,
        universal=found.universal,
        functions=found.functions,
        labels=[row for task, own in found.labels.items() for row in label_rows(task, own)],
        notes=[
            *(agreement(task, own) for task, own in found.comparisons.items()),
            *(said for task, own in found.labels.items() for said in untested(task, own)),
            *found.notes,
        ],
        settings=asdict(replace(choices, corruptions=tuple(corruptions))),
        roles=None if choices.role is None else [choices.role],
        max_pairs=choices.shown,
        progress=progress,
    )


def summary(found: Study) -> dict[str, Any]:
    """What was found, in plain values."""

    def places(heads: "xr.DataArray") -> list[str]:
        return [
            f"L{layer}.H{head}"
            for layer, head in heads.stack(place=("layer", "head")).to_series().loc[lambda s: s].index
        ]

    cells = {
        name: {
            "pairs": len(found.pairs[name]),
            "significant": places(own.significant),
            "two_sigma": places(own.two_sigma),
        }
        for name, own in found.important.items()
    }
    universal = [] if found.universal is None else places(found.universal.universal)
    return {"findings": found.findings(), "cells": cells, "universal": universal}
