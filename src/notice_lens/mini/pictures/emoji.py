"""Things of the picture world: emoji of a noun, with a look and a size in a place, and their shadows."""

from dataclasses import dataclass, replace
from math import floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from notice_lens.mini.picture import PixelBox, Stamp
from notice_lens.mini.pictures.ground import PICTURE_UNITS
from notice_lens.mini.pictures.names import ATTRIBUTE_WORDS, LOOKS, SIZES, EmojiAttribute, attribute_of
from notice_lens.mini.pictures.sprites import sprite
from notice_lens.mini.stream import RandomStream

SHADOW_DROP, SHADOW_BLUR, SHADOW_DEPTH = 0.06, 0.035, 0.38
"""How far down and how soft a shadow is, as shares of the emoji's width, and how much light it takes away."""


@dataclass(frozen=True)
class Emoji:
    """One thing of a picture.

    Attributes:
        name: Its name in the masks; things of one name are one.
        noun: The noun, a key of `LOOKS`.
        look: Word of the noun's attribute, or empty.
        x: Middle, units from the left.
        y: Middle, units from the top.
        side: Width and height in units, or with a size, a factor on the size's.
        size: `big` or `small`; None where no size is told apart.
        variant: Number of the variant, among emoji that show the same.
        tilt: Angle in radians, clockwise.
        mirrored: Whether left and right are exchanged.
        shadow: Whether it throws a shadow.
    """

    name: str
    noun: str
    look: str
    x: float
    y: float
    side: float
    size: str | None = None
    variant: int = 0
    tilt: float = 0.0
    mirrored: bool = False
    shadow: bool = True

    @property
    def width(self) -> float:
        """Width and height in units, before the tilt."""
        return self.side if self.size is None else self.side * SIZES[self.size]

    def having(self, attribute: EmojiAttribute, word: str) -> "Emoji":
        """Return this thing with another size or look.

        Raises:
            ValueError: Its noun has no such look.
        """
        if attribute == "size":
            return replace(self, size=word)
        if attribute != attribute_of(self.noun) or word not in LOOKS[self.noun]:
            raise ValueError(f"{attribute} {word!r} asked for; a {self.noun} can be {', '.join(LOOKS[self.noun])}")
        return replace(self, look=word)

    def word(self, attribute: EmojiAttribute) -> str:
        """Return the word for one of its attributes; empty where it has no such attribute."""
        if attribute == "size":
            return self.size or ""
        return self.look if attribute == attribute_of(self.noun) else ""

    def stamp(self, size: int) -> Stamp | None:
        """Return its pixels in a picture of `size` pixels; None where all of it is outside."""
        scale = size / PICTURE_UNITS
        side = max(round(self.width * scale), 2)
        emoji = sprite(self.noun, self.look, self.variant).convert("RGBa")
        if self.mirrored:
            emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        shrinks = side < emoji.width
        emoji = emoji.resize((side, side), Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC)
        if self.tilt:
            emoji = emoji.rotate(-np.degrees(self.tilt), Image.Resampling.BICUBIC, expand=True)
        left, top = floor(self.x * scale - emoji.width / 2 + 0.5), floor(self.y * scale - emoji.height / 2 + 0.5)
        clipped = _clipped(left, top, emoji.width, emoji.height, size)
        if clipped is None:
            return None
        box, inside = clipped
        pixels = np.asarray(emoji)[inside].astype(np.float32)
        alpha = pixels[:, :, 3] / np.float32(255)
        shadow = _shadow(box, alpha, self.width * size / PICTURE_UNITS, size) if self.shadow else None
        return Stamp(box, alpha, pixels[:, :, :3], premultiplied=True, shadow=shadow)


def _shadow(
    box: PixelBox, alpha: NDArray[np.float32], side: float, size: int
) -> tuple[PixelBox, NDArray[np.float32]] | None:
    """Return the shadow of an emoji, `side` pixels wide: its outline, moved down and blurred."""
    margin, drop = max(round(side * 0.12), 2), max(round(side * SHADOW_DROP), 1)
    padded = np.pad((alpha * 255).astype(np.uint8), margin)
    soft = Image.fromarray(padded).filter(ImageFilter.BoxBlur(max(side * SHADOW_BLUR, 1)))
    clipped = _clipped(box[1].start - margin, box[0].start - margin + drop, soft.width, soft.height, size)
    if clipped is None:
        return None
    shaded, inside = clipped
    depth = np.asarray(soft, dtype=np.float32)[inside]
    return shaded, 1 - depth[:, :, None] * np.float32(SHADOW_DEPTH / 255)


def _clipped(left: int, top: int, width: int, height: int, size: int) -> tuple[PixelBox, PixelBox] | None:
    """Return the pixels of a picture that a rectangle fills, and those of the rectangle that are inside."""
    first, end = (max(left, 0), max(top, 0)), (min(left + width, size), min(top + height, size))
    if end[0] <= first[0] or end[1] <= first[1]:
        return None
    box = (slice(first[1], end[1]), slice(first[0], end[0]))
    return box, (slice(first[1] - top, end[1] - top), slice(first[0] - left, end[0] - left))


def random_emoji(
    stream: RandomStream, name: str, noun: str, place: tuple[float, float], side: float, *, tilt: float = 0.12
) -> Emoji:
    """Return an emoji whose look, variant, direction and tilt (up to `tilt` radians) are drawn at random."""
    return Emoji(
        name,
        noun,
        stream.choice(LOOKS[noun]),
        *place,
        side,
        variant=stream.below(2),
        tilt=stream.uniform(-tilt, tilt),
        mirrored=noun != "clock" and stream.coin(),
    )


def other_words(attribute: EmojiAttribute, word: str) -> list[str]:
    """Return every other word of an attribute."""
    return [other for other in ATTRIBUTE_WORDS[attribute] if other != word]
