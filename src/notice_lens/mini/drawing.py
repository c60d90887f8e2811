"""The drawn world's backgrounds and parts: filled outlines, anti-aliased at any size.

Pillow fills each part's outline at eight times the resolution; the mean of those 8 x 8 points is the part's coverage
of a pixel.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, sin
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from notice_lens.errors import one_of
from notice_lens.mini.picture import PixelBox, Stamp, blotch_field, colour_field, enlarged
from notice_lens.mini.shapes import Outline

UNITS = 64
"""How many units of length a picture is wide and high, and how many pixels the mini BLIP takes."""

SUPERSAMPLING = 8

Colour = tuple[float | int, float | int, float | int]
"""Red, green and blue from 0 to 255."""


@dataclass(frozen=True)
class Fill:
    """The fill of a part.

    Attributes:
        colour: The colour.
        second: The colour of the texture's stripes, dots or squares.
        texture: `plain`, `striped`, `dotted` or `checked`.
        angle: By which the texture's grid is turned, in radians.
        phase: By which it is shifted, as a share of its period.
        anchor: The point, in units, on which a dot or band is centred but for the shift.
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    texture: str = "plain"
    angle: float = 0.0
    phase: float = 0.0
    anchor: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class FilledOutline:
    """A part of a picture: its name and the outline, [corner, 2] in units, that is filled."""

    name: str
    outline: Outline
    fill: Fill

    def stamp(self, size: int) -> Stamp | None:
        """Return its pixels in a picture of `size` pixels; None where all of it is outside."""
        coverage = _coverage(self.outline * (size / UNITS), size)
        if coverage is None:
            return None
        box, alpha = coverage
        return Stamp(box, alpha, _filled(self.fill, box, size / UNITS))


@dataclass(frozen=True)
class SoftBackground:
    """A soft field of colours (3 x 3 x 3 numbers from 0 to 255), blotches on it, and the light on all of the picture.

    Attributes:
        colours: 27 numbers, row by row, red, green, blue.
        blotches: 144 numbers from 0 to 1, a 12 x 12 field.
        strength: How far the blotches change the brightness, from 0 to 255.
        light: The factor on every pixel's brightness at the left and at the right edge.
    """

    colours: tuple[float, ...]
    blotches: tuple[float, ...]
    strength: float
    light: tuple[float, float]

    units: ClassVar[int] = UNITS
    min_size: ClassVar[int] = 16

    @cached_property
    def _fields(self) -> tuple[Image.Image, Image.Image]:
        return colour_field(self.colours), blotch_field(self.blotches)

    def draw(self, size: int) -> NDArray[np.float32]:
        """Return the background, [size, size, 3] from 0 to 255, before the light."""
        colours, blotches = (enlarged(field, size) for field in self._fields)
        uneven = (blotches - np.float32(127.5)) * np.float32(2 * self.strength / 255)
        return (colours + uneven[:, :, None]).astype(np.float32, copy=False)


def _coverage(outline: Outline, size: int) -> tuple[PixelBox, NDArray[np.float32]] | None:
    """Return the pixels that an outline ([corner, 2] in pixels) touches, and how much of each it covers, 0 to 1."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    left, top = max(floor(low[0]), 0), max(floor(low[1]), 0)
    right, bottom = min(ceil(high[0]) + 1, size), min(ceil(high[1]) + 1, size)
    if right <= left or bottom <= top:
        return None
    fine = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    # Pillow counts a pixel as inside by its middle, half a fine pixel from the corner that our units start at.
    corners = ((outline - [left, top]) * SUPERSAMPLING - 0.5).ravel().tolist()
    ImageDraw.Draw(fine).polygon(corners, fill=255)
    alpha = np.asarray(fine.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)
    return (slice(top, bottom), slice(left, right)), alpha


def _filled(fill: Fill, box: PixelBox, scale: float) -> NDArray[np.float32]:
    """Return the colour at each pixel of a box, [height, width, 3] (or broadcast to it)."""
    colour = np.asarray(fill.colour, dtype=np.float32)
    if fill.texture == "plain":
        return colour[None, None]
    rows, columns = box
    down = ((np.arange(rows.start, rows.stop) + 0.5) / scale - fill.anchor[1])[:, None]
    across = ((np.arange(columns.start, columns.stop) + 0.5) / scale - fill.anchor[0])[None, :]
    along = across * cos(fill.angle) + down * sin(fill.angle)
    aside = down * cos(fill.angle) - across * sin(fill.angle)
    share = _pattern(fill.texture, along, aside, fill.phase, scale)[:, :, None].astype(np.float32)
    second = np.asarray(fill.second, dtype=np.float32)
    return (colour + share * (second - colour)).astype(np.float32, copy=False)


PERIODS = {"striped": 6.5, "dotted": 7.0, "checked": 9.0}
"""Length in units after which a texture repeats."""


def _pattern(
    texture: str, along: NDArray[np.float64], aside: NDArray[np.float64], phase: float, scale: float
) -> NDArray[np.float64]:
    """Return the second colour's share, 0 to 1, at places along and across the texture's direction (units)."""
    if texture not in PERIODS:
        raise ValueError(one_of("texture", texture, ("plain", *PERIODS)))
    period = PERIODS[texture]
    along, aside = along + phase * period, aside + phase * period
    # How far a place lies inside the second colour, in units: one pixel of blur on the edge is anti-aliasing.
    if texture == "striped":
        inside = _bands(along, period)
    elif texture == "checked":
        first, other = _bands(along, period), _bands(aside, period)
        inside = np.sign(first) * np.sign(other) * np.minimum(np.abs(first), np.abs(other))
    else:
        inside = period * 0.28 - np.hypot(_from_middle(along, period), _from_middle(aside, period))
    return np.clip(inside * scale + 0.5, 0, 1)


def _from_middle(place: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    return (place + period / 2) % period - period / 2


def _bands(place: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Return signed distance to the edge of alternating bands that are half a period wide, positive inside."""
    return period / 4 - np.abs(_from_middle(place, period))
