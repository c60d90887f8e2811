"""The content of a report as plain data: conditions with their heads, pairs with their pictures, and attention maps.

Nothing here needs the model any more, or the pairs: it is collected once, saved as one folder beside the sweep's store,
and every page is written from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from notice_lens.pairs.corruption import CORRUPTIONS

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

MOST_PAIRS = 24
"""Of each condition, in the pair browser."""


@dataclass(frozen=True, eq=False)
class ReportPicture:
    """A picture file: its bytes, and their kind, `png`, `jpeg` or `webp`."""

    content: bytes = field(repr=False)
    kind: str


@dataclass(frozen=True, eq=False)
class ShownPair:
    """A pair as the browser shows it.

    Attributes:
        id: Which pair.
        task: What data set it is of.
        group: What changes.
        prompts: The question, by `clean` and, where there is one, `corrupt`.
        answers: The right answers, by `clean`, `image` (the corrupted image) and, where known, `text`.
        spans: First character and the one after the last of what is marked, by `clean` and `corrupt` and by role; in
            the corrupted prompt the role is `replaced`, with a number behind it.
        pictures: By `clean` and `corrupt`.
        regions: By picture and name, which patches they cover by half or more, bool [rows, columns].
    """

    id: str
    task: str
    group: str
    prompts: Mapping[str, str]
    answers: Mapping[str, str]
    spans: Mapping[str, Mapping[str, tuple[int, int]]]
    pictures: Mapping[str, ReportPicture]
    regions: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class ShownCondition:
    """One task under one corruption, read at one role.

    Attributes:
        name: Unique in the report.
        task: Of its pairs.
        corruption: `image`, `text`, or what noise there was.
        role: At which words; `all` where all were patched at once.
        heads: By layer and head, as of `circuits.important_heads`; at least `effect`.
        shown: Numbers of the report's pairs.
        by_pair: The patching effect of each head on each shown pair, NaN where its gap is too small.
        facts: Pairs, baselines, direction, site: what there is to know of the sweep.
        profile: As of `circuits.layer_profile`.
    """

    name: str
    task: str
    corruption: str
    role: str
    heads: xr.Dataset
    shown: tuple[int, ...]
    by_pair: Float[np.ndarray, "shown layer head"]
    facts: Mapping[str, Any]
    profile: xr.Dataset | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs whose pictures are compared."""
        return ("clean", self.corruption) if self.corruption in CORRUPTIONS else ("clean",)


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that `viz.report` and `viz.explore` show.

    Attributes:
        title: Of the page.
        conditions: One for each sweep.
        pairs: Those of the browser.
        attention: Their maps in 8 bits, `attention`, `largest`, `elsewhere` [pair, run, role, layer, head(, patch)];
            None where the heads do not look at the image.
        universal: As of `circuits.universal_heads`.
        functions: Results of `circuits.head_functions`, by task.
        labels: As of `circuits.label_heads`, one mapping a row; its `task` says at which conditions it is shown.
        curves: As of `circuits.restoration_curve`, by condition, without single pairs.
        graphs: As of `circuits.circuit_graph`, by condition.
        notes: Sentences: what could not be tested, and why; warnings.
        settings: What made it: the model, options, versions.
    """

    title: str
    conditions: tuple[ShownCondition, ...]
    pairs: tuple[ShownPair, ...]
    attention: xr.Dataset | None = None
    universal: xr.Dataset | None = None
    functions: Mapping[str, xr.Dataset] = field(default_factory=dict)
    labels: tuple[Mapping[str, Any], ...] = ()
    curves: Mapping[str, xr.Dataset] = field(default_factory=dict)
    graphs: Mapping[str, xr.Dataset] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def collect(
        cls,
        model: "VisionLanguageModel | None",
        pairs: Mapping[str, "MinimalPairs"],
        effects: Mapping[str, xr.Dataset],
        *,
        important: Mapping[str, xr.Dataset] | None = None,
        profiles: Mapping[str, xr.Dataset] | None = None,
        universal: xr.Dataset | None = None,
        functions: Any = None,
        labels: Any = (),
        curves: Mapping[str, xr.Dataset] | None = None,
        graphs: Mapping[str, xr.Dataset] | None = None,
        notes: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        title: str = "What the heads carry",
        roles: Sequence[str] | None = None,
        max_pairs: int = MOST_PAIRS,
        progress: bool = True,
    ) -> "ReportData":
        """The data of a report from results, pairs and the model, which is run once more for what its heads look at.

        Args:
            model: The model; None leaves attention out.
            pairs: By condition's name.
            effects: Results of `patch_heads`, by condition's name.
            important: Results of `circuits.important_heads`; a condition without one shows plain means.
            profiles: Results of `circuits.layer_profile`.
            universal: A result of `circuits.universal_heads`.
            functions: A result of `circuits.head_functions`, or several by name.
            labels: A result of `circuits.label_heads`, or several by task: a label is shown at its task's conditions
                alone. Or a table, or mappings, whose `task` says so.
            curves: Results of `circuits.restoration_curve`, by condition's name: what the best heads carry together.
            graphs: Results of `circuits.circuit_graph`, by condition's name: what these heads read and write.
            notes: Sentences for the page.
            settings: Added to what the results say of themselves.
            title: Of the page.
            roles: Whose attention is kept; None takes all.
            max_pairs: Of each condition, in the browser.
            progress: Whether there is a bar.

        Raises:
            ValueError: A condition lacks its pairs, its effects are of other pairs, or a name belongs to no condition.
        """
        from notice_lens.report.collect import collect

        given = {"important": important or {}, "profiles": profiles or {}, "curves": curves or {}}
        given |= {"graphs": graphs or {}}
        rest = {"universal": universal, "functions": functions, "labels": labels, "notes": notes}
        rest |= {"settings": settings or {}, "title": title}
        return collect(model, pairs, effects, given, rest, roles, max_pairs, progress)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write it as a folder that needs nothing beside it; replace an earlier one. Returns the folder.

        Raises:
            FileExistsError: Something else is there, or a file of somebody else's is in it.
        """
        from notice_lens.report.folder import save

        return save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "ReportData":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such folder, or it is not complete.
            ValueError: It is damaged, or of another format.
        """
        from notice_lens.report.folder import load

        return load(Path(folder))

    def maps(self) -> xr.DataArray:
        """Attention maps [pair, run, role, layer, head, patch] with the coordinate `elsewhere`; pairs by their ids.

        Raises:
            ValueError: None were kept.
        """
        from notice_lens.report.maps import unpacked

        if self.attention is None:
            raise ValueError("no attention maps were kept: ReportData.collect makes them when it is given the model")
        return unpacked(self.attention)
