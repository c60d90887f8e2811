"""Things of the picture world: a noun with a look and a size in a place, and the small changes that no word names."""

from dataclasses import dataclass, replace

from notice_lens.mini.pictures.drawing import Ground, Picture, PlacedEmoji
from notice_lens.mini.pictures.names import LOOKS, SIZES, WORDS_OF_ATTRIBUTES, Attribute, attribute_of
from notice_lens.mini.stream import RandomStream


@dataclass(frozen=True)
class Thing:
    """One thing of a picture.

    Attributes:
        name: Its name in the masks.
        noun: What it is, a key of `LOOKS`.
        look: Word of the noun's attribute, or empty.
        x: Middle, units from the left.
        y: Middle, units from the top.
        side: Width and height of its emoji in units, or a factor on its size's.
        size: `big` or `small`; None where the size says nothing.
        variant: Which of the emoji that show the same.
        tilt: Angle in radians.
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

    def placed(self) -> PlacedEmoji:
        """The emoji that shows the thing."""
        side = self.side if self.size is None else self.side * SIZES[self.size]
        return PlacedEmoji(
            *(self.name, self.noun, self.look, self.variant, self.x, self.y, side, self.tilt),
            mirrored=self.mirrored,
            shadow=self.shadow,
        )

    def having(self, attribute: Attribute, word: str) -> "Thing":
        """Return this thing with another size or look.

        Raises:
            ValueError: Its noun has no such look.
        """
        if attribute == "size":
            return replace(self, size=word)
        if attribute != attribute_of(self.noun) or word not in LOOKS[self.noun]:
            raise ValueError(f"{attribute} {word!r} asked for; a {self.noun} can be {', '.join(LOOKS[self.noun])}")
        return replace(self, look=word)

    def word(self, attribute: Attribute) -> str:
        """The word for one of its attributes; empty where it has no such attribute."""
        if attribute == "size":
            return self.size or ""
        return self.look if attribute == attribute_of(self.noun) else ""


def thing(
    stream: RandomStream, name: str, noun: str, place: tuple[float, float], side: float, *, tilt: float = 0.12
) -> Thing:
    """Return a thing whose look, variant, direction and tilt (up to `tilt` radians) are drawn at random."""
    return Thing(
        name,
        noun,
        stream.choice(LOOKS[noun]),
        *place,
        side,
        variant=stream.below(2),
        tilt=stream.uniform(-tilt, tilt),
        mirrored=noun != "clock" and stream.coin(),
    )


def picture(things: tuple[Thing, ...], behind: Ground) -> Picture:
    """The things on a ground."""
    return Picture(behind, tuple(each.placed() for each in things))


def other_words(attribute: Attribute, word: str) -> list[str]:
    """Every other word of an attribute."""
    return [other for other in WORDS_OF_ATTRIBUTES[attribute] if other != word]
