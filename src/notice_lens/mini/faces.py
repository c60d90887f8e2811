"""The task `faces`: how does this person feel? Drawn faces with seven emotions.

Skin, hair, head and pose vary freely; the emotion shows in brows, eyes and mouth alone. A coloured ball or a hat is
there to be ignored.
"""

from dataclasses import dataclass, replace

import numpy as np

from notice_lens.mini.drawing import Colour, Fill, FilledOutline
from notice_lens.mini.picture import Background, Picture
from notice_lens.mini.questions import Question, compose, either
from notice_lens.mini.shapes import Outline, ellipse, stroke, turned, unit_outline
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import COLOURS

EMOTIONS = ("angry", "disgusted", "happy", "neutral", "sad", "scared", "surprised")

SKINS: tuple[Colour, ...] = ((245, 213, 188), (232, 190, 155), (205, 155, 115), (164, 112, 78), (120, 80, 55))
HAIRS: tuple[Colour, ...] = (
    (35, 25, 22),
    (92, 58, 32),
    (168, 110, 50),
    (222, 190, 110),
    (170, 165, 160),
    (140, 50, 30),
)
DARK: Colour = (28, 20, 20)
WHITE: Colour = (250, 250, 250)

FACE_PARTS = ("face", "eyes", "brows", "mouth", "nose", "hair")


@dataclass(frozen=True)
class Face:
    """One face. Lengths are in units, angles in radians.

    Attributes:
        emotion: Word of `EMOTIONS`.
        skin: Colour of the skin.
        hair: Colour of the hair.
        style: Of the hair: `short`, `long`, `curly` or `bald`.
        head: Half the width and half the height of the head.
        x: Middle, from the left.
        y: Middle, from the top.
        tilt: Angle of the head.
        strength: How far the expression goes, around 1.
        gaze: How far the pupils look aside.
        extra: The distractor: `hat`, `ball` or `none`.
        extra_colour: Its colour.
        extra_side: On which side the ball is, -1 or 1.
    """

    emotion: str
    skin: Colour
    hair: Colour
    style: str
    head: tuple[float, float]
    x: float
    y: float
    tilt: float
    strength: float
    gaze: float
    extra: str
    extra_colour: Colour
    extra_side: int

    def feeling(self, emotion: str) -> "Face":
        """Return this face with another emotion."""
        if emotion not in EMOTIONS:
            raise ValueError(f"emotion {emotion!r} asked for; there are {', '.join(EMOTIONS)}")
        return replace(self, emotion=emotion)

    def picture(self, behind: Background) -> Picture:
        """Return the face in front of a background."""
        return Picture(behind, tuple(_parts(self)))


def face(stream: RandomStream) -> Face:
    """Return a face with everything drawn at random."""
    shade = stream.uniform(0.93, 1.05)
    red, green, blue = (min(value * shade, 255.0) for value in stream.choice(SKINS))
    return Face(
        emotion=stream.choice(EMOTIONS),
        skin=(red, green, blue),
        hair=stream.choice(HAIRS),
        style=stream.choice(("short", "long", "curly", "bald")),
        head=(stream.uniform(19.5, 23), stream.uniform(23, 26)),
        x=32 + stream.uniform(-4, 4),
        y=34 + stream.uniform(-2, 2),
        tilt=stream.uniform(-0.14, 0.14),
        strength=stream.uniform(0.85, 1.15),
        gaze=stream.uniform(-0.8, 0.8),
        extra=stream.choice(("hat", "ball", "none")),
        extra_colour=COLOURS[stream.choice(tuple(COLOURS))],
        extra_side=stream.choice((-1, 1)),
    )


def ask(emotion: str, other: str, swap: bool) -> Question:
    """Ask `is this person feeling <emotion> or <other>?`, as a question with roles."""
    return compose(
        "emotion", emotion, ["is", "this", ("noun", "person"), "feeling", *either(emotion, other, swap), "?"]
    )


def ask_openly(emotion: str) -> Question:
    """Ask `how is this person feeling?`, as a question with roles."""
    return compose("emotion", emotion, ["how", "is", "this", ("noun", "person"), "feeling", "?"])


def questions(person: Face, stream: RandomStream, count: int) -> list[Question]:
    """Return random questions about the face, a quarter of them open."""
    others = [word for word in EMOTIONS if word != person.emotion]
    asked = []
    for _ in range(count):
        asking = ask(person.emotion, stream.choice(others), stream.coin())
        asked.append(ask_openly(person.emotion) if stream.coin(0.25) else asking)
    return asked


@dataclass(frozen=True)
class _Expression:
    """The drawing of an emotion: heights of the brows at the nose and outside, how open the eyes are, and the mouth."""

    brow_inner: float
    brow_outer: float
    eye: float
    mouth: str


EXPRESSIONS = {
    "angry": _Expression(brow_inner=2.6, brow_outer=-2.2, eye=2.2, mouth="teeth"),
    "disgusted": _Expression(brow_inner=1.6, brow_outer=1.2, eye=1.2, mouth="tongue"),
    "happy": _Expression(brow_inner=-0.6, brow_outer=-0.2, eye=3.0, mouth="smile"),
    "neutral": _Expression(brow_inner=0.0, brow_outer=0.0, eye=3.0, mouth="line"),
    "sad": _Expression(brow_inner=-2.6, brow_outer=2.0, eye=2.4, mouth="frown"),
    "scared": _Expression(brow_inner=-3.4, brow_outer=-0.6, eye=4.4, mouth="wave"),
    "surprised": _Expression(brow_inner=-3.2, brow_outer=-2.8, eye=4.4, mouth="open"),
}


def _parts(person: Face) -> list[FilledOutline]:
    """Return the parts from back to front, turned by the head's tilt and put in place."""
    width, height = person.head
    hair = Fill(person.hair)
    parts: list[tuple[str, Outline, Fill]] = []
    if person.extra == "ball":
        place = np.array([person.extra_side * 27.0, -24.0])
        parts.append(("distractor", unit_outline("circle") * 6.5 + place, Fill(person.extra_colour)))
    if person.style in ("long", "curly"):
        low = height * (1.1 if person.style == "long" else 0.45)
        parts.append(("hair", ellipse(0, -height * 0.18, width * 1.2, low), hair))
    parts.append(("face", ellipse(0, 0, width, height), Fill(person.skin)))
    if person.style != "bald":
        top = [point for point in ellipse(0, -1.0, width * 1.06, height * 1.04) if point[1] < -height * 0.5]
        parts.append(("hair", np.array(top), hair))
    if person.extra == "hat":
        brim = -height * 0.62
        corners = [(-width, brim), (-width * 0.75, brim - 11), (width * 0.75, brim - 11), (width, brim)]
        parts.append(("distractor", np.array(corners), Fill(person.extra_colour)))
    parts += _eyes(person) + _mouth(person)
    placed = np.array([person.x, person.y])
    return [FilledOutline(name, turned(outline, person.tilt) + placed, fill) for name, outline, fill in parts]


def _eyes(person: Face) -> list[tuple[str, Outline, Fill]]:
    expression, parts = EXPRESSIONS[person.emotion], []
    for side in (-1, 1):
        x, y, reach = side * person.head[0] * 0.43, -3.5, 4.2
        parts.append(("eyes", ellipse(x, y, reach, expression.eye), Fill(WHITE)))
        parts.append(
            ("eyes", ellipse(x + person.gaze, y, min(1.9, expression.eye), min(1.9, expression.eye)), Fill(DARK))
        )
        inner, outer = (height * person.strength for height in (expression.brow_inner, expression.brow_outer))
        ends = np.array([[x - side * 4.6, y - 6.0 + inner], [x + side * 4.6, y - 6.0 + outer]])
        parts.append(("brows", stroke(ends, 2.2), Fill(DARK)))
    nose = np.array([[-1.8, 5.0], [0.0, 2.0], [1.8, 5.0]])
    red, green, blue = (value * 0.72 for value in person.skin)
    return [*parts, ("nose", nose, Fill((red, green, blue)))]


def _mouth(person: Face) -> list[tuple[str, Outline, Fill]]:
    kind, strength, y = EXPRESSIONS[person.emotion].mouth, person.strength, 13.0
    lips, inside, tongue = Fill((150, 35, 45)), Fill((70, 12, 18)), Fill((235, 100, 120))
    across = np.linspace(-1, 1, 13)
    if kind == "smile":
        curve = np.stack([across * 9.5, y - 3.0 + 6.5 * strength * (1 - across**2)], axis=1)
        teeth = np.array([[-8.0, y - 2.6], [8.0, y - 2.6], [5.0, y + 0.2], [-5.0, y + 0.2]])
        return [("mouth", curve, inside), ("mouth", teeth, Fill(WHITE))]
    if kind == "frown":
        curve = np.stack([across * 8.0, y + 2.5 - 5.0 * strength * (1 - across**2)], axis=1)
        return [("mouth", stroke(curve, 2.4), lips)]
    if kind == "line":
        return [("mouth", stroke(np.array([[-7.0, y], [7.0, y]]), 2.2), lips)]
    if kind == "open":
        return [("mouth", ellipse(0, y + 0.5, 5.0, 6.2 * strength), inside)]
    if kind == "teeth":
        box = np.array([[-8.0, -3.2], [8.0, -3.2], [8.0, 3.2], [-8.0, 3.2]]) * [1, strength] + [0, y]
        gaps = [("mouth", stroke(np.array([[x, y - 3.0], [x, y + 3.0]]), 1.0), inside) for x in (-4.0, 0.0, 4.0)]
        return [("mouth", box, inside), ("mouth", box * [0.85, 0.62] + [0, y * 0.38], Fill(WHITE)), *gaps]
    if kind == "tongue":
        curve = np.stack([across * 8.0, y + 1.0 - 3.0 * strength * (1 - across**2)], axis=1)
        return [("mouth", stroke(curve, 2.4), lips), ("mouth", ellipse(0, y + 3.0, 4.0, 4.6 * strength), tongue)]
    curve = np.stack([across * 9.0, y + 2.2 * strength * np.sin(across * 9.4)], axis=1)
    return [("mouth", stroke(curve, 3.4), inside)]
