"""Regions: whatever they come as, the same mask; patches by the half."""

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from notice_lens.models.layout import coverage, resample
from notice_lens.pairs.regions import RegionFormat, as_mask, as_run_lengths

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


# Boxes

PICTURE = (100, 200)
BOX = np.zeros(PICTURE, bool)
BOX[20:50, 30:90] = True
BOXES = {
    "xywh": [30, 20, 60, 30],
    "xyxy": [30, 20, 90, 50],
    "cxcywh": [60, 35, 60, 30],
    "xywhn": [0.15, 0.2, 0.3, 0.3],
    "xyxyn": [0.15, 0.2, 0.45, 0.5],
    "cxcywhn": [0.3, 0.35, 0.3, 0.3],
}


@pytest.mark.parametrize("box_format", BOXES)
def test_a_box_of_every_format_is_the_same_mask(box_format):
    box = BOXES[box_format]
    for region in (box, tuple(box), np.array(box)):
        np.testing.assert_array_equal(as_mask(region, PICTURE, RegionFormat(box_format=box_format)), BOX)
        np.testing.assert_array_equal(as_mask({"box": region, "box_format": box_format}, PICTURE), BOX)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([30, 20, 90, 50], "may be two corners as well"),
        ([0, 1, 200, 99], "may be two corners as well"),
        ([150, 60, 190, 95], "may be two corners as well"),
        ([190, 60, 150, 95], "runs over the edge"),
        ([150, 80, 60, 30], "runs over the edge"),
        ([-5, 0, 60, 30], "runs over the edge"),
        ([0.15, 0.2, 0.3, 0.3], "lies between 0 and 1: are these shares"),
        ([0, 0, 1, 1], "lies between 0 and 1: are these shares"),
        ([300, 20, 10, 10], "lies outside"),
        ([1e300, 20, 1e300, 10], "runs over the edge"),
    ],
)
def test_a_box_that_can_be_read_in_two_ways_is_refused(box, message):
    with pytest.raises(ValueError, match=message + ".*box_format= says which of xywh, xyxy, cxcywh, xywhn"):
        as_run_lengths(box, PICTURE)


@pytest.mark.parametrize(
    ("box", "edges"),
    [
        ([120, 60, 40, 20], (60, 80, 120, 160)),
        ([0, 0, 200, 100], (0, 100, 0, 200)),
        ([120.4, 60.5, 79.9, 40], (60, 100, 120, 200)),
    ],
)
def test_a_box_that_can_only_be_one_thing_needs_no_format(box, edges):
    expected = np.zeros(PICTURE, bool)
    expected[edges[0] : edges[1], edges[2] : edges[3]] = True
    np.testing.assert_array_equal(as_mask(box, PICTURE), expected)


@pytest.mark.parametrize(
    ("box", "box_format", "message"),
    [
        ([30, 20, 90, 50], "cxcywhn", "lies outside|runs over the edge"),
        ([150, 80, 60, 30], "xywh", "runs over the edge"),
        ([90, 50, 30, 20], "xyxy", "has no area"),
        ([0.1, 0.1, 0.2, 0.2], "xywh", "no pixel has its centre within"),
        ([np.nan, 1, 2, 3], "xywh", "is not finite"),
        ([1, 2, np.inf, 3], "xyxy", "is not finite"),
    ],
)
def test_boxes_that_are_not_what_their_format_says(box, box_format, message):
    with pytest.raises(ValueError, match=message):
        as_run_lengths(box, PICTURE, RegionFormat(box_format=box_format))


def test_formats_of_boxes_are_named():
    with pytest.raises(ValueError, match="xyxyx.*xyxy"):
        as_mask({"box": [1, 2, 3, 4], "box_format": "xyxyx"}, PICTURE)


# Polygons


def inside(x, y, polygon):
    """Whether a point lies in a polygon, counted edge by edge."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    odd = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 > y) != (y1 > y) and x > x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 70)), min_size=3, max_size=7), st.booleans())
def test_polygons_hold_the_pixels_whose_centres_lie_inside(points, as_array):
    # In tenths, and a bit that differs in x and y, so that no edge runs through a centre.
    polygon = [coordinate for x, y in points for coordinate in (x / 10 + 0.0123457, y / 10 + 0.0271828)]
    expected = np.array([[inside(x + 0.5, y + 0.5, polygon) for x in range(9)] for y in range(7)])
    region = [np.array(polygon) if as_array else polygon]
    if expected.any() and max(polygon) > 1:
        np.testing.assert_array_equal(as_mask(region, (7, 9)), expected)
        second = [[0.2, 6.2, 0.8, 6.2, 0.8, 6.8, 0.2, 6.8], polygon]
        assert as_mask(second, (7, 9))[6, 0]
        np.testing.assert_array_equal(as_mask(second, (7, 9)) | expected, as_mask(second, (7, 9)))


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([[1, 1, 5, 5]], "three points or more"),
        ([[1, 1, 5, 5, 3]], "three points or more"),
        ([[[1, 1], [5, 5], [3, 1]]], "three points or more"),
        ([[1, 1, 5, 5, "a", 2]], "three points or more"),
        ([[1, 1, 5, 5, [3], 2]], "three points or more"),
        ([[[1, 1], [5, 5, 3]]], "three points or more"),
        ([[1, 1, 5, 5, None, {}]], "three points or more"),
        ([[1, 1, 5, 5, 10**400, 2]], "three points or more"),
        ([[1, 1, 5, np.nan, 3, 2]], "three points or more"),
        ([[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], "lies between 0 and 1"),
        ([[1, 1, 5, 1, 300, 50]], "runs over the edge"),
        ([[1, 1, 1.2, 1, 1.2, 1.2]], "no pixel has its centre within"),
    ],
)
def test_what_is_no_polygon(polygons, message):
    with pytest.raises(ValueError, match=message):
        as_mask(polygons, PICTURE)
    with pytest.raises(ValueError, match="polygons need the size of its picture"):
        as_mask(polygons)


# Run lengths


def slowly(size, counts):
    """A mask pixel by pixel, down the columns."""
    height, width = size
    mask, position, on = np.zeros((height, width), bool), 0, False
    for count in counts:
        for _ in range(count):
            mask[position % height, position // height] = on
            position += 1
        on = not on
    assert position == height * width
    return mask


def compressed(counts):
    """COCO's string: differences to the run two before, in groups of five bits with a sign."""
    said = ""
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            said += chr(48 + bits + 32 * more)
    return said


@settings(deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 40)), st.data())
def test_run_lengths_are_read_as_they_are_written(size, data):
    counts, left = [], size[0] * size[1]
    while left:
        counts.append(data.draw(st.integers(0 if not counts else 1, left)))
        left -= counts[-1]
    expected = slowly(size, counts)
    for form in (counts, np.array(counts), tuple(counts), [float(count) for count in counts]):
        np.testing.assert_array_equal(as_mask({"size": list(size), "counts": form}), expected)
    for form in (compressed(counts), compressed(counts).encode()):
        np.testing.assert_array_equal(as_mask({"size": list(size), "counts": form}), expected)


WRAPS = [2**63 - 1, 2**63 - 1, 26]


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([4, 6], WRAPS),
        ([4, 6], [2**62, 2**62, 2**62, 2**62, 24]),
        ([4, 6], np.array(WRAPS, dtype=np.int64)),
        ([4, 6], np.array([2**64 - 1, 25], dtype=np.uint64)),
        ([4, 6], [10**30, 1]),
        ([4, 6], [30, -6]),
        ([4, 6], [-1, 25]),
        ([4, 6], [1.5, 22.5]),
        ([4, 6], [np.nan, 24]),
        ([4, 6], [np.inf, 24]),
        ([4, 6], ["24"]),
        ([4, 6], [None, 24]),
        ([4, 6], [[24]]),
        ([4, 6], []),
        ([4, 6], None),
        ([4, 6], 24),
        ([4, 6], ""),
        ([4, 6], "o" * 1000 + "0"),
        ([4, 6], "Po" * 40),
        ([4, 6], "h0o"),
        ([4, 6], "\ud800"),
        ([4, 6], "é0"),
        ([4, 6], b"\xff\x00"),
        ([2**32, 2**32], [0]),
        ([2**31 - 1, 2**31 - 1], [1]),
        ([10**30, 1], [1]),
        ([-4, -6], [24]),
        ([0, 6], [0]),
        ([4.5, 6], [27]),
        (["4", "6"], [24]),
        ([4], [4]),
        ([4, 6, 1], [24]),
        ("46", [24]),
        (None, [24]),
        ([np.nan, 6], [24]),
        ([True, True], [1]),
    ],
)
def test_run_lengths_that_cannot_be_are_refused_before_they_are_used(size, counts):
    """Sums that wrap around 64 bits gave as many pixels as there are, and were written outside of memory."""
    for picture in (None, (4, 6)):
        with pytest.raises(ValueError, match="run lengths|the counts are|its picture|more than .* pixels"):
            as_mask({"size": size, "counts": counts}, picture)


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40) | st.lists(st.integers(-(2**70), 2**70), max_size=9))
def test_no_run_lengths_end_in_anything_but_a_mask_or_a_sentence(counts):
    with suppress(ValueError):
        assert as_mask({"size": [4, 6], "counts": counts}).shape == (4, 6)


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
hostile = st.recursive(numbers, lambda inner: st.lists(inner, max_size=6), max_leaves=12)
named = st.sampled_from(["size", "counts", "mask", "label", "box", "box_format"])


@settings(deadline=None)
@given(hostile | st.dictionaries(named, hostile, max_size=3))
def test_no_cell_of_json_ends_in_anything_but_a_mask_or_a_sentence(region):
    with suppress(ValueError):
        assert as_run_lengths(json.loads(json.dumps(region)), (4, 6))["size"] == [4, 6]


@pytest.mark.parametrize("label", ["1", [], [1.5], [[1], 2], True, {"a": 1}, None])
def test_labels_are_whole_numbers(label):
    levels = np.arange(24).reshape(4, 6) % 3
    with pytest.raises(ValueError, match="expected a whole number, or several|the values 0, 1, 2: indices"):
        as_run_lengths({"mask": levels, "label": label}, (4, 6))
