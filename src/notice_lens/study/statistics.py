"""The statistics of a study: heads of each condition, universal heads, layers, corruptions compared, functions.

All are read at the one role that was fixed before. Effects at all positions at once are tested too, as a check.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from notice_lens import circuits
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import FewClusters
from notice_lens.pairs.roles import ALL, as_mapping
from notice_lens.progress import step
from notice_lens.stats.clusters import ENOUGH_CLUSTERS
from notice_lens.study.choices import METRIC
from notice_lens.study.findings import Study

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel


def statistics(study: Study) -> None:
    """Compute heads of each condition, universal heads, layers, and the comparison of corruptions."""
    role = study.choices.role
    for name in list(study.effects):
        _one_condition(study, name)
    if not study.conditions:
        return
    conditions = _testable(study)
    sizes = next(iter(study.conditions.values())).sizes
    rules = study.choices.rules(role, sizes["layer"] * sizes["head"], len(conditions))
    if len(conditions) > 1:
        with study.noting("universal heads"), _left_out(study, "universal heads are not looked for"):
            # Few clusters were noted for each condition already.
            warnings.simplefilter("ignore", FewClusters)
            study.universal = circuits.universal_heads(conditions, at_least=study.choices.at_least, **rules)
    for task in dict.fromkeys(study.task_of.values()):
        by_corruption = {
            name.rpartition(", ")[2]: effects for name, effects in study.effects.items() if study.task_of[name] == task
        }
        ids = [{*effects["pair"].values.tolist()} for effects in by_corruption.values()]
        if len(ids) > 1 and len(set.intersection(*ids)) > 1:
            with study.noting(task), _left_out(study, f"{task}: corruptions are not compared"):
                warnings.simplefilter("ignore", FewClusters)
                study.comparisons[task] = circuits.compare_corruptions(by_corruption, **rules)


def _testable(study: Study) -> dict[str, "xr.Dataset"]:
    """Return the conditions with enough clusters for a test, and note the others; all of them where none has.

    A condition that cannot be tested would leave universal heads over all conditions untested.
    """
    few = {name: int(study.important[name].attrs["clusters"]) for name in study.conditions}
    few = {name: clusters for name, clusters in few.items() if clusters < ENOUGH_CLUSTERS}
    if len(few) == len(study.conditions):
        return study.conditions
    for name, clusters in few.items():
        study.note(
            f"{name}: not among the conditions of universal heads, {clusters} clusters of pairs; {ENOUGH_CLUSTERS} are "
            "needed for a test."
        )
    return {name: effects for name, effects in study.conditions.items() if name not in few}


def _one_condition(study: Study, name: str) -> None:
    """Compute heads and layers of one condition, also at all positions; a condition without a gap is left out."""
    role, effects = study.choices.role, study.effects[name]
    rules = study.choices.rules(role, effects.sizes["layer"] * effects.sizes["head"])
    with study.noting(name), _left_out(study, f"{name}: left out"):
        if name.endswith(", noise"):
            read_condition(effects, role, METRIC)
            return
        important = circuits.important_heads(effects, **rules)
        read = {"role": role, "metric": METRIC, "control": study.choices.control}
        study.profiles[name] = circuits.layer_profile(effects, **read, seed=study.choices.seed)
        study.important[name] = important
        if name in study.everywhere:
            with _left_out(study, f"{name}, all positions: left out"):
                at_all = circuits.important_heads(study.everywhere[name], **{**rules, "role": ALL})
                study.important_everywhere[name] = at_all
        return
    del study.effects[name]


@contextmanager
def _left_out(study: Study, what: str) -> Iterator[None]:
    """Turn a ValueError into a note, so that the rest of the study continues."""
    try:
        yield
    except ValueError as error:
        study.note(f"{what}: {error}.")


def together_step(condition: str) -> str:
    """Return the name of the step in which a condition's heads are patched together."""
    return f"{condition}, heads together"


def functions_step(task: str) -> str:
    """Return the name of the step in which a task's head functions are computed."""
    return f"{task}, what heads do"


def curves(model: "VisionLanguageModel", study: Study, progress: bool, **options: Any) -> None:
    """Compute what the best heads of each condition of image pairs carry together, and these heads' graph.

    Args:
        model: The model.
        study: Whose conditions.
        progress: Whether there are bars.
        **options: Of sweeps: `memory`, `min_gap`, ...
    """
    choices = study.choices
    for name, effects in study.conditions.items():
        if effects.attrs.get("corruption") != "image":
            continue
        # Heads are ranked by their effects at all positions, which are known already.
        known = study.everywhere.get(name, effects)
        carried = f"{name}: what heads carry together is not measured"
        with step(together_step(name)), study.noting(name), _left_out(study, carried):
            study.curves[name] = circuits.restoration_curve(
                model, study.pairs[name], known, n_random=choices.random_orders, seed=choices.seed, progress=progress,
                **options,
            )  # fmt: skip
            study.graphs[name] = circuits.circuit_graph(
                model, study.pairs[name], study.curves[name], seed=choices.seed, progress=progress, **options
            )


def functions(model: "VisionLanguageModel", task: str, study: Study, progress: bool) -> None:
    """Compute head functions on the pairs of the task's first condition, and labels where knock-outs confirm them."""
    choices, conditions = study.choices, study.conditions_of(task)
    if not conditions:
        return
    pairs = study.pairs[conditions[0]]
    # A head that is patched at all words may look from one of them alone.
    each = choices.role == ALL and any(as_mapping(roles) for roles in pairs["roles"])
    with study.noting(task):
        study.functions[task] = circuits.head_functions(
            model,
            pairs,
            choices.site,
            roles=None if each else [str(choices.role)],
            maps=["attention"],
            progress=progress,
        )
        if heads := _candidates(study, conditions):
            study.labels[task] = circuits.label_heads(
                model, pairs, study.functions[task], heads, alpha=choices.alpha, seed=choices.seed, progress=progress
            )


def _candidates(study: Study, conditions: list[str]) -> list[tuple[int, int]]:
    """Return the heads that are significant or stand out in some condition, the strongest first."""
    strength: dict[tuple[int, int], float] = {}
    for name in conditions:
        frame = study.important[name][["effect", "significant", "two_sigma"]].to_dataframe()
        frame = frame[frame.significant | frame.two_sigma].reset_index()
        for layer, head, effect in zip(frame.layer, frame["head"], frame.effect, strict=True):
            strength[layer, head] = max(strength.get((layer, head), 0.0), abs(effect))
    return sorted(strength, key=lambda head: -strength[head])[: study.choices.labelled]
