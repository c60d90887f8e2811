"""A study: pairs in; universal heads, what they do, and a report out. Commands of `notice-lens` carry one out.

1. Before anything is patched, role, metric and rules are fixed and checked (`Choices`).
2. Each task under each corruption is a *cell*. Pairs that the model does not answer as they ask are dropped.
3. Every head of the site is patched on every pair that is left, with both controls, at each role by itself, and once
   more at all positions at once; a sweep that was killed goes on.
4. Heads of each cell, universal heads, the profile over layers, and what heads do are read at the one role. All
   positions are a check of robustness, and nothing is chosen by them: never the best of several.
5. All of it goes into one folder, and a report is written from it.

A cell that cannot be had costs no other: it is left out, and a note says why.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from notice_lens import patching
from notice_lens.pairs import MinimalPairs, Noise, behaviour_filter
from notice_lens.study.choices import METRIC, Choices, check_before, corruption_name
from notice_lens.study.found import Study
from notice_lens.study.statistics import functions, statistics
from notice_lens.study.tables import agreement, everywhere, label_rows, untested, write_tables
from notice_lens.viz.looking import looking_stack
from notice_lens.viz.report_data import ReportData

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

FEWEST = 2
"""Pairs that a cell needs."""
LONGEST_FILE_NAME = 200
"""Characters of the name of a cell's store; file systems take 255 bytes, and endings are put behind it."""
SAVED = "report"
"""Folder of what a page is written from."""
Say = Callable[[str], None]


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
        **options: Of sweeps: `memory`, `min_gap`, ...

    Raises:
        ValueError: A choice is none for this model and these pairs, no cell has pairs that the model answers, or a
            sweep cannot be as asked for.
        PairsError: Pairs do not hold for this model.
    """
    found = Study(choices or Choices())
    site = check_before(blip, tasks, found.choices)
    folder.mkdir(parents=True, exist_ok=True)
    _sweeps(blip, tasks, folder, found, say, {**options, "progress": progress})
    say("statistics ...")
    statistics(found)
    if not found.cells:
        raise ValueError("no cell is left to study: " + " ".join(found.notes))
    if site.name == f"{looking_stack(blip)}.cross_attn.hook_z" and found.choices.role is not None:
        say("what heads do ...")
        for task in tasks:
            functions(blip, task, found, progress)
    found.data = _collected(blip, found, progress)
    found.data.save(folder / SAVED)
    write_tables(found.important, found.important_everywhere, found.universal, found.labels, folder / "tables")
    return found


def _sweeps(
    blip: "HookedBLIP", tasks: Mapping[str, MinimalPairs], folder: Path, found: Study, say: Say, options: dict[str, Any]
) -> None:
    """Steps 2 and 3: the pairs of each cell, and what every head does there."""
    choices = found.choices
    own = {"direction": choices.direction, "seed": choices.seed, **options}
    for task, pairs in tasks.items():
        for corruption in choices.corruptions:
            name = f"{task}, {corruption_name(corruption)}"
            noisy = isinstance(corruption, Noise)
            kept = _kept(blip, pairs, "image" if noisy else corruption, name, found, options["progress"])
            if kept is None:
                continue
            say(f"{name}: patching {choices.site} on {len(kept)} pairs ...")
            found.task_of[name], found.pairs[name] = task, kept
            store = folder / "cells" / _file_name(name)
            sweep = {"corruption": corruption, **own}
            if choices.role is None:
                found.effects[name] = patching.patch_heads(
                    blip, kept, choices.site, positions="all", store=f"{store}.zarr", **sweep
                )
                continue
            found.effects[name] = patching.patch_heads(
                blip, kept, choices.site, positions="roles", store=f"{store}.zarr", **sweep
            )
            if not noisy:
                found.everywhere[name] = patching.patch_heads(
                    blip, kept, choices.site, positions="all", store=f"{store}, all positions.zarr", **sweep
                )


def _file_name(name: str) -> str:
    """Return the name of a cell's store. A task's name is the user's: it must not lead elsewhere, nor be too long."""
    quoted = quote(name, safe=" ,")
    if len(quoted) <= LONGEST_FILE_NAME:
        return quoted
    return f"{quoted[: LONGEST_FILE_NAME - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _kept(
    blip: "HookedBLIP", pairs: MinimalPairs, corruption: str, name: str, found: Study, progress: bool
) -> MinimalPairs | None:
    """The pairs of a cell; None where there are too few."""
    if corruption == "text":
        some = [number for number, prompt in enumerate(pairs["corrupt_prompt"]) if prompt is not None]
        if len(some) < FEWEST:
            found.note(f"{name}: left out, {len(some)} of {len(pairs)} pairs have a corrupted question.")
            return None
        pairs = pairs.select(some)
    kept = behaviour_filter(blip, pairs, corruption, progress=progress) if found.choices.filtered else pairs
    if len(kept) < FEWEST:
        why = f"the model answers {len(kept)} of {len(pairs)} pairs as they ask (the clean run right, the corrupted "
        found.note(
            f"{name}: left out, {why}one otherwise)."
            if found.choices.filtered
            else f"{name}: left out, a cell needs {FEWEST} pairs, and there is {len(pairs)}."
        )
        return None
    if len(kept) < len(pairs):
        found.note(f"{name}: {len(kept)} of {len(pairs)} pairs, those that the model answers as they ask.")
    return kept


def _collected(blip: "HookedBLIP", found: Study, progress: bool) -> ReportData:
    """Step 5: what the page shows."""
    choices = found.choices
    corruptions = tuple(repr(one) if isinstance(one, Noise) else one for one in choices.corruptions)
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
            *(everywhere(name, found.important[name], own) for name, own in found.important_everywhere.items()),
            *(agreement(task, own) for task, own in found.comparisons.items()),
            *(said for task, own in found.labels.items() for said in untested(task, own)),
            *found.notes,
        ],
        settings={**asdict(choices), "corruptions": corruptions, "metric": METRIC},
        roles=None if choices.role is None else [choices.role],
        max_pairs=choices.shown,
        progress=progress,
    )
