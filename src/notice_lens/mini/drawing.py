"""Pictures as data, and how they are drawn: anti-aliased, at any size, with the exact share that each part covers.

A picture is a background and parts, drawn one over the other. Places are given in units of which 64 span the picture.
Pillow fills each part's outline at eight times the resolution; the mean of those 8 x 8 points is the part's coverage
of a pixel. What is seen of a part is its coverage, less what later parts cover.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from notice_lens.mini.shapes import Outline

UNITS = 64
"""How many units of length a picture is wide and high."""

SUPERSAMPLING = 8

Colour = tuple[float | int, float | int, float | int]
"""Red, green and blue from 0 to 255."""


@dataclass(frozen=True)
class Fill:
    """The fill of a part: `colour`, with `texture` (plain, striped, dotted, checked) in `second`.

    The texture's grid is turned by `angle` (radians), hangs on the point `anchor` (units), in whose middle a dot or a
    band is, and is shifted by `phase` (share of a period).
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    texture: str = "plain"
    angle: float = 0.0
    phase: float = 0.0
    anchor: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Part:
    """One thing of a picture: its name and the outline, [corner, 2] in units, that is filled."""

    name: str
    outline: Outline
    fill: Fill


@dataclass(frozen=True)
class Background:
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

    @cached_property
    def _fields(self) -> tuple[Image.Image, Image.Image]:
        colours = np.asarray(self.colours).reshape(3, 3, 3).round().astype(np.uint8)
        blotches = (np.asarray(self.blotches).reshape(12, 12) * 255).round().astype(np.uint8)
        return Image.fromarray(colours), Image.fromarray(blotches)

    def draw(self, size: int) -> NDArray[np.float32]:
        """The background, [size, size, 3] from 0 to 255, before the light."""
        colours, blotches = (field.resize((size, size), Image.Resampling.BICUBIC) for field in self._fields)
        uneven = (np.asarray(blotches, dtype=np.float32) - np.float32(127.5)) * np.float32(2 * self.strength / 255)
        return (np.asarray(colours, dtype=np.float32) + uneven[:, :, None]).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Picture:
    """A background and the parts in front of it, the last one foremost."""

    background: Background
    parts: tuple[Part, ...]

    def without(self, name: str) -> "Picture":
        """The picture without the parts of this name."""
        return Picture(self.background, tuple(part for part in self.parts if part.name != name))

    def drawn(self, size: int = UNITS, *, cover: bool = True) -> "Drawing":
        """The picture drawn; see `draw`."""
        return draw(self, size, cover=cover)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture drawn.

    Attributes:
        pixels: uint8 [size, size, 3].
        cover: By part name, the share of each pixel in which the part is seen, float32 [size, size] from 0 to 1; the
            rest, `background`, among them. All of them sum to 1.
    """

    pixels: NDArray[np.uint8]
    cover: dict[str, NDArray[np.float32]]

    def mask(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Return the pixels that these parts together fill by at least half, bool [size, size]."""
        return sum((self.cover[name] for name in names), np.zeros(self.pixels.shape[:2], np.float32)) >= 0.5

    @property
    def image(self) -> Image.Image:
        """The picture as a Pillow image."""
        return Image.fromarray(self.pixels)


def draw(picture: Picture, size: int = UNITS, *, cover: bool = True) -> Drawing:
    """Draw a picture.

    Args:
        picture: What to draw.
        size: Its width and height in pixels, 16 or more.
        cover: Whether to work out what each part covers; without it `Drawing.cover` is empty.

    Raises:
        ValueError: if the size is below 16.
    """
    if size < 16:
        raise ValueError(f"a size of {size} pixels asked for; pictures can be drawn from 16 pixels on")
    canvas = picture.background.draw(size)
    seen = {"background": np.ones((size, size), np.float32)} if cover else {}
    for part in picture.parts:
        drawn = _coverage(part.outline * (size / UNITS), size)
        if drawn is None:
            continue
        box, alpha = drawn
        canvas[box] += alpha[:, :, None] * (_filled(part.fill, box, size / UNITS) - canvas[box])
        if cover:
            _cover(seen, part.name, box, alpha)
    left, right = picture.background.light
    canvas *= np.linspace(left, right, size, dtype=np.float32)[None, :, None]
    return Drawing(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), seen)


def _cover(
    seen: dict[str, NDArray[np.float32]], name: str, box: tuple[slice, slice], alpha: NDArray[np.float32]
) -> None:
    """Add a part to the visible share of each, and take what it hides from the others."""
    rest = 1 - alpha
    for other in seen.values():
        other[box] *= rest
    if name not in seen:
        seen[name] = np.zeros_like(seen["background"])
    seen[name][box] += alpha


def _coverage(outline: Outline, size: int) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
    """The box of pixels that an outline ([corner, 2] in pixels) touches, and how much of each it covers, 0 to 1."""
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


def _filled(fill: Fill, box: tuple[slice, slice], scale: float) -> NDArray[np.float32]:
    """The colour at each pixel of a box, [height, width, 3] (or broadcast to it)."""
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
    """The second colour's share, 0 to 1, at places along and across the texture's direction (units)."""
    if texture not in PERIODS:
        raise ValueError(f"texture {texture!r} asked for; there are plain, {', '.join(PERIODS)}")
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
    """Signed distance to the edge of alternating bands that are half a period wide, positive inside."""
    return period / 4 - np.abs(_from_middle(place, period))
