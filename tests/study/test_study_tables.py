"""A study's rows and sentences, and what its choices refuse."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import made_results as made
from notice_lens.pairs import Noise, mini_world
from notice_lens.pairs.regions import SmallRegion
from notice_lens.report.data import ReportData, ShownCondition
from notice_lens.study import Choices, summary
from notice_lens.study.findings import Study
from notice_lens.study.tables import everywhere, heads_table, label_rows, labels_table, untested


@pytest.fixture
def labels() -> xr.Dataset:
    """As of `circuits.label_heads`: one label given, one claim that failed, one that could not be tested."""
    dims = ("candidate", "kind")
    verdicts = np.array(
        [["given", "not testable: no outliers"], ["what it predicts fails", "not testable: no outliers"]]
    )
    p = np.array([[0.001, np.nan], [0.4, np.nan]])
    joint = {"change": -0.5, "low": -0.75, "high": -0.25, "p": 0.002, "sum": -0.4}
    return xr.Dataset(
        {"verdict": (dims, verdicts.astype(object)), "p_causal": (dims, p)}
        | {f"joint_{name}": ("group", [value, value]) for name, value in joint.items()},
        {
            "layer": ("candidate", [1, 2]), "head": ("candidate", [5, 0]), "kind": ["segmentation", "outliers"],
            "group": np.array(["segmentation", "all"], object),
        },
    )  # fmt: skip


def test_rows_of_labels_begin_with_their_task_and_have_true_minus_signs(labels):
    rows = list(label_rows("states", labels))
    assert [row["label"] for row in rows] == [
        "segmentation", None, "all heads labelled segmentation", "all labelled heads",
    ]  # fmt: skip
    assert all(next(iter(row["evidence"].items())) == ("task", "states") for row in rows)
    assert {row["task"] for row in rows} == {"states"}
    assert rows[-1]["evidence"]["ablated at once"] == "\u22120.500 logits [\u22120.750, \u22120.250], p 0.002"
    assert rows[-1]["evidence"]["one by one, summed"] == "\u22120.400 logits"
    assert untested("states", labels) == ["states: outliers: not testable: no outliers (2 heads)."]


def test_a_table_of_labels_has_the_evidence_in_columns(labels):
    table = labels_table({"states": labels})
    assert list(table.columns[:5]) == ["task", "layer", "head", "label", "reason"]
    assert table.task.tolist() == ["states"] * 4
    assert table["layer"].tolist()[:2] == [1, 2]
    assert pd.isna(table["layer"][3])
    assert table.p_causal.tolist()[:2] == [0.001, 0.4]


def test_what_all_positions_say_beside_one_role():
    at_role, at_all = made.important(), made.important(seed=1)
    at_all["significant"] = at_all.significant.copy()
    at_all.significant[0, 0] = True
    said = everywhere("states, image", at_role, at_all)
    expected = (
        "states, image, as a check with all positions at once: 3 significant, 2 at 'correct', 2 at both; strongest"
    )
    assert said.startswith(f"{expected} L1.H2, +31.0")
    assert "of what the mismatched donor leaves of the gap (60 pairs, " in said
    assert said.endswith("clusters).")


def test_heads_of_all_conditions_in_long_form():
    table = heads_table({"a": made.important(), "b": made.important(2, 3)})
    assert table.groupby("condition").size().to_dict() == {"a": 24, "b": 6}
    assert table.columns[0] == "condition"
    assert table[["pairs", "clusters"]].drop_duplicates().values.tolist() == [[60, 58]]


def test_what_was_not_tested_is_no_false_in_a_table_a_sentence_or_a_summary(tmp_path):
    few = made.untested(made.important())
    table = heads_table({"few": few, "enough": made.important()})
    assert table[table.condition == "few"].significant.isna().all()
    assert table[table.condition == "enough"].significant.sum() == 2
    table.to_csv(tmp_path / "heads.csv", index=False)
    read = pd.read_csv(tmp_path / "heads.csv")
    assert read[read.condition == "few"].significant.isna().all()
    for one, other in ((few, few), (few, made.important()), (made.important(), few)):
        assert "significance not tested; strongest L1.H2" in everywhere("x", one, other)
    world = mini_world("states", 1)
    pairs = {"few": world, "enough": world}
    found = Study(Choices(), pairs=pairs, important={"few": few, "enough": made.important()})
    found.data = ReportData(
        "", (ShownCondition("few", "few", "image", "correct", few, (), np.zeros((0, 3, 8)), {}),), ()
    )
    conditions = summary(found)["conditions"]
    assert [conditions[name]["significant"] for name in ("few", "enough")] == [None, ["L1.H2", "L2.H5"]]
    assert conditions["few"]["two_sigma"] == ["L1.H2", "L2.H5"]
    own = few.attrs
    assert (conditions["few"]["pairs"], conditions["few"]["clusters"]) == (own["pairs"], own["clusters"])
    assert "null_p" not in summary(found)
    found.universal = made.universal({"few": few, "enough": made.important()})
    assert (summary(found)["null_expected"], summary(found)["null_p"]) == (0.3, 0.012)


def test_small_regions_are_counted_in_a_note():
    found = Study(Choices())
    with found.noting("faces"):
        warnings.warn(SmallRegion("a list", [("one", "eyes"), ("one", "nose"), ("two", "nose")]), stacklevel=1)
    (note,) = found.notes
    assert note.startswith("faces: 3 regions of 2 pairs (eyes, nose) cover half of no patch")
    assert "NaN" in note


WRONG = [
    ({"direction": "denoising"}, "did you mean 'denoise'"),
    ({"corruptions": ("images",)}, "did you mean 'image'"),
    ({"corruptions": ("image", "image")}, "each once"),
    ({"corruptions": (Noise(),)}, "noise is a baseline"),
    ({"alpha": 0.0}, "alpha=0"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_choices_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        Choices(**given)


def test_so_many_flips_that_a_head_can_pass():
    """The smallest p is at most alpha over heads and conditions."""
    assert Choices().rules("correct", 24)["n_permutations"] == 10_000
    found = Choices().rules("correct", 144, 6)["n_permutations"]
    assert 1 / (found + 1) <= 0.05 / 144 / 6
