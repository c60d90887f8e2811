"""The findings of a study: everything that it computed, in sentences and in plain values."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.circuits.evidence import DependentPairs, FewClusters
from notice_lens.pairs import MinimalPairs
from notice_lens.pairs.regions import SmallRegion
from notice_lens.report.data import ReportData
from notice_lens.report.sentences import findings
from notice_lens.study.choices import Choices
from notice_lens.viz.selection import is_tested

if TYPE_CHECKING:
    import xarray as xr


@dataclass
class Study:
    """Everything that a study computed.

    Attributes:
        choices: The choices that were fixed before.
        task_of: The task of each condition, and of each baseline of noise.
        pairs: Of each condition and baseline.
        effects: Of each condition, and of noise under `<task>, noise`.
        everywhere: Of each condition: effects at all positions at once; none where these are what effects are read at.
        important: Of each condition: its heads.
        important_everywhere: The same, at all positions at once.
        profiles: Of each condition: its layers.
        universal: Heads that matter in all conditions; None with one condition.
        functions: Of each task: where its heads look.
        labels: Of each task: labels of heads.
        curves: Of each condition whose images differ: what its best heads carry together.
        graphs: The same conditions: what these heads read, tell each other and write.
        comparisons: Of each task: agreement of corruptions.
        notes: Omissions, with reasons.
        data: The data of the report.
    """

    choices: Choices
    task_of: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, MinimalPairs] = field(default_factory=dict)
    effects: dict[str, "xr.Dataset"] = field(default_factory=dict)
    everywhere: dict[str, "xr.Dataset"] = field(default_factory=dict)
    important: dict[str, "xr.Dataset"] = field(default_factory=dict)
    important_everywhere: dict[str, "xr.Dataset"] = field(default_factory=dict)
    profiles: dict[str, "xr.Dataset"] = field(default_factory=dict)
    universal: "xr.Dataset | None" = None
    functions: dict[str, "xr.Dataset"] = field(default_factory=dict)
    labels: dict[str, "xr.Dataset"] = field(default_factory=dict)
    curves: dict[str, "xr.Dataset"] = field(default_factory=dict)
    graphs: dict[str, "xr.Dataset"] = field(default_factory=dict)
    comparisons: dict[str, "xr.Dataset"] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    data: "ReportData | None" = None

    @property
    def conditions(self) -> dict[str, "xr.Dataset"]:
        """Return the effects of the conditions, without those of noise."""
        return {name: effects for name, effects in self.effects.items() if not name.endswith(", noise")}

    def conditions_of(self, task: str) -> list[str]:
        """Names of a task's conditions."""
        return [name for name in self.conditions if self.task_of[name] == task]

    def findings(self) -> list[str]:
        """Return the findings, a sentence each."""
        assert self.data is not None, "a study that was carried out"
        return [*findings(self.data), *self.notes]

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Turn warnings about few clusters, dependent pairs and small regions into notes; others stay warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if isinstance(one.message, SmallRegion):
                self.note(f"{name}: {one.message.in_short()}")
            elif issubclass(one.category, FewClusters | DependentPairs):
                self.note(f"{name}: {one.message}")
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)

    def note(self, text: str) -> None:
        """Add a note, once."""
        self.notes += [] if text in self.notes else [text]


def places(heads: "xr.DataArray") -> list[str]:
    """Return the names of the heads that are true in a table, [layer, head]."""
    table = heads.transpose("layer", "head")
    layers, numbers = table["layer"].values, table["head"].values
    return [f"L{layers[i]}.H{numbers[j]}" for i, j in np.argwhere(table.values.astype(bool))]


def summary(study: Study) -> dict[str, Any]:
    """Return the findings as plain values; `significant` is None where it was not tested."""
    conditions = {
        name: {
            "pairs": int(heads.attrs["pairs"]),
            "clusters": int(heads.attrs["clusters"]),
            "share_of": heads.attrs["share_of"],
            "significant": places(heads["significant"]) if is_tested(heads) else None,
            "two_sigma": places(heads["two_sigma"]),
        }
        for name, heads in study.important.items()
    }
    universal, null = [], {}
    if (over_conditions := study.universal) is not None:
        universal = places(over_conditions.universal)
        null = {
            name: float(over_conditions[name])
            for name in ("null_expected", "null_p")
            if over_conditions[name].notnull()
        }
    return {"findings": study.findings(), "conditions": conditions, "universal": universal, **null}
