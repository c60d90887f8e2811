"""A preset, a run of it and its outcome; the plan that is fixed before it runs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens.errors import reading
from notice_lens.files import check_kinds, read_json, replacing
from notice_lens.patching.identity import fingerprint
from notice_lens.viz.selection import MINUS

if TYPE_CHECKING:
    import pandas as pd

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

PLAN = "plan.json"
LayerHead = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """Settings of a run that a user chooses; the preset has fixed the rest.

    Attributes:
        pairs: Of each data set or type, at most; None takes all.
        filtered: Whether pairs that the model does not answer as expected are dropped.
        seed: Of all that is drawn.
        memory: Bytes that variants may take; None takes a share of what is free.
        progress: Whether there are bars.
    """

    pairs: int | None = None
    filtered: bool = True
    seed: int = 0
    memory: float | int | None = None
    progress: bool = True


@dataclass(frozen=True)
class PresetRun:
    """A run of a preset, once its pairs are there and its plan is fixed.

    Attributes:
        preset: Which.
        model: The model.
        tasks: Pairs by task.
        folder: Where stores, tables and pages go.
        settings: The user's.
        say: Receives messages about progress.
    """

    preset: "Preset"
    model: "VisionLanguageModel"
    tasks: "Mapping[str, MinimalPairs]"
    folder: Path
    settings: Settings
    say: Callable[[str], None]

    def store(self, name: str) -> Path:
        """Return the folder of a sweep, which the next run of the same plan resumes."""
        return self.folder / "conditions" / f"{name}.zarr"


@dataclass(frozen=True)
class Outcome:
    """The findings of a run.

    Attributes:
        lines: What is printed: the paper's rule beside ours.
        tables: Rows by the name of their CSV file.
        values: The findings as plain values, for JSON.
        page: The report, where the design has one.
    """

    lines: list[str]
    tables: "Mapping[str, pd.DataFrame]"
    values: Mapping[str, Any] = field(default_factory=dict)
    page: Path | None = None


@dataclass(frozen=True)
class Preset:
    """A published design: what it fixes, and how it is read and carried out.

    Attributes:
        name: As `notice-lens replicate` takes it.
        title: The design in one line.
        paper: Its address on arXiv.
        model: The checkpoint that is taken where none is named.
        pairs: Pairs of each data set or type that are taken where no number is given.
        layout: The files that the data folder has, in words.
        role: Where effects are read; fixed.
        metric: The metric of our statistics; fixed.
        paper_rule: The paper's rule, in words.
        rule: Ours, in words.
        heads: Heads that are looked up, since the paper names them.
        differences: How the run differs from the paper's, a sentence each.
        read: Reads the data folder for a model: pairs by task.
        carry_out: Carries the design out.
    """

    name: str
    title: str
    paper: str
    model: str
    pairs: int
    layout: str
    role: str
    metric: str
    paper_rule: str
    rule: str
    differences: tuple[str, ...]
    read: "Callable[[Path, VisionLanguageModel, Settings], dict[str, MinimalPairs]]"
    carry_out: Callable[[PresetRun], Outcome]
    heads: tuple[LayerHead, ...] = ()

    def plan(
        self, model: "VisionLanguageModel", tasks: "Mapping[str, MinimalPairs]", settings: Settings
    ) -> dict[str, Any]:
        """Return everything that is fixed before anything runs, as plain values.

        Args:
            model: The model.
            tasks: Pairs by task.
            settings: The user's.
        """
        return {
            "preset": self.name,
            "paper": self.paper,
            "model": model.cfg.name_or_path,
            "model_fingerprint": fingerprint(model),
            "pairs": {task: {"number": len(own), "fingerprint": own.fingerprint} for task, own in tasks.items()},
            "role": self.role,
            "metric": self.metric,
            "rule_paper": self.paper_rule,
            "rule_ours": self.rule,
            "heads_looked_up": [head_name(*head) for head in self.heads],
            "filtered": settings.filtered,
            "seed": settings.seed,
            "differences_from_the_paper": list(self.differences),
        }


def fix(new: Mapping[str, Any], folder: Path) -> Path:
    """Write the plan, unless the same one is there already, and return its path.

    Raises:
        ValueError: Another plan is there, or the file is not a plan.
        OSError: It cannot be written.
    """
    path = folder / PLAN
    text = json.dumps(new, indent=2, ensure_ascii=False)
    if path.exists():
        before = read_json(path)
        with reading(path):
            check_kinds(before, {})
        other = [name for name in {**before, **new} if before.get(name) != json.loads(text).get(name)]
        if other:
            raise ValueError(
                f"{path} is of another plan: {', '.join(other)} differ. A plan is not changed once it was fixed; "
                "choose another folder for another plan"
            )
        return path
    with replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
    return path


def head_name(layer: int, head: int) -> str:
    """Return a head's name as the papers write it."""
    return f"L{layer}.H{head}"


def percent_between(value: float, low: float, high: float, digits: int = 1) -> str:
    """Return a share in percent with its interval, such as `12.0 % [9.1, 15.2]`."""
    number, *ends = (f"{100 * each:.{digits}f}" for each in (value, low, high))
    return f"{number} % [{', '.join(ends)}]".replace("-", MINUS)
