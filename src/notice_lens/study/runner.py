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
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import xarray as xr

from notice_lens.pairs import MinimalPairs, Noise, behaviour_filter
from notice_lens.pairs.corruption import replaces_words
from notice_lens.pairs.roles import ALL
from notice_lens.patching.runner import Sweep
from notice_lens.patching.sweeps import head_sweep
from notice_lens.report.data import ReportData
from notice_lens.report.folder import check_place
from notice_lens.study.choices import METRIC, Choices, check_before, corruption_name
from notice_lens.study.findings import Study
from notice_lens.study.statistics import functions, statistics
from notice_lens.study.tables import agreement, everywhere, label_rows, untested, write_tables

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
    model: "HookedBLIP",
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
        model: The model.
        tasks: Pairs by task.
        folder: Where results go; an earlier run's sweeps there are gone on with.
        choices: What is fixed before.
        say: Is told what is being done.
        progress: Whether there are bars.
        **options: Of sweeps: `memory`, `min_gap`, ...

    Raises:
        ValueError: A choice is none for this model and these pairs, no cell has pairs that the model answers, or the
            folder holds sweeps of another run; all of that is said before the first sweep.
        FileExistsError: The folder holds something else where results go.
        PairsError: Pairs do not hold for this model.
    """
    found = Study((choices or Choices()).resolved(tasks, model))
    if found.choices.role == ALL:
        say("effects are read at all words at once")
    site = check_before(model, tasks, found.choices)
    check_place(folder / SAVED)
    if (folder / "tables").is_file():
        raise FileExistsError(f"{folder / 'tables'} is a file, where tables are to be written; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _sweeps(model, tasks, folder, found, say, {**options, "progress": progress})
    say("statistics ...")
    statistics(found)
    if not found.cells:
        raise ValueError("no cell is left to study: " + " ".join(found.notes))
    if site.name == f"{model.cfg.looking_site}.hook_z":
        say("what heads do ...")
        for task in tasks:
            functions(model, task, found, progress)
    found.data = _collected(model, found, progress)
    found.data.save(folder / SAVED)
    write_tables(found.important, found.important_everywhere, found.universal, found.labels, folder / "tables")
    return found


def _sweeps(
    model: "HookedBLIP",
    tasks: Mapping[str, MinimalPairs],
    folder: Path,
    found: Study,
    say: Say,
    options: dict[str, Any],
) -> None:
    """Steps 2 and 3: the pairs of each cell, and what every head does there.

    All stores are made or checked before the first sweep, so that what cannot be gone on with is said at once.
    """
    choices = found.choices
    own = {"direction": choices.direction, "seed": choices.seed, **options}
    sweeps: list[tuple[str, dict[str, xr.Dataset], Sweep]] = []
    for task, pairs in tasks.items():
        for corruption in choices.corruptions:
            name = f"{task}, {corruption_name(corruption)}"
            noisy = isinstance(corruption, Noise)
            kept = _kept(model, pairs, "image" if noisy else corruption, name, found, options["progress"])
            if kept is None:
                continue
            found.task_of[name], found.pairs[name] = task, kept
            store = folder / "cells" / _file_name(name)
            at_all_words = choices.role == ALL
            results = {", all positions" if at_all_words else "": (ALL if at_all_words else "roles", found.effects)}
            if not at_all_words and not noisy:
                results[", all positions"] = (ALL, found.everywhere)
            for ending, (positions, into) in results.items():
                sweep = {"corruption": corruption, "store": f"{store}{ending}.zarr", **own}
                made = head_sweep(model, kept, choices.site, positions=positions, **sweep)
                made.reserve()
                sweeps.append((name, into, made))
    for name, into, made in sweeps:
        if into is found.effects:
            say(f"{name}: patching {choices.site} on {len(made.pairs)} pairs ...")
        into[name] = made.run()


def _file_name(name: str) -> str:
    """Return the name of a cell's store. A task's name is the user's: it must not lead elsewhere, nor be too long."""
    quoted = quote(name, safe=" ,")
    if len(quoted) <= LONGEST_FILE_NAME:
        return quoted
    return f"{quoted[: LONGEST_FILE_NAME - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _kept(
    model: "HookedBLIP",
    pairs: MinimalPairs,
    corruption: Literal["image", "text"],
    name: str,
    found: Study,
    progress: bool,
) -> MinimalPairs | None:
    """The pairs of a cell; None where there are too few."""
    if replaces_words(corruption):
        some = [number for number, prompt in enumerate(pairs["corrupt_prompt"]) if prompt is not None]
        if len(some) < FEWEST:
            found.note(f"{name}: left out, {len(some)} of {len(pairs)} pairs have a corrupted question.")
            return None
        pairs = pairs.select(some)
    kept = behaviour_filter(model, pairs, corruption, progress=progress) if found.choices.filtered else pairs
    if len(kept) < FEWEST:
        why = f"the model answers {len(kept)} of {len(pairs)} pairs as expected (the clean run right, the corrupted "
        found.note(
            f"{name}: left out, {why}one otherwise)."
            if found.choices.filtered
            else f"{name}: left out, a cell needs {FEWEST} pairs, and there is {len(pairs)}."
        )
        return None
    if len(kept) < len(pairs):
        found.note(f"{name}: {len(kept)} of {len(pairs)} pairs kept (the model answers both versions as expected).")
    return kept


def _collected(model: "HookedBLIP", found: Study, progress: bool) -> ReportData:
    """Step 5: what the page shows."""
    choices = found.choices
    corruptions = tuple(repr(one) if isinstance(one, Noise) else one for one in choices.corruptions)
    return ReportData.collect(
        model,
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
        roles=[str(choices.role)],
        max_pairs=choices.shown,
        progress=progress,
    )
