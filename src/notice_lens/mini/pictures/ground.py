"""Grounds that emoji stand on: a soft field of colours with blotches, and bands, checks or dots of a similar shade."""

from dataclasses import dataclass
from functools import cached_property
from math import cos, sin
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from notice_lens.mini.picture import blotch_field, colour_field, enlarged
from notice_lens.mini.stream import RandomStream

PICTURE_UNITS = 128
"""How many units of length a picture is wide and high, and how many pixels the mini LLaVA takes."""

GROUND_PATTERNS = ("plain", "plain", "striped", "checked", "dotted", "speckled", "speckled")


@dataclass(frozen=True)
class Ground:
    """A soft field of colours with a pattern, and the light on all of the picture.

    Attributes:
        colours: 27 numbers from 0 to 255, 3 x 3 colours row by row.
        blotches: 256 numbers from 0 to 1, a 16 x 16 field.
        strength: How far blotches and pattern change the brightness, from 0 to 255.
        pattern: One of `GROUND_PATTERNS`.
        period: Length after which the pattern repeats, in units.
        angle: Direction of the pattern, in radians.
        light: The factor on every pixel's brightness at the left and at the right edge.
    """

    colours: tuple[float, ...]
    blotches: tuple[float, ...]
    strength: float
    pattern: str
    period: float
    angle: float
    light: tuple[float, float]

    units: ClassVar[int] = PICTURE_UNITS
    min_size: ClassVar[int] = 32

    @cached_property
    def _fields(self) -> tuple[Image.Image, Image.Image]:
        return colour_field(self.colours), blotch_field(self.blotches)

    def draw(self, size: int) -> NDArray[np.float32]:
        """Return the ground, [size, size, 3] from 0 to 255, before the light."""
        colours, blotches = self._fields
        pattern = self._pattern(size)
        if self.pattern != "speckled":
            pattern = pattern + (enlarged(blotches, size) - 127.5) * np.float32(0.6 / 127.5)
        return enlarged(colours, size) + (pattern * np.float32(self.strength))[:, :, None].astype(np.float32)

    def _pattern(self, size: int) -> NDArray[np.float32]:
        """Return the pattern, [size, size] from -1 to 1."""
        if self.pattern == "plain":
            return np.zeros((size, size), np.float32)
        if self.pattern == "speckled":
            grain = np.tile(np.asarray(self._fields[1], dtype=np.float32), (3, 3)) / 127.5 - 1
            # Each row is rolled, so that the repetition does not show.
            grain = np.stack([np.roll(row, 7 * number) for number, row in enumerate(grain)])
            return enlarged(Image.fromarray(grain), size)
        place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(PICTURE_UNITS / size)
        turn = np.float32(2 * np.pi / self.period)
        across, down = place[None, :], place[:, None]
        along = np.sin(turn * (across * np.float32(cos(self.angle)) + down * np.float32(sin(self.angle))))
        aside = np.sin(turn * (down * np.float32(cos(self.angle)) - across * np.float32(sin(self.angle))))
        # One pixel of softness on the edge of a band is anti-aliasing.
        sharp = np.float32(self.period * size / PICTURE_UNITS / 6)
        if self.pattern == "striped":
            return np.clip(along * sharp, -1, 1)
        if self.pattern == "checked":
            return np.clip(along * sharp, -1, 1) * np.clip(aside * sharp, -1, 1)
        return np.clip((along * aside - np.float32(0.45)) * 2 * sharp, -1, 1)


def ground(stream: RandomStream) -> Ground:
    """Draw a muted ground at random: it is nowhere as saturated as the things, and nowhere black or white."""
    base, hue = stream.uniform(95, 205), [stream.uniform(-26, 26) for _ in range(3)]
    colours = tuple(base + hue[place % 3] + stream.uniform(-13, 13) for place in range(27))
    return Ground(
        colours=colours,
        blotches=tuple(stream.numbers(256)),
        strength=stream.uniform(3, 15),
        pattern=stream.choice(GROUND_PATTERNS),
        period=stream.uniform(9, 26),
        angle=stream.choice((0.0, 0.7854, 1.5708)) + stream.uniform(-0.2, 0.2),
        light=(stream.uniform(0.8, 1.1), stream.uniform(0.8, 1.1)),
    )
