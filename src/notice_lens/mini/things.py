"""Things in a picture: a shape with a colour, a texture and a form; and their backgrounds."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from notice_lens.mini.drawing import Colour, Fill, FilledOutline, SoftBackground
from notice_lens.mini.shapes import SHAPES, turned, unit_outline
from notice_lens.mini.stream import RandomStream

Attribute = Literal["shape", "colour", "texture", "form"]

COLOURS: dict[str, Colour] = {
    "red": (214, 38, 38),
    "orange": (243, 136, 20),
    "yellow": (244, 221, 48),
    "green": (38, 152, 58),
    "blue": (38, 76, 214),
    "purple": (140, 48, 172),
    "white": (244, 244, 244),
    "black": (26, 26, 26),
}

TEXTURES = ("plain", "striped", "dotted", "checked")

FORMS: dict[str, tuple[float, float]] = {
    "big": (14.0, 14.0),
    "small": (8.6, 8.6),
    "tall": (8.6, 14.2),
    "wide": (14.2, 8.6),
}
"""Half the width and half the height of each form, in units."""

ATTRIBUTE_VALUES: dict[Attribute, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "form": tuple(FORMS),
}
"""The words for each attribute, every one a single word piece."""


@dataclass(frozen=True)
class Thing:
    """One thing: what it is, where it is, and the jitter that stays when a word changes.

    Lengths are in units; `ATTRIBUTE_VALUES` lists the words of each attribute.

    Attributes:
        name: The name of its part in the picture.
        shape: Word of the shape.
        colour: Word of the colour.
        texture: Word of the texture.
        form: Word of the form; `round` things of scenes have none and take their size from `radius`.
        x: Middle, units from the left.
        y: Middle, units from the top.
        radius: Half the width and height where there is no form, else a factor on the form's.
        tilt: Angle in radians.
        tint: Three numbers that are added to the colour.
        grain: Angle (radians) and phase (share of a period) of the texture.
    """

    name: str
    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    tilt: float
    tint: Colour
    grain: tuple[float, float]
    form: str | None = None

    def part(self) -> FilledOutline:
        """Return the thing as a part of a picture."""
        reach = (self.radius, self.radius)
        if self.form is not None:
            reach = tuple(half * self.radius for half in FORMS[self.form])
        outline = turned(unit_outline(self.shape) * reach, self.tilt) + np.array([self.x, self.y])
        colour = _tinted(COLOURS[self.colour], self.tint)
        fill = Fill(colour, _second(colour), self.texture, *self.grain, anchor=(self.x, self.y))
        return FilledOutline(self.name, outline, fill)

    def having(self, attribute: Attribute, word: str) -> "Thing":
        """Return this thing with one attribute changed."""
        if word not in ATTRIBUTE_VALUES[attribute]:
            raise ValueError(f"{attribute} {word!r} asked for; there are {', '.join(ATTRIBUTE_VALUES[attribute])}")
        return replace(self, **{attribute: word})

    def word(self, attribute: Attribute) -> str:
        """Return the word for one of its attributes."""
        word = getattr(self, attribute)
        if word is None:
            raise ValueError(f"thing {self.name!r} has no {attribute}")
        return word


assert set(ATTRIBUTE_VALUES) == set(get_args(Attribute))


def jitter(stream: RandomStream) -> dict[str, Any]:
    """Return fields of a thing that no word names: tilt, tint and grain."""
    quarter = stream.choice((0.0, 0.7854, 1.5708, 2.3562))
    return {
        "tilt": stream.uniform(-0.13, 0.13),
        "tint": (stream.uniform(-12, 12), stream.uniform(-12, 12), stream.uniform(-12, 12)),
        # A small shift: the smallest thing has a whole dot in its middle, and cannot pass for plain.
        "grain": (quarter + stream.uniform(-0.15, 0.15), stream.uniform(-0.13, 0.13)),
    }


def background(stream: RandomStream) -> SoftBackground:
    """Return a muted background: no field of it is as dark, as bright or as saturated as a thing."""
    base = stream.uniform(105, 160)
    hue = [stream.uniform(-20, 20) for _ in range(3)]
    colours = tuple(base + hue[place % 3] + stream.uniform(-16, 16) for place in range(27))
    strength = stream.choice((2.0, 6.0, 14.0))
    light = (stream.uniform(0.85, 1.12), stream.uniform(0.85, 1.12))
    return SoftBackground(colours, tuple(stream.numbers(144)), strength, light)


def _tinted(colour: Colour, tint: Colour) -> Colour:
    red, green, blue = (min(max(value + change, 0.0), 255.0) for value, change in zip(colour, tint, strict=True))
    return red, green, blue


def _second(colour: Colour) -> Colour:
    """Return the second colour of a texture: a darker shade of a bright colour, a lighter one of a dark colour."""
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 90
    red, green, blue = ((value * 0.42) if bright else (value + (255 - value) * 0.58) for value in colour)
    return red, green, blue
