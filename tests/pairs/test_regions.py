"""Regions: whatever they come as, the same mask; patches by the half."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from notice_lens.pairs.regions import as_mask, as_run_lengths, coverage, resample

MASK = np.zeros((4, 6), bool)
MASK[1:3, 2:5] = True


def test_every_form_of_a_region_is_the_same_mask(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    Image.fromarray((MASK * 255).astype(np.uint8)).save(tmp_path / "bright.png")
    lengths = as_run_lengths(MASK, MASK.shape)
    assert lengths == {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}
    forms = [
        MASK,
        MASK.astype(np.uint8),
        MASK * 255,
        MASK.astype(float),
        Image.fromarray(MASK),
        tmp_path / "mask.png",
        str(tmp_path / "bright.png"),
        lengths,
        {"mask": tmp_path / "mask.png"},
        [[2, 1, 5, 1, 5, 3, 2, 3]],
        [[2, 1, 5, 1, 5, 3], [2, 1, 5, 3, 2, 3]],
        {"box": [2, 1, 3, 2], "box_format": "xywh"},
        {"box": np.array([2.0, 1.0, 5.0, 3.0]), "box_format": "xyxy"},
    ]
    for form in forms:
        np.testing.assert_array_equal(as_mask(form, MASK.shape), MASK)


# Written by pycocotools 2.0.11: mask.encode(np.asfortranarray(mask))["counts"].
COMPRESSED = json.loads((Path(__file__).parents[1] / "data" / "coco_run_lengths.json").read_text())


@pytest.mark.parametrize("case", COMPRESSED, ids=lambda case: case["counts"])
def test_compressed_run_lengths_as_coco_writes_them(case):
    runs = as_run_lengths({"size": case["size"], "counts": case["counts"]}, tuple(case["size"]))
    assert runs["counts"] == case["runs"]
    as_bytes = as_run_lengths({"size": case["size"], "counts": case["counts"].encode()}, tuple(case["size"]))
    assert as_bytes == runs


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_and_back(mask):
    np.testing.assert_array_equal(as_mask(as_run_lengths(mask, mask.shape), mask.shape), mask)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (np.zeros((3, 3), bool), "it is 3 x 3 pixels, its picture 4 x 6"),
        ({"size": [10**6, 10**7], "counts": [10**13]}, "it is 1000000 x 10000000 pixels, its picture 4 x 6"),
        ([50, 50, 3, 2], "the box [50.0, 50.0, 3.0, 2.0] as x, y, width, height runs over the edge"),
        ({"size": [4, 6], "counts": [3, 4]}, "run lengths add up to 7 pixels, not to 4 x 6"),
        ({"counts": [24]}, "run lengths have 'size' and 'counts'; got counts"),
        ([0, 0, 0, 2], "the box [0.0, 0.0, 0.0, 2.0], read as xywh, has no area"),
        ("nowhere.png", "nowhere.png cannot be read"),
        (np.zeros((2, 2, 2)), "a region is a mask [height, width], an image file, COCO run lengths, a box"),
        (object(), "got object of shape []"),
    ],
)
def test_what_is_no_region(region, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_run_lengths(region, MASK.shape)


@given(
    arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_coverage_is_exact(mask, grid):
    """An oracle that needs no fractions: the mask blown up so that pixels and cells share their edges."""
    blown_up = np.repeat(np.repeat(mask, grid[0], 0), grid[1], 1)
    cells = blown_up.reshape(grid[0], mask.shape[0], grid[1], mask.shape[1])
    np.testing.assert_allclose(coverage(mask, grid), cells.mean((1, 3)), atol=1e-12)


def test_half_a_patch_is_enough():
    mask = np.zeros((6, 6), bool)
    mask[:, :1] = True  # half of a cell of two, a third of a cell of three
    assert resample(mask, (3, 3))[:, 0].all()
    assert not resample(mask, (2, 2)).any()
    # The same where pixels and cells share no edges: 10 pixels into 4 cells of 2.5.
    stripe = np.zeros((10, 10), bool)
    stripe[:, :1] = True
    assert not resample(stripe, (4, 4)).any()
    stripe[:, :2] = True
    assert resample(stripe, (4, 4))[:, 0].all()
