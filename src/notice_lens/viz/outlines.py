"""The outline of a region, as Plotly fills it."""

from collections import defaultdict

import numpy as np
from jaxtyping import Bool, Float32


def outline(
    mask: Bool[np.ndarray, "height width"],
) -> tuple[Float32[np.ndarray, " corner"], Float32[np.ndarray, " corner"]]:
    """The corners of a mask's outline: x and y, in pixels whose centres are whole numbers.

    Loops are closed and end with a NaN. Outer ones run clockwise on a picture and those of holes the other way, so that
    filling by winding number leaves the holes free.

    Args:
        mask: The pixels of the region; an empty mask has no corners.
    """
    following = _edges(mask)
    corners: list[tuple[float, float]] = []
    while following:
        start = place = next(iter(following))
        heading = None
        loop: list[tuple[float, float]] = []
        while place in following:
            after = following[place].pop()
            if not following[place]:
                del following[place]
            turn = (after[0] - place[0], after[1] - place[1])
            if turn != heading:
                loop.append(place)
            place, heading = after, turn
        corners += [*loop, start, (np.nan, np.nan)]
    points = np.array(corners, np.float32).reshape(-1, 2) - np.float32(0.5)
    return points[:, 1], points[:, 0]


def _edges(mask: Bool[np.ndarray, "height width"]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the next corner of the outline after each corner (row, column), with the region on its right."""
    inside = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    # For each side of a pixel: how to get to its neighbour, and the side's beginning and end from its upper left.
    sides = [((-1, 0), (0, 0), (0, 1)), ((0, 1), (0, 1), (1, 1)), ((1, 0), (1, 1), (1, 0)), ((0, -1), (1, 0), (0, 0))]
    for (down, right), begin, end in sides:
        neighbour = np.roll(inside, (-down, -right), (0, 1))
        for row, column in (np.argwhere(inside & ~neighbour) - 1).tolist():
            following[row + begin[0], column + begin[1]].append((row + end[0], column + end[1]))
    return following
