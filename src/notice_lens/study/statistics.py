"""The statistics of a study: heads of each condition, universal heads, layers, corruptions compared, functions.

All are read at the one role that was fixed before. Effects at all positions at once are tested too, as a check.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from notice_lens import circuits
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import FewClusters
from notice_lens.pairs.roles import ALL
from notice_lens.study.choices import METRIC
from notice_lens.study.findings import Study

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP


def statistics(found: Study) -> None:
    """Heads of each condition, universal ones, layers, and corruptions beside each other."""
    role = found.choices.role
    for name in list(found.effects):
        _one_condition(found, name)
    conditions = found.conditions
    if not conditions:
        return
    sizes = next(iter(conditions.values())).sizes
    rules = found.choices.rules(role, sizes["layer"] * sizes["head"], len(conditions))
    if len(conditions) > 1:
        with found.noting("universal heads"), _left_out(found, "universal heads are not looked for"):
            # Few clusters were noted for each condition already.
            warnings.simplefilter("ignore", FewClusters)
            found.universal = circuits.universal_heads(conditions, at_least=found.choices.at_least, **rules)
    for task in dict.fromkeys(found.task_of.values()):
        own = {name.rpartition(", ")[2]: one for name, one in found.effects.items() if found.task_of[name] == task}
        shared = set.intersection(*({*one["pair"].values.tolist()} for one in own.values())) if own else set()
        if len(own) > 1 and len(shared) > 1:
            with found.noting(task), _left_out(found, f"{task}: corruptions are not compared"):
                warnings.simplefilter("ignore", FewClusters)
                found.comparisons[task] = circuits.compare_corruptions(own, **rules)


def _one_condition(found: Study, name: str) -> None:
    """Heads and layers of one condition, and its heads at all positions; without a gap it is left out, as is noise."""
    role, effects = found.choices.role, found.effects[name]
    rules = found.choices.rules(role, effects.sizes["layer"] * effects.sizes["head"])
    with found.noting(name), _left_out(found, f"{name}: left out"):
        if name.endswith(", noise"):
            read_condition(effects, role, METRIC)
            return
        important = circuits.important_heads(effects, **rules)
        read = {"role": role, "metric": METRIC, "control": found.choices.control}
        found.profiles[name] = circuits.layer_profile(effects, **read, seed=found.choices.seed)
        found.important[name] = important
        if name in found.everywhere:
            with _left_out(found, f"{name}, all positions: left out"):
                every = circuits.important_heads(found.everywhere[name], **{**rules, "role": ALL})
                found.important_everywhere[name] = every
        return
    del found.effects[name]


@contextmanager
def _left_out(found: Study, what: str) -> Iterator[None]:
    """Where what cannot be computed becomes a note, so that it costs nothing else."""
    try:
        yield
    except ValueError as error:
        found.note(f"{what}: {error}.")


def functions(model: "HookedBLIP", task: str, found: Study, progress: bool) -> None:
    """What heads do, on the pairs of the task's first condition; labels where cutting them confirms it."""
    choices, conditions = found.choices, found.conditions_of(task)
    if not conditions:
        return
    pairs = found.pairs[conditions[0]]
    with found.noting(task):
        found.functions[task] = circuits.head_functions(
            model, pairs, choices.site, roles=[choices.role], maps=["attention"], progress=progress
        )
        if heads := _candidates(found, conditions):
            found.labels[task] = circuits.label_heads(
                model, pairs, found.functions[task], heads, alpha=choices.alpha, seed=choices.seed, progress=progress
            )


def _candidates(found: Study, conditions: list[str]) -> list[tuple[int, int]]:
    """The heads that matter most in some conditions: significant in one or standing out, the strongest first."""
    strength: dict[tuple[int, int], float] = {}
    for name in conditions:
        frame = found.important[name][["effect", "significant", "two_sigma"]].to_dataframe()
        frame = frame[frame.significant | frame.two_sigma].reset_index()
        for layer, head, effect in zip(frame.layer, frame["head"], frame.effect, strict=True):
            strength[layer, head] = max(strength.get((layer, head), 0.0), abs(effect))
    return sorted(strength, key=lambda head: -strength[head])[: found.choices.labelled]
