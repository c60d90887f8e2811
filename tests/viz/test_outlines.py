"""Outlines: their area, with holes taken off, is the mask's, however its pixels touch."""

import numpy as np
import pytest

from notice_lens.viz.outlines import outline


def loops(mask: np.ndarray) -> list[np.ndarray]:
    corners = np.stack(outline(mask), 1)
    ends = np.flatnonzero(np.isnan(corners[:, 0]))
    return [loop[: np.argmax(np.isnan(loop[:, 0]))] for loop in np.split(corners, ends[:-1] + 1)] if len(ends) else []


def area(loop: np.ndarray) -> float:
    """Signed: positive where the loop runs clockwise with y downwards."""
    x, y = loop.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_a_box_has_four_corners_half_a_pixel_outside_of_its_pixels():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 4:8] = True
    (loop,) = loops(mask)
    assert loop[0].tolist() == loop[-1].tolist()
    assert sorted(map(tuple, loop[:-1].tolist())) == [(3.5, 0.5), (3.5, 2.5), (7.5, 0.5), (7.5, 2.5)]
    assert area(loop) == 8


def test_a_hole_runs_the_other_way():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    assert sorted(map(area, loops(mask))) == [-1, 25]


@pytest.mark.parametrize("seed", range(5))
def test_areas_add_up_to_the_mask(seed: int):
    mask = np.random.default_rng(seed).random((17, 11)) < 0.5
    found = loops(mask)
    assert all(loop[0].tolist() == loop[-1].tolist() for loop in found)
    assert sum(map(area, found)) == mask.sum()


def test_nothing_has_no_outline():
    x, y = outline(np.zeros((3, 4), bool))
    assert x.shape == y.shape == (0,)
