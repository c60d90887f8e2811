"""A study's results as rows and sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.viz.label_rows import label_rows as of_candidates

if TYPE_CHECKING:
    import xarray as xr


def label_rows(task: str, labels: "xr.Dataset") -> Iterator[Mapping[str, Any]]:
    """What heads may be called, and what was tested in vain; then what ablating labelled heads together does.

    Args:
        task: Whose pairs.
        labels: What `circuits.label_heads` gave.
    """
    for row in of_candidates(labels):
        if row["label"] or "p_causal" in row["evidence"]:
            yield {**row, "task": task}
    for group in labels["group"].values if "group" in labels.dims else ():
        one = labels.sel(group=group)
        change, low, high, p = (float(one[f"joint_{name}"]) for name in ("change", "low", "high", "p"))
        if not np.isnan(change):
            said = f"ablated at once {change:+.3f} logits, {low:+.3f} to {high:+.3f}, p {p:.2g}"
            heads = "all labelled heads" if group == "all" else f"all heads labelled {group}"
            yield {"layer": None, "head": None, "label": heads, "evidence": said, "task": task}


def untested(task: str, labels: "xr.Dataset") -> list[str]:
    """Why labels could not be tested, a sentence for each reason."""
    reasons = Counter(str(row["reason"]) for row in of_candidates(labels) if row.get("testable") is False)
    return [f"{task}: {reason} ({count} heads)." for reason, count in reasons.items()]


def agreement(task: str, compared: "xr.Dataset") -> str:
    """A sentence on what corruptions of a task agree about."""
    names = [str(name) for name in compared["corruption"].values]
    rank = compared["spearman_signed"]
    said = [
        f"{first} and {second} {float(rank.sel(corruption=first, other=second)):.2f}"
        for number, first in enumerate(names)
        for second in names[number + 1 :]
    ]
    return f"{task}: rank agreement of signed effects over heads (Spearman): {', '.join(said)}."


def write_tables(
    important: Mapping[str, "xr.Dataset"],
    universal: "xr.Dataset | None",
    labels: Mapping[str, "xr.Dataset"],
    folder: Path,
) -> None:
    """Heads of each cell, universal heads and labels as CSV files, for those who want them in another program."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    heads = [own.to_dataframe().reset_index().assign(cell=name) for name, own in important.items()]
    pd.concat(heads).to_csv(folder / "heads.csv", index=False)
    if universal is not None:
        over_cells = universal.drop_dims("cell", errors="ignore").to_dataframe().reset_index()
        over_cells.to_csv(folder / "universal.csv", index=False)
    rows = [row for task, own in labels.items() for row in label_rows(task, own)]
    columns = ["task", "layer", "head", "label", "evidence", "reason"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
