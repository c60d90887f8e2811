"""The emoji as arrays: cut from the sheet that ships, and recoloured where Fluent has no emoji of a colour."""

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from notice_lens.mini.pictures.names import EMOJI_CODES, HUES, LOOKS

SPRITE_SIZE, SPRITES_PER_ROW = 96, 12
"""Width of an emoji in the sheet, in pixels, and how many there are in a row."""

HUE_TOLERANCE = 42.0
"""How far a pixel's hue may be from that of its noun's first emoji to be recoloured, in degrees."""

HUE_EXCEPTIONS: dict[str, tuple[float, float]] = {"shirt": (105.0, 60.0)}
"""The hue and the tolerance of nouns whose first emoji does not have the hue of its colour in `HUES`."""


@cache
def _sheet() -> tuple[Image.Image, dict[str, int]]:
    folder = files("notice_lens.mini.pictures")
    names = folder.joinpath("emoji.txt").read_text(encoding="utf-8").split()
    with folder.joinpath("emoji.webp").open("rb") as file:
        sheet = Image.open(file).convert("RGBA")
    return sheet, {name: number for number, name in enumerate(names)}


@cache
def sprite(noun: str, look: str, variant: int = 0) -> Image.Image:
    """Return the emoji of a noun with a look, RGBA of 96 pixels.

    Args:
        noun: Key of `LOOKS`.
        look: One of its words.
        variant: Which of the emoji that show the same; counted round, so that any whole number is one.

    Raises:
        ValueError: There is no such noun, or it has no such look.
    """
    if look not in LOOKS.get(noun, ()):
        there = f"a {noun} can be {', '.join(LOOKS[noun])}" if noun in LOOKS else f"there are {', '.join(LOOKS)}"
        raise ValueError(f"emoji of {noun!r} that looks {look!r} asked for; {there}")
    codes = EMOJI_CODES.get((noun, look))
    if codes is None:
        hue, tolerance = HUE_EXCEPTIONS.get(noun, (HUES[LOOKS[noun][0]], HUE_TOLERANCE))
        return _recoloured(_cut(EMOJI_CODES[noun, LOOKS[noun][0]][0]), hue, tolerance, look)
    return _cut(codes[variant % len(codes)])


def _cut(name: str) -> Image.Image:
    sheet, places = _sheet()
    left, top = places[name] % SPRITES_PER_ROW * SPRITE_SIZE, places[name] // SPRITES_PER_ROW * SPRITE_SIZE
    return sheet.crop((left, top, left + SPRITE_SIZE, top + SPRITE_SIZE))


def _recoloured(emoji: Image.Image, hue: float, tolerance: float, colour: str) -> Image.Image:
    """Return an emoji whose pixels of about this hue (degrees) have another colour's; shading stays."""
    pixels = np.asarray(emoji.convert("RGB").convert("HSV"), dtype=np.float32)
    alpha = np.asarray(emoji)[:, :, 3]
    aside = (pixels[:, :, 0] * (360 / 256) - hue + 180) % 360 - 180
    own = (np.abs(aside) < tolerance) & (pixels[:, :, 1] > 70)
    turned = pixels.copy()
    turned[:, :, 0] = np.where(own, ((HUES[colour] + aside * 0.3) % 360) * (256 / 360), pixels[:, :, 0])
    # Yellow and orange are bright, or they look brown; a green as bright as Fluent's blue glares.
    factor, more = {"yellow": (1.12, 12.0), "orange": (1.12, 12.0), "green": (0.82, 0.0)}.get(colour, (1.0, 0.0))
    turned[:, :, 2] = np.where(own, np.clip(pixels[:, :, 2] * factor + more, 0, 255), pixels[:, :, 2])
    coloured = _rgb(turned)
    return Image.fromarray(np.dstack([coloured, alpha]))


def _rgb(hsv: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.clip(hsv.round(), 0, 255).astype(np.uint8), "HSV").convert("RGB"))
