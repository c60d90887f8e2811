"""A study's results as rows and sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.files import replacing
from notice_lens.plain_text import csv_cell
from notice_lens.report.label_rows import label_rows as of_candidates
from notice_lens.viz.selection import MINUS, is_tested
from notice_lens.viz.words import UNTESTED, with_interval

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def label_rows(task: str, labels: "xr.Dataset") -> Iterator[Mapping[str, Any]]:
    """Return rows for labels given and tested in vain, then for labelled heads ablated together.

    Args:
        task: Of the pairs.
        labels: The result of `circuits.label_heads`.

    Returns:
        Rows as the page takes them; the evidence begins with the task.
    """
    for row in of_candidates(labels):
        if row["label"] or "p_causal" in row["evidence"]:
            yield {**row, "task": task, "evidence": {"task": task, **row["evidence"]}}
    for group in labels["group"].values if "group" in labels.dims else ():
        one = labels.sel(group=group)
        change, low, high, p, apart = (float(one[f"joint_{name}"]) for name in ("change", "low", "high", "p", "sum"))
        if not np.isnan(change):
            effect = f"{_signed(change)} logits [{_signed(low)}, {_signed(high)}], p {p:.2g}"
            evidence = {"task": task, "ablated at once": effect, "one by one, summed": f"{_signed(apart)} logits"}
            heads = "all labelled heads" if group == "all" else f"all heads labelled {group}"
            yield {"task": task, "layer": None, "head": None, "label": heads, "evidence": evidence}


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def untested(task: str, labels: "xr.Dataset") -> list[str]:
    """Return why labels could not be tested, a sentence for each reason."""
    reasons = Counter(str(row["reason"]) for row in of_candidates(labels) if row.get("testable") is False)
    return [
        f"{task}: {reason} ({count} head{'' if count == 1 else 's'})." for reason, count in reasons.items()
    ]  # fmt: skip


def agreement(task: str, compared: "xr.Dataset") -> str:
    """Return a sentence on the agreement of the corruptions of a task."""
    names = [str(name) for name in compared["corruption"].values]
    ends = [compared[f"spearman_signed{ending}"] for ending in ("", "_low", "_high")]
    agreements = [
        f"{first} and {second} {rank:.2f} [{low:.2f}, {high:.2f}]".replace("-", MINUS)
        for number, first in enumerate(names)
        for second in names[number + 1 :]
        for rank, low, high in [[float(one.sel(corruption=first, other=second)) for one in ends]]
    ]
    count = f"{compared.attrs['pairs']} pairs, {compared.attrs['clusters']} clusters"
    return f"{task}: rank agreement of signed effects over heads (Spearman; {count}): {', '.join(agreements)}."


def everywhere(condition: str, at_role: "xr.Dataset", at_all: "xr.Dataset") -> str:
    """Return a sentence on a condition's heads where all positions are patched at once.

    Args:
        condition: Its name.
        at_role: The result of `circuits.important_heads` at the role.
        at_all: Its result for all positions at once.
    """
    tested = is_tested(at_role) and is_tested(at_all)
    both = int((at_role.significant & at_all.significant).sum())
    one, other = (int(each.significant.sum()) for each in (at_role, at_all))
    place = at_all["rank"].stack(place=("layer", "head")).idxmin().item()
    strongest = at_all.sel(layer=place[0], head=place[1])
    counts = f"{other} significant, {one} at {at_role.attrs['role']!r}, {both} at both"
    counts = counts if tested else f"significance {UNTESTED}"
    return (
        f"{condition}, as a check with all positions at once: {counts}; strongest "
        f"L{place[0]}.H{place[1]}, {with_interval(strongest)} of {at_all.attrs['share_of']} ({at_all.attrs['pairs']} "
        f"pairs, {at_all.attrs['clusters']} clusters)."
    ).replace(" -", f" {MINUS}")


def heads_table(important: Mapping[str, "xr.Dataset"]) -> "pd.DataFrame":
    """Return the heads of all conditions in long form; `significant` is empty where it was not tested.

    Args:
        important: Results of `circuits.important_heads`, by condition.
    """
    import pandas as pd

    parts = []
    for name, table in important.items():
        frame = table.drop_vars("role", errors="ignore").to_dataframe().reset_index()
        frame["significant"] = frame["significant"].astype("boolean").where(frame["p"].notna())
        frame.insert(0, "condition", name)
        frame = frame.assign(
            **{key: table.attrs[key] for key in ("share_of", "pairs", "clusters") if key in table.attrs}
        )
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def write_tables(
    important: Mapping[str, "xr.Dataset"],
    everywhere: Mapping[str, "xr.Dataset"],
    universal: "xr.Dataset | None",
    labels: Mapping[str, "xr.Dataset"],
    folder: Path,
) -> None:
    """Write heads of each condition, universal heads and labels as CSV files, for use in other programs.

    Args:
        important: Results of `circuits.important_heads` at the role, by condition.
        everywhere: Its results for all positions at once.
        universal: The result of `circuits.universal_heads`.
        labels: Results of `circuits.label_heads`, by task.
        folder: The folder; made if it is missing.
    """
    tables = {"heads": heads_table(important), "labels": labels_table(labels)}
    if everywhere:
        tables["heads_all_positions"] = heads_table(everywhere)
    if universal is not None:
        tables["universal"] = universal.drop_dims("condition", errors="ignore").to_dataframe().reset_index()
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv")


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table as a CSV file, whole or not at all, that a spreadsheet shows and does not compute.

    Args:
        frame: Rows and columns; the index is left out.
        path: The file; folders are made.

    Raises:
        OSError: It cannot be written.
    """
    from pandas.api.types import is_numeric_dtype

    plain = frame.apply(lambda column: column if is_numeric_dtype(column) else column.map(csv_cell))
    plain = plain.set_axis([csv_cell(name) for name in frame.columns], axis="columns")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        plain.to_csv(beside, index=False)


def labels_table(labels: Mapping[str, "xr.Dataset"]) -> "pd.DataFrame":
    """Return the labels of heads, a row for each head or group, the evidence in columns.

    Args:
        labels: Results of `circuits.label_heads`, by task.
    """
    import pandas as pd

    rows = [row for task, candidates in labels.items() for row in label_rows(task, candidates)]
    columns = ["task", "layer", "head", "label", "reason"]
    flat = [{**{name: row.get(name) for name in columns[1:]}, **row["evidence"]} for row in rows]
    more = dict.fromkeys(name for row in flat for name in row if name not in columns)
    table = pd.DataFrame(flat, columns=[*columns, *more])
    return table.astype({"layer": "Int64", "head": "Int64"})
