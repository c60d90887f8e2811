"""A study: pairs in; universal heads, what they do, and a report out. Commands of `notice-lens` carry one out.

1. Before anything is patched, role, metric and rules are fixed and checked (`Choices`).
2. Each task under each corruption is a *condition*. Pairs that the model answers incorrectly are dropped.
3. Every head of the site is patched on every pair that is left, with both controls, at each role separately, and once
   more at all positions at once; a sweep that was killed resumes.
4. Heads of each condition, universal heads, the profile over layers, and head functions are read at the one role. All
   positions are a check of robustness, and nothing is chosen by them: never the best of several. What the best heads
   carry together is measured at all positions, on pairs that did not rank them.
5. All of it goes into one folder, and a report is written from it.

A condition that cannot be computed is left out, and a note says why.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import xarray as xr

from notice_lens.circuits.functions.maps import blind_roles
from notice_lens.pairs import MinimalPairs, Noise, behaviour_filter
from notice_lens.pairs.corruption import replaces_words
from notice_lens.pairs.roles import ALL
from notice_lens.patching.edits import check_model
from notice_lens.patching.positions import Positions
from notice_lens.patching.runner import SweepRunner
from notice_lens.patching.sweeps import head_sweep
from notice_lens.progress import one_line, step
from notice_lens.report.data import ReportData
from notice_lens.report.folder import check_place
from notice_lens.study.choices import METRIC, Choices, check_before, corruption_name
from notice_lens.study.findings import Study
from notice_lens.study.statistics import curves, functions, functions_step, statistics, together_step
from notice_lens.study.tables import agreement, everywhere, label_rows, untested, write_tables

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel

FEWEST_PAIRS = 2
"""Pairs that a condition needs."""
LONGEST_FILE_NAME = 200
"""Characters of the name of a condition's store; file systems take 255 bytes, and endings are appended to it."""
SAVED = "report"
"""The folder of the data that a page is written from."""
TIMES = {"sweep": 1.0, "statistics": 5.0, "together": 6.0, "functions": 3.0, "report": 3.0}
"""Shares of the time that steps take, roughly, for the line that says how much is left."""
Say = Callable[[str], None]


def run_study(
    model: "VisionLanguageModel",
    tasks: Mapping[str, MinimalPairs],
    folder: Path,
    choices: Choices | None = None,
    *,
    say: Say = lambda text: None,
    progress: bool = True,
    name: str = "",
    **options: Any,
) -> Study:
    """Carry a study out, and write everything but the page into a folder.

    Args:
        model: The model.
        tasks: Pairs by task.
        folder: Where results go; an earlier run's sweeps there are resumed.
        choices: Of the study; None takes the defaults.
        say: Receives messages about progress.
        progress: Whether there is a line that says which step is being done, and how long the rest takes.
        name: Printed before that line, such as the model's name.
        **options: Of sweeps: `memory`, `min_gap`, ... With `part=(k, n)` the sweeps of that part of each condition's
            pairs are done, and nothing else; without it, when all parts are there, they are gathered.

    Raises:
        ValueError: A choice is invalid for this model or pairs, no condition has pairs that the model answers, or the
            folder holds sweeps of another run; all of that is checked before the first sweep.
        FileExistsError: The folder holds something else where results go.
        PairsError: Pairs do not hold for this model.
    """
    check_model(model)
    study = Study((choices or Choices()).resolved(tasks, model))
    if study.choices.role == ALL:
        say("effects are read at all words at once")
    site = check_before(model, tasks, study.choices)
    check_place(folder / SAVED)
    if (folder / "tables").is_file():
        raise FileExistsError(f"{folder / 'tables'} is a file, where tables are to be written; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with one_line(progress, {}, name):
        sweeps = _sweeps(model, tasks, folder, study, {**options, "progress": progress})
    say(
        f"patching {study.choices.site} on "
        + "; ".join(f"{name}: {len(own)} pairs" for name, own in study.pairs.items())
    )
    heads_together = site.name.endswith("attn.hook_z")
    attention = site.name == f"{model.cfg.looking_site}.hook_z"
    with one_line(progress, _steps(study, sweeps, heads_together, attention), name):
        for where, (condition, into, runner) in sweeps.items():
            with step(where):
                into[condition] = runner.run()
        if options.get("part") is not None:
            return study
        with step("statistics"):
            statistics(study)
        if not study.conditions:
            raise ValueError("no condition is left to study: " + " ".join(study.notes))
        if heads_together:
            curves(model, study, progress, **options)
        if attention:
            for task in tasks:
                with step(functions_step(task)):
                    functions(model, task, study, progress)
        with step("report"):
            study.data = _collected(model, study, progress)
    study.data.save(folder / SAVED)
    write_tables(study.important, study.important_everywhere, study.universal, study.labels, folder / "tables")
    return study


def _steps(study: Study, sweeps: Mapping[str, Any], heads_together: bool, attention: bool) -> dict[str, float]:
    """Return the steps of a study after the choice of its pairs, each with its share of the time."""
    steps = dict.fromkeys(sweeps, TIMES["sweep"]) | {"statistics": TIMES["statistics"]}
    if heads_together:
        pictures = [name for name in study.task_of if name.endswith(", image")]
        steps |= dict.fromkeys(map(together_step, pictures), TIMES["together"])
    if attention:
        steps |= dict.fromkeys(map(functions_step, study.task_of.values()), TIMES["functions"])
    return steps | {"report": TIMES["report"]}


def _sweeps(
    model: "VisionLanguageModel",
    tasks: Mapping[str, MinimalPairs],
    folder: Path,
    study: Study,
    options: dict[str, Any],
) -> dict[str, tuple[str, dict[str, xr.Dataset], SweepRunner]]:
    """Carry out step 2, the choice of each condition's pairs, and prepare the sweeps of step 3.

    All stores are made or checked before the first sweep, so that one that cannot be resumed is reported at once.

    Returns:
        By the name of each sweep: its condition, where its result goes, and the sweep.
    """
    choices = study.choices
    shared = {"direction": choices.direction, "seed": choices.seed, **options}
    sweeps: dict[str, tuple[str, dict[str, xr.Dataset], SweepRunner]] = {}
    for task, pairs in tasks.items():
        for corruption in choices.corruptions:
            name = f"{task}, {corruption_name(corruption)}"
            noisy = isinstance(corruption, Noise)
            chosen = _chosen(model, pairs, "image" if noisy else corruption, name, study, options["progress"])
            if chosen is None:
                continue
            study.task_of[name], study.pairs[name] = task, chosen
            store = folder / "conditions" / store_name(name)
            at_all_words = choices.role == ALL
            read_at, ending = (ALL, ", all positions") if at_all_words else (_read_at(model, chosen), "")
            results: dict[str, tuple[Any, dict[str, xr.Dataset]]] = {ending: (read_at, study.effects)}
            if not at_all_words and not noisy:
                results[", all positions"] = (ALL, study.everywhere)
            for ending, (positions, into) in results.items():
                sweep = {"corruption": corruption, "store": f"{store}{ending}.zarr", **shared}
                runner = head_sweep(model, chosen, choices.site, positions=positions, **sweep)
                runner.reserve()
                sweeps[f"{name}{'' if into is study.effects else ', all positions'}"] = (name, into, runner)
    return sweeps


def _read_at(model: "VisionLanguageModel", pairs: MinimalPairs) -> Any:
    """Return where heads are patched one position after the other: at each role that sees the image."""
    if "image" not in model.cfg.streams[model.cfg.prompt_stack]:
        return "roles"
    words = Positions(model, pairs).words
    blind = blind_roles(model, pairs.layout(model), words)
    return [role for role in dict.fromkeys(role for own in words for role in own) if role not in {*blind, ALL}]


def store_name(name: str) -> str:
    """Return the name of a condition's store, which must not lead elsewhere or be too long: tasks' names are users'."""
    quoted = quote(name, safe=" ,")
    if len(quoted) <= LONGEST_FILE_NAME:
        return quoted
    return f"{quoted[: LONGEST_FILE_NAME - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _chosen(
    model: "VisionLanguageModel",
    pairs: MinimalPairs,
    corruption: Literal["image", "text"],
    name: str,
    study: Study,
    progress: bool,
) -> MinimalPairs | None:
    """Return the pairs of a condition; None where there are too few."""
    if replaces_words(corruption):
        with_question = [number for number, prompt in enumerate(pairs["corrupt_prompt"]) if prompt is not None]
        if len(with_question) < FEWEST_PAIRS:
            study.note(f"{name}: left out, {len(with_question)} of {len(pairs)} pairs have a corrupted question.")
            return None
        pairs = pairs.select(with_question)
    with step(name):
        kept = behaviour_filter(model, pairs, corruption, progress=progress) if study.choices.filtered else pairs
    if len(kept) < FEWEST_PAIRS:
        why = f"the model answers {len(kept)} of {len(pairs)} pairs as expected (the clean run right, the corrupted "
        study.note(
            f"{name}: left out, {why}one otherwise)."
            if study.choices.filtered
            else f"{name}: left out, a condition needs {FEWEST_PAIRS} pairs, and there is {len(pairs)}."
        )
        return None
    if len(kept) < len(pairs):
        study.note(f"{name}: {len(kept)} of {len(pairs)} pairs kept (the model answers both versions as expected).")
    return kept


def _collected(model: "VisionLanguageModel", study: Study, progress: bool) -> ReportData:
    """Carry out step 5: collect the data of the report."""
    choices = study.choices
    corruptions = tuple(repr(one) if isinstance(one, Noise) else one for one in choices.corruptions)
    return ReportData.collect(
        model,
        {name: study.pairs[name] for name in study.conditions},
        study.conditions,
        important=study.important,
        profiles=study.profiles,
        universal=study.universal,
        functions=study.functions,
        curves=study.curves,
        graphs=study.graphs,
        labels=[row for task, labels in study.labels.items() for row in label_rows(task, labels)],
        notes=[
            *(everywhere(name, study.important[name], heads) for name, heads in study.important_everywhere.items()),
            *(agreement(task, compared) for task, compared in study.comparisons.items()),
            *(note for task, labels in study.labels.items() for note in untested(task, labels)),
            *study.notes,
        ],
        settings={**asdict(choices), "corruptions": corruptions, "metric": METRIC},
        roles=[str(choices.role)],
        max_pairs=choices.shown,
        progress=progress,
    )
