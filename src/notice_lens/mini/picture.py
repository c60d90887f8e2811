"""Pictures as data, and how they are drawn: at any size, with the exact share of each pixel that each part covers.

A picture is a background and parts, drawn one over the other; what a part or a background looks like, each world has
its own classes for. Places are given in units, of which a fixed number spans the picture.

1. The background.
2. The shadows of the parts, which fall on the background alone.
3. The parts, from back to front. What is seen of a part is its coverage of a pixel, less what later parts cover.
4. The light: a factor on all pixels, from the left edge to the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PixelBox = tuple[slice, slice]
"""Rows and columns of pixels."""


@dataclass(frozen=True, eq=False)
class Stamp:
    """The pixels of a part.

    Attributes:
        box: The pixels of the picture that the part touches.
        alpha: Its coverage of each, from 0 to 1; float32 [height, width].
        colour: Its colour from 0 to 255, float32 [height, width, 3] or broadcast to it.
        premultiplied: Whether the colour is already times the coverage.
        shadow: Where its shadow falls, and the share of the light that it leaves, [height, width, 1]; None for none.
    """

    box: PixelBox
    alpha: NDArray[np.float32]
    colour: NDArray[np.float32]
    premultiplied: bool = False
    shadow: tuple[PixelBox, NDArray[np.float32]] | None = None

    def paint(self, canvas: NDArray[np.float32]) -> None:
        """Draw the part over what is on the canvas, float32 [size, size, 3]."""
        alpha, behind = self.alpha[:, :, None], canvas[self.box]
        canvas[self.box] += self.colour - alpha * behind if self.premultiplied else alpha * (self.colour - behind)

    def cover(self, seen: dict[str, NDArray[np.float32]], name: str) -> None:
        """Add the part to the visible share of its name, and take what it hides from the others."""
        for other in seen.values():
            other[self.box] *= 1 - self.alpha
        if name not in seen:
            seen[name] = np.zeros_like(seen["background"])
        seen[name][self.box] += self.alpha


@runtime_checkable
class Part(Protocol):
    """A part of a picture."""

    @property
    def name(self) -> str:
        """Its name in the masks; parts of one name are one."""
        ...

    def stamp(self, size: int) -> Stamp | None:
        """Return its pixels in a picture of `size` pixels; None where all of it is outside."""
        ...


@runtime_checkable
class Background(Protocol):
    """The background, behind all parts."""

    units: ClassVar[int]
    """How many units of length the picture is wide and high, and its usual size in pixels."""

    min_size: ClassVar[int]
    """The smallest size of the picture, in pixels."""

    @property
    def light(self) -> tuple[float, float]:
        """The factor on every pixel's brightness at the left and at the right edge."""
        ...

    def draw(self, size: int) -> NDArray[np.float32]:
        """Return the background, [size, size, 3] from 0 to 255, before the light."""
        ...


@dataclass(frozen=True, eq=False)
class Picture:
    """A background and the parts in front of it, the last one foremost."""

    background: Background
    parts: tuple[Part, ...]

    def without(self, name: str) -> "Picture":
        """Return the picture without the parts of this name."""
        return Picture(self.background, tuple(part for part in self.parts if part.name != name))

    def drawn(self, size: int | None = None, *, cover: bool = True) -> "Drawing":
        """Draw the picture.

        Args:
            size: Its width and height in pixels; None for one pixel per unit.
            cover: Whether to compute what each part covers; without it `Drawing.cover` is empty.

        Raises:
            ValueError: The size is below the smallest one of the world.
        """
        size = self.background.units if size is None else size
        if size < self.background.min_size:
            raise ValueError(f"expected a size of {self.background.min_size} pixels or more, got {size}")
        canvas = self.background.draw(size)
        stamps = [(part.name, stamp) for part in self.parts if (stamp := part.stamp(size)) is not None]
        for _, stamp in stamps:
            if stamp.shadow is not None:
                box, light = stamp.shadow
                canvas[box] *= light
        seen = {"background": np.ones((size, size), np.float32)} if cover else {}
        for name, stamp in stamps:
            stamp.paint(canvas)
            if cover:
                stamp.cover(seen, name)
        left, right = self.background.light
        canvas *= np.linspace(left, right, size, dtype=np.float32)[None, :, None]
        return Drawing(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), seen)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture drawn.

    Attributes:
        pixels: uint8 [size, size, 3].
        cover: The share of each pixel in which a part is seen, by its name, float32 [size, size] from 0 to 1. The rest
            is named `background`; all of them sum to 1.
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


def colour_field(colours: Sequence[float]) -> Image.Image:
    """Return 27 numbers from 0 to 255 (3 x 3 colours, row by row) as an image, to be enlarged by `enlarged`."""
    return Image.fromarray(np.asarray(colours).reshape(3, 3, 3).round().clip(0, 255).astype(np.uint8))


def blotch_field(blotches: Sequence[float]) -> Image.Image:
    """Return the numbers from 0 to 1 of a square field as an image of grey from 0 to 255."""
    side = round(len(blotches) ** 0.5)
    return Image.fromarray((np.asarray(blotches).reshape(side, side) * 255).round().astype(np.uint8))


def enlarged(field: Image.Image, size: int) -> NDArray[np.float32]:
    """Return a field softly enlarged, [size, size] or [size, size, 3]."""
    return np.asarray(field.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
