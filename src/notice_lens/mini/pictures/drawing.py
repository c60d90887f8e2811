"""Pictures of emoji as data, and how they are drawn: at any size, with shadows, and the exact share each thing covers.

A picture is a ground and things, drawn one over the other. Places are given in units of which 128 span the picture.
1. The ground: a soft field of colours, blotches on it, and bands, checks or dots in a near shade.
2. The shadow of each thing: its outline, moved down, blurred; it falls on the ground alone.
3. Each thing: its emoji turned and shrunk. Its coverage of a pixel is how opaque it is there; what is seen of it is
   its coverage, less what later things cover.
4. The light: a factor on all pixels, from the left edge to the right.
"""

from dataclasses import dataclass
from functools import cached_property
from math import cos, floor, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from notice_lens.mini.drawing import Drawing
from notice_lens.mini.pictures.sprites import sprite
from notice_lens.mini.stream import RandomStream

UNITS = 128
"""How many units of length a picture is wide and high, and how many pixels the mini LLaVA takes."""

GROUND_PATTERNS = ("plain", "plain", "striped", "checked", "dotted", "speckled", "speckled")

SHADOW_DROP, SHADOW_BLUR, SHADOW_DEPTH = 0.06, 0.035, 0.38
"""Of a shadow: how far down and how soft, as shares of its thing's side, and how much light it takes away."""


@dataclass(frozen=True)
class PlacedEmoji:
    """An emoji in its place.

    Attributes:
        name: The name of the thing in the picture; things of one name are one in the masks.
        noun: What it is, a key of `LOOKS`.
        look: Which one, a word of the noun's.
        variant: Which of the emoji that show the same.
        x: Middle, units from the left.
        y: Middle, units from the top.
        side: Width and height of the emoji, in units.
        tilt: Angle in radians, clockwise.
        mirrored: Whether left and right are exchanged.
        shadow: Whether it throws one.
    """

    name: str
    noun: str
    look: str
    variant: int
    x: float
    y: float
    side: float
    tilt: float = 0.0
    mirrored: bool = False
    shadow: bool = True


@dataclass(frozen=True)
class Ground:
    """What things stand on: a soft field of colours with a pattern, and the light on all of the picture.

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

    @cached_property
    def _fields(self) -> tuple[Image.Image, Image.Image]:
        colours = np.asarray(self.colours).reshape(3, 3, 3).round().clip(0, 255).astype(np.uint8)
        blotches = (np.asarray(self.blotches).reshape(16, 16) * 255).round().astype(np.uint8)
        return Image.fromarray(colours), Image.fromarray(blotches)

    def draw(self, size: int) -> NDArray[np.float32]:
        """The ground, [size, size, 3] from 0 to 255, before the light."""
        colours, blotches = self._fields
        soft = np.asarray(colours.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
        fine = self._fine(size)
        if self.pattern != "speckled":
            uneven = np.asarray(blotches.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
            fine = fine + (uneven - 127.5) * np.float32(0.6 / 127.5)
        return soft + (fine * np.float32(self.strength))[:, :, None].astype(np.float32)

    def _fine(self, size: int) -> NDArray[np.float32]:
        """The pattern, [size, size] from -1 to 1."""
        if self.pattern == "plain":
            return np.zeros((size, size), np.float32)
        if self.pattern == "speckled":
            grain = np.tile(np.asarray(self._fields[1], dtype=np.float32), (3, 3)) / 127.5 - 1
            # Rolled, row by row, so that the repetition does not show.
            grain = np.stack([np.roll(row, 7 * number) for number, row in enumerate(grain)])
            return np.asarray(Image.fromarray(grain).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
        place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(UNITS / size)
        turn = np.float32(2 * np.pi / self.period)
        across, down = place[None, :], place[:, None]
        along = np.sin(turn * (across * np.float32(cos(self.angle)) + down * np.float32(sin(self.angle))))
        aside = np.sin(turn * (down * np.float32(cos(self.angle)) - across * np.float32(sin(self.angle))))
        # One pixel of softness on the edge of a band is anti-aliasing.
        sharp = np.float32(self.period * size / UNITS / 6)
        if self.pattern == "striped":
            return np.clip(along * sharp, -1, 1)
        if self.pattern == "checked":
            return np.clip(along * sharp, -1, 1) * np.clip(aside * sharp, -1, 1)
        return np.clip((along * aside - np.float32(0.45)) * 2 * sharp, -1, 1)


def ground(stream: RandomStream) -> Ground:
    """Draw a muted ground at random: no field of it is as saturated as the things, and none is black or white."""
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


@dataclass(frozen=True, eq=False)
class Picture:
    """A ground and the things on it, the last one foremost."""

    ground: Ground
    things: tuple[PlacedEmoji, ...]

    def without(self, name: str) -> "Picture":
        """The picture without the things of this name."""
        return Picture(self.ground, tuple(thing for thing in self.things if thing.name != name))

    def drawn(self, size: int = UNITS, *, cover: bool = True) -> Drawing:
        """Draw the picture.

        Args:
            size: Its width and height in pixels, 32 or more.
            cover: Whether to work out what each thing covers; without it `Drawing.cover` is empty.

        Raises:
            ValueError: The size is below 32.
        """
        if size < 32:
            raise ValueError(f"a size of {size} pixels asked for; pictures can be drawn from 32 pixels on")
        canvas = self.ground.draw(size)
        stamps = [stamp for thing in self.things if (stamp := _stamped(thing, size)) is not None]
        for stamp in stamps:
            if stamp.thing.shadow:
                _throw_shadow(canvas, stamp, size)
        seen = {"background": np.ones((size, size), np.float32)} if cover else {}
        for stamp in stamps:
            canvas[stamp.box] += stamp.colour - stamp.alpha[:, :, None] * canvas[stamp.box]
            if cover:
                _cover(seen, stamp)
        left, right = self.ground.light
        canvas *= np.linspace(left, right, size, dtype=np.float32)[None, :, None]
        return Drawing(np.clip(np.rint(canvas), 0, 255).astype(np.uint8), seen)


@dataclass(frozen=True, eq=False)
class _Stamp:
    """A thing's pixels: the box of the picture that they fill, colour times coverage, and coverage from 0 to 1."""

    thing: PlacedEmoji
    box: tuple[slice, slice]
    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]


def _stamped(thing: PlacedEmoji, size: int) -> _Stamp | None:
    """Return the pixels of a thing in a picture; None where all of it is outside."""
    scale = size / UNITS
    side = max(round(thing.side * scale), 2)
    emoji = sprite(thing.noun, thing.look, thing.variant).convert("RGBa")
    if thing.mirrored:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    emoji = emoji.resize((side, side), Image.Resampling.LANCZOS if side < emoji.width else Image.Resampling.BICUBIC)
    if thing.tilt:
        emoji = emoji.rotate(-np.degrees(thing.tilt), Image.Resampling.BICUBIC, expand=True)
    left, top = floor(thing.x * scale - emoji.width / 2 + 0.5), floor(thing.y * scale - emoji.height / 2 + 0.5)
    first, end = (max(left, 0), max(top, 0)), (min(left + emoji.width, size), min(top + emoji.height, size))
    if end[0] <= first[0] or end[1] <= first[1]:
        return None
    cut = (slice(first[1] - top, end[1] - top), slice(first[0] - left, end[0] - left))
    pixels = np.asarray(emoji)[cut].astype(np.float32)
    box = (slice(first[1], end[1]), slice(first[0], end[0]))
    return _Stamp(thing, box, pixels[:, :, :3], pixels[:, :, 3] / np.float32(255))


def _throw_shadow(canvas: NDArray[np.float32], stamp: _Stamp, size: int) -> None:
    side = stamp.thing.side * size / UNITS
    margin, drop = max(round(side * 0.12), 2), max(round(side * SHADOW_DROP), 1)
    padded = np.pad((stamp.alpha * 255).astype(np.uint8), margin)
    soft = Image.fromarray(padded).filter(ImageFilter.BoxBlur(max(side * SHADOW_BLUR, 1)))
    top, left = stamp.box[0].start - margin + drop, stamp.box[1].start - margin
    first, end = (max(top, 0), max(left, 0)), (min(top + soft.height, size), min(left + soft.width, size))
    depth = np.asarray(soft, dtype=np.float32)[first[0] - top : end[0] - top, first[1] - left : end[1] - left]
    canvas[first[0] : end[0], first[1] : end[1]] *= 1 - depth[:, :, None] * np.float32(SHADOW_DEPTH / 255)


def _cover(seen: dict[str, NDArray[np.float32]], stamp: _Stamp) -> None:
    """Adds a thing to what is seen of each, and takes what it hides from the others."""
    for other in seen.values():
        other[stamp.box] *= 1 - stamp.alpha
    if stamp.thing.name not in seen:
        seen[stamp.thing.name] = np.zeros_like(seen["background"])
    seen[stamp.thing.name][stamp.box] += stamp.alpha
