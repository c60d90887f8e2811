"""Labels of planted models, end to end: real attention of real weights, real cuts, and the row of the report."""

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from notice_lens import circuits
from notice_lens.circuits.functions.labels import INHIBITION, OUTLIERS, SEGMENTATION
from notice_lens.circuits.functions.predictions import KINDS
from notice_lens.report.label_rows import label_rows
from planted_looking import Head, Looks, Says, looking, looking_pairs

HEAD, CARRIER = (0, 1), (1, 0)
CARRIES = {CARRIER: Looks(at_object=4, writes=2)}
NOT_SHOWN = "its attention does not show it: "
NO_OUTLIERS = "not testable: no outlier patches"


class Design(NamedTuple):
    """What is planted, and what is to be said of `HEAD`.

    Attributes:
        heads: Those that do something.
        says: What patches say.
        label: That `HEAD` gets.
        verdicts: How the verdict on each label begins, in the order of `KINDS`.
        ratio: Attention at the object, or at outliers, over an even share: between these two.
    """

    heads: Mapping[Head, Looks]
    says: Says
    label: str
    verdicts: tuple[str, str, str]
    ratio: tuple[float, float]


DESIGNS = {
    "segmentation head": Design(
        {HEAD: Looks(at_object=4)}, Says(object=1, background=0), SEGMENTATION,
        ("given", f"{NOT_SHOWN}rank (AUROC 1.00", NO_OUTLIERS), (7, 9),
    ),
    "idle avoider": Design(
        {HEAD: Looks(at_object=-4, writes=0), **CARRIES}, Says(object=1, background=0), "",
        (
            f"{NOT_SHOWN}rank (AUROC 0.00",
            "what it predicts fails: cut (p = 1), contrast (p = 1), peers (p = 1), ablation (p = 1)", NO_OUTLIERS,
        ), (0, 0.05),
    ),
    "uniform carrier": Design(
        {HEAD: Looks()}, Says(object=1, background=1), "",
        (f"{NOT_SHOWN}rank (AUROC 0.50", f"{NOT_SHOWN}rank (AUROC 0.50", NO_OUTLIERS), (0.999, 1.001),
    ),
    "inhibitor that reads an opposing background": Design(
        {HEAD: Looks(at_object=-4), **CARRIES}, Says(object=1, background=-1), INHIBITION,
        (f"{NOT_SHOWN}rank (AUROC 0.00", "given", NO_OUTLIERS), (0, 0.05),
    ),
    "inhibitor that carries next to nothing": Design(
        {HEAD: Looks(at_object=-4, writes=0.002), **CARRIES}, Says(object=1, background=-1), "",
        (f"{NOT_SHOWN}rank (AUROC 0.00", "what it predicts fails: cut (p = 1)", NO_OUTLIERS), (0, 0.05),
    ),
    "negative head that looks at the object": Design(
        {HEAD: Looks(at_object=4, writes=-1), **CARRIES}, Says(object=1, background=0), "",
        ("what it predicts fails: cut (p = 1)", f"{NOT_SHOWN}rank (AUROC 1.00", NO_OUTLIERS), (7, 9),
    ),
    "outlier inhibition": Design(
        {HEAD: Looks(at_outliers=-1.5)}, Says(object=1, background=1, outlier=-1, has_outliers=True), OUTLIERS,
        (f"{NOT_SHOWN}rank (AUROC 0.50", f"{NOT_SHOWN}rank (AUROC 0.50", "given"), (0.15, 0.3),
    ),
    "uniform reader with a preference of 1e-6": Design(
        {HEAD: Looks(at_object=1e-6)}, Says(object=1, background=0), "",
        (f"{NOT_SHOWN}amount (1.00 times an even share [1.00, 1.00]", f"{NOT_SHOWN}rank (AUROC 1.00", NO_OUTLIERS),
        (0.999, 1.001),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DESIGNS)
def test_each_is_described_as_it_is_built(name: str):
    design = DESIGNS[name]
    model, pairs = looking(design.heads), looking_pairs(design.says)
    options = {"progress": False, "batch_size": 20}
    functions = circuits.head_functions(model, pairs, roles="correct", maps="attention", **options)
    labels = circuits.label_heads(model, pairs, functions, [HEAD], n_resamples=199, progress=False)
    assert labels.label.item() == design.label
    for verdict, start in zip(labels.verdict.values[0], design.verdicts, strict=True):
        assert verdict.startswith(start)
    rows = label_rows(labels)
    assert [row["label"] for row in rows] == [kind if kind == design.label else None for kind in KINDS]
    assert all((row["layer"], row["head"], row["task"]) == (*HEAD, "looking") for row in rows)
    for row, verdict in zip(rows, labels.verdict.values[0], strict=True):
        assert "reason" not in row if verdict == "given" else row["reason"].endswith(verdict)
    evidence = rows[KINDS.index(design.label) if design.label else 0]["evidence"]
    low, high = (evidence[f"attention_ratio_{end}"] for end in ("low", "high"))
    assert design.ratio[0] <= low <= evidence["attention_ratio"] <= high <= design.ratio[1]
    if design.label:
        assert max(evidence["q_attention"], evidence["q_causal"]) < 0.01
