"""Labels of heads as rows of a table, whatever form they come in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.functions.verdicts import GIVEN
from notice_lens.report.plain import plain

EVIDENCE = (
    "role", "region", "attention_ratio", "attention_ratio_low", "attention_ratio_high", "q_attention",
    "cut_inside", "cut_outside", "ablation", "n_pairs", "p_causal", "q_causal",
)  # fmt: skip


def label_rows(labels: Any) -> tuple[Mapping[str, Any], ...]:
    """Return one mapping a row: `layer`, `head`, `label` (None where none is given), its evidence, and its `task`.

    Args:
        labels: A result of `circuits.label_heads` over [candidate, kind], several of these by task, a table of pandas,
            mappings, or None.
    """
    if labels is None:
        return ()
    if isinstance(labels, xr.Dataset):
        of = (labels.isel(candidate=place) for place in range(labels.sizes["candidate"]))
        task = {"task": labels.attrs["task"]} if labels.attrs.get("task") else {}
        return tuple(task | _row(one.sel(kind=kind), str(kind)) for one in of for kind in one["kind"].values)
    if isinstance(labels, Mapping):
        return tuple({**row, "task": str(task)} for task, of in labels.items() for row in label_rows(of))
    rows = labels.to_dict("records") if hasattr(labels, "to_dict") else labels
    return tuple(plain(row) for row in rows)


def _row(one: xr.Dataset, kind: str) -> dict[str, Any]:
    """One row of the table of labels: a head, a label and its verdict."""
    verdict = str(one["verdict"].item())
    found = {name: plain(one[name].item()) for name in EVIDENCE if name in one and _there(one[name].item())}
    row = {"layer": int(one["layer"]), "head": int(one["head"]), "label": kind if verdict == GIVEN else None}
    if verdict != GIVEN:
        row |= {"reason": f"{kind}: {verdict}", "testable": not verdict.startswith("not testable")}
    return row | {"evidence": found}


def _there(value: Any) -> bool:
    return value not in ("", None) and not (isinstance(value, float) and not np.isfinite(value))
