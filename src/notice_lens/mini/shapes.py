"""Outlines of things: polygons around (0, 0) that reach about 1 to every side; x grows to the right, y downwards."""

from functools import cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
"""Corners of a polygon, [corner, 2]: x and y."""

Length = float | int

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "heart", "cross", "moon")
"""The nouns of scenes and states."""


def ellipse(centre_x: Length, centre_y: Length, radius_x: Length, radius_y: Length, corners: int = 40) -> Outline:
    """Return an ellipse as a polygon. Lengths in any unit; returns [corner, 2]."""
    turn = np.arange(corners) * (2 * pi / corners)
    return np.stack([centre_x + radius_x * np.cos(turn), centre_y + radius_y * np.sin(turn)], axis=1)


def stroke(points: Outline, width: Length) -> Outline:
    """Return the band of this width along a curve ([point, 2]), as a polygon; its ends are cut straight."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width / 2)
    return np.concatenate([points + across, (points - across)[::-1]])


def turned(outline: Outline, angle: Length) -> Outline:
    """Return the outline turned about (0, 0) by an angle in radians, clockwise on the screen."""
    return outline @ np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


@cache
def unit_outline(shape: str) -> Outline:
    """Return the outline of a named shape, [corner, 2]. Raises KeyError for a name that is not in `SHAPES`."""
    return {
        "circle": lambda: ellipse(0, 0, 1, 1),
        "square": lambda: 0.9 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64),
        "triangle": lambda: np.array([[0, -1.05], [1.08, 0.85], [-1.08, 0.85]]),
        "star": lambda: _star(1.15, 0.5) + np.array([0, 0.08]),
        "heart": _heart,
        "cross": lambda: _cross(1.0, 0.36),
        "moon": _moon,
    }[shape]()


def _star(outer: float, inner: float) -> Outline:
    turn = np.arange(10) * (pi / 5) - pi / 2
    radius = np.where(np.arange(10) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _heart() -> Outline:
    turn = np.arange(48) * (2 * pi / 48)
    across = 16 * np.sin(turn) ** 3
    down = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
    return np.stack([across / 15.5, (down - 2.5) / 14.5], axis=1)


def _cross(reach: float, half_arm: float) -> Outline:
    quarter = [(half_arm, -reach), (half_arm, -half_arm), (reach, -half_arm)]
    corners = []
    for quarter_turns in range(4):
        for x, y in quarter:
            for _ in range(quarter_turns):
                x, y = -y, x
            corners.append((x, y))
    return np.array(corners)


def _moon() -> Outline:
    # A disc, less a disc of radius `bite` whose middle lies `aside` further right; their outlines cross at the horns.
    aside, bite = 0.78, 0.92
    horn_x = (aside**2 + 1 - bite**2) / (2 * aside)
    horn = np.arccos(horn_x)
    back = np.linspace(horn, 2 * pi - horn, 36)
    start = np.arctan2(-np.sin(horn), horn_x - aside) % (2 * pi)
    front = np.linspace(start, 2 * pi - start, 24)[1:-1]
    outside = np.stack([np.cos(back), np.sin(back)], axis=1)
    inside = np.stack([aside + bite * np.cos(front), bite * np.sin(front)], axis=1)
    return np.concatenate([outside, inside]) * 1.08 + np.array([0.2, 0])
