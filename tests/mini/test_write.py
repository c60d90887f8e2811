"""Pairs on disk: what is read back is what was drawn."""

import numpy as np
import pytest
from click.testing import CliRunner

from notice_lens.mini import rows
from notice_lens.mini.generate import GROUPS
from notice_lens.mini.write import main, run_lengths
from train_mini.curve import main as draw_curve
from train_mini.sheet import regions_in_colour, sheet


def unpacked(lengths):
    """COCO's definition, word for word: runs of zeros and ones in turn, zeros first, down the columns."""
    values = [value for place, run in enumerate(lengths["counts"]) for value in [place % 2] * run]
    return np.array(values, bool).reshape(lengths["size"], order="F")


@pytest.mark.parametrize(
    "mask",
    [np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, 7, dtype=bool), ~np.eye(5, 7, dtype=bool)],
    ids=["empty", "full", "off first", "on first"],
)
def test_run_lengths_give_the_mask_back(mask):
    lengths = run_lengths(mask)
    assert sum(lengths["counts"]) == mask.size
    np.testing.assert_array_equal(unpacked(lengths), mask)


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_a_split_is_written_and_read(task, tmp_path):
    from datasets import load_from_disk

    options = ["--task", task, "--split", "validation", "--n", "7", "--seed", "4", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 0, found.output
    assert "7 pairs" in found.output
    read = load_from_disk(tmp_path / "out")
    assert len(read) == 7
    for record, row in zip(read, rows(task, 7, seed=4, split="validation"), strict=True):
        assert record["kind"] == "vqa"
        for column in ("id", "task", "group", "clean_prompt", "corrupt_prompt", "donor_prompt", "corrupt_answer"):
            assert record[column] == getattr(row, column)
        for column in ("clean_image", "corrupt_image", "donor_image"):
            np.testing.assert_array_equal(np.asarray(record[column]), np.asarray(getattr(row, column)))
        assert {role: tuple(span) for role, span in record["roles"].items() if span is not None} == row.roles
        for region, mask in row.corrupt_regions.items():
            np.testing.assert_array_equal(unpacked(record["corrupt_regions"][region]), mask)


def test_a_sheet_shows_pictures_and_regions():
    some = list(rows("scenes", 4))
    picture = np.asarray(sheet(some, columns=2))
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
    colours = np.asarray(regions_in_colour(some[0])).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) == 4


def test_a_curve_has_a_line_for_each_accuracy(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,accuracy,shape_accuracy\n50,0,0.5\n100,0.5,0.75\n150,1.0,1.0\n")
    found = CliRunner().invoke(draw_curve, [str(log), str(tmp_path / "curve.svg")])
    assert found.exit_code == 0, found.output
    svg = (tmp_path / "curve.svg").read_text()
    lines = [line.split('"')[1].split() for line in svg.splitlines() if line.startswith("<polyline")]
    # Steps in which no question was asked have no accuracy.
    assert [len(points) for points in lines] == [2, 3]
    assert lines[0][-1] == lines[1][-1]
