"""docs/migration.md names every public name of 0.1 that is gone, and what it has become is there."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from notice_lens import circuits, pairs, patching, viz

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
OLD = {
    "notice_lens": "BLIPInputs HookedBLIP Lens MinimalPairs",
    "notice_lens.models": "BLIPConfig BLIPInputs HookedBLIP LENSES Lens StackConfig",
    "notice_lens.pairs": (
        "MinimalPair MinimalPairs Noise PairsError behaviour_filter download facial_expressions mini_world mit_states "
        "svo_probes symmetric_replacement"
    ),
    "notice_lens.patching": (
        "Edit Site Store ablate aggregate attribute carried faithfulness mediation patch_heads patch_modules "
        "patch_paths run_variants screen split sweep"
    ),
    "notice_lens.circuits": (
        "FewClusters attention_maps compare_corruptions head_functions important_heads label_heads layer_profile "
        "relative_attention score_maps universal_heads"
    ),
    "notice_lens.viz": "ReportData attention explore heads modules pairs paths profile report show universal",
    "notice_lens.study": "Choices SAVED Study run_study summary",
    "notice_lens.world": "GROUPS Pair Row draw make_pair mini_folder pairs rows",
}
"""Public names of version 0.1 by module, as its `__all__` had them."""
TABLE = re.findall(r"^\| (`notice_lens.+?) \| `(notice_lens[\w.]+)` \|$", PAGE, re.MULTILINE)
RENAMED = {old: new for names, new in TABLE for old in re.findall(r"`([\w.]+)`", names)}


def found(path: str) -> Any:
    """Return the object at a dotted path, or None."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            value = getattr(value, name, None)
        return value
    return None


def is_public(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return name in import_module(module).__all__
    except ModuleNotFoundError:
        return False


def test_every_name_that_is_gone_is_in_the_table() -> None:
    gone = {f"{module}.{name}" for module, names in OLD.items() for name in names.split()}
    gone = {path for path in gone if not is_public(path)}
    assert len(gone) > 15
    assert gone <= set(RENAMED), gone - set(RENAMED)
    assert not {path for path in RENAMED if is_public(path)}, "the table has names that are still public"


@pytest.mark.parametrize("new", sorted(set(RENAMED.values())))
def test_what_a_name_has_become_is_there(new: str) -> None:
    assert found(new) is not None


def default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def test_defaults_are_those_that_the_page_names() -> None:
    """Changed defaults, and what the last column gives to have the old ones back."""
    assert default(circuits.important_heads, "cluster") == default(circuits.layer_profile, "cluster") == "shared"
    assert default(circuits.universal_heads, "same_sign") is True
    assert default(circuits.head_functions, "smallest_ratio") == 1.5
    assert default(circuits.important_heads, "role") is default(circuits.compare_corruptions, "role") is None
    assert default(pairs.behaviour_filter, "answer") is None
    assert default(viz.show, "scale") == 1.0
    for verb in (patching.patch_heads, patching.sweep, patching.patch_paths, circuits.label_heads):
        assert next(iter(inspect.signature(verb).parameters)) == "model"
