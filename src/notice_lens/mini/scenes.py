"""The task `scenes`: which thing is where? Two or three things of different shapes, and relations among them.

Relations are `above`, `below`, `left`, `right`, `inside` and `outside`; a relation holds or fails with a clear margin,
or is not asked about. Groups are `subject` ("is circle or star above square?"), `verb` ("is circle above or below
square?") and `object` ("is circle above square or star?").
"""

from dataclasses import dataclass
from itertools import permutations

from notice_lens.mini.drawing import UNITS
from notice_lens.mini.picture import Background, Picture
from notice_lens.mini.questions import Question, compose, either
from notice_lens.mini.shapes import SHAPES
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import ATTRIBUTE_VALUES, Thing, jitter

OPPOSITE = {
    "above": "below",
    "below": "above",
    "left": "right",
    "right": "left",
    "inside": "outside",
    "outside": "inside",
}
"""Each relation, and the one that is asked about beside it."""

PHRASE = {relation: (relation, "of") if relation in ("left", "right") else (relation,) for relation in OPPOSITE}

CLEAR, LEVEL = 12.0, 5.0
"""Middles at least `CLEAR` units apart stand above, below, left or right; at most `LEVEL` apart they clearly do not."""

GRID = (11.0, 32.0, 53.0)
CONTAINERS = ("circle", "square", "heart")


@dataclass(frozen=True)
class Scene:
    """Things by place, and which of them (if any) holds which: places of the inner one and of its container."""

    things: tuple[Thing, ...]
    nested: tuple[int, int] | None = None

    def holds(self, relation: str, subject: Thing, other: Thing) -> bool | None:
        """Return whether a relation holds between two things; None if it is too close to call."""
        places = self.things.index(subject), self.things.index(other)
        if relation in ("inside", "outside"):
            # A container is not asked whether it is inside what it holds.
            return None if places[::-1] == self.nested else (places == self.nested) == (relation == "inside")
        if self.nested is not None and set(places) == set(self.nested):
            return None
        distance = {
            "above": other.y - subject.y,
            "below": subject.y - other.y,
            "left": other.x - subject.x,
            "right": subject.x - other.x,
        }[relation]
        if abs(distance) <= LEVEL:
            return False
        return None if abs(distance) < CLEAR else distance > 0

    def exchanged(self, first: int, second: int) -> "Scene":
        """Return the scene with the shapes of two places exchanged; colour and jitter stay where they are."""
        shapes = {first: self.things[second].shape, second: self.things[first].shape}
        things = tuple(thing.having("shape", shapes.get(place, thing.shape)) for place, thing in enumerate(self.things))
        return Scene(things, self.nested)

    def picture(self, behind: Background) -> Picture:
        """Return the things in front of a background."""
        return Picture(behind, tuple(thing.part() for thing in self.things))


def place_things(
    stream: RandomStream, shapes: list[str], places: list[tuple[float, float]], radii: list[float], plain: float = 0.7
) -> tuple[Thing, ...]:
    """Return things of these shapes at these places (units), in different colours; named `place0`, `place1`, ...

    The share `plain` of them, 0 to 1, is without texture.
    """
    colours = stream.sample(ATTRIBUTE_VALUES["colour"], len(shapes))
    shift_x, shift_y = stream.uniform(-1.2, 1.2), stream.uniform(-1.2, 1.2)
    return tuple(
        Thing(
            name=f"place{place}",
            shape=shape,
            colour=colour,
            texture="plain" if stream.coin(plain) else stream.choice(ATTRIBUTE_VALUES["texture"][1:]),
            x=x + shift_x + stream.uniform(-0.8, 0.8),
            y=y + shift_y + stream.uniform(-0.8, 0.8),
            radius=radius,
            **jitter(stream),
        )
        for place, (shape, colour, (x, y), radius) in enumerate(zip(shapes, colours, places, radii, strict=True))
    )


def row_of_three(stream: RandomStream, axis: int, shapes: list[str]) -> Scene:
    """Return things in a row along an axis (0: from left to right, 1: from top to bottom), anywhere across it."""
    places = []
    for step in range(len(shapes)):
        along, across = GRID[step], GRID[stream.below(3)]
        places.append((along, across) if axis == 0 else (across, along))
    return Scene(place_things(stream, shapes, places, [stream.uniform(8.8, 9.6) for _ in shapes]))


def spread(stream: RandomStream, shapes: list[str]) -> Scene:
    """Return things in random cells of a 3 x 3 grid."""
    cells = stream.sample([(x, y) for x in GRID for y in GRID], len(shapes))
    return Scene(place_things(stream, shapes, cells, [stream.uniform(8.8, 9.6) for _ in shapes]))


def nest(stream: RandomStream, inner: str, container: str, outer: list[str]) -> Scene:
    """Return a thing inside a larger one, and at most one outside: places 1, 0 and 2."""
    corner_x, corner_y = stream.choice((-1.0, 1.0)), stream.choice((-1.0, 1.0))
    middle = (32 + corner_x * stream.uniform(9, 11), 32 + corner_y * stream.uniform(9, 11))
    held = (middle[0] + stream.uniform(-1.5, 1.5), middle[1] + stream.uniform(-1.5, 1.5))
    places = [middle, held, (32 - corner_x * 21, 32 - corner_y * 21)]
    radii = [stream.uniform(17.5, 18.5), stream.uniform(7.6, 8.2), stream.uniform(8.8, 9.6)]
    shapes = [container, inner, *outer]
    things = place_things(stream, shapes, places[: len(shapes)], radii[: len(shapes)], plain=1.0)
    return Scene(things, nested=(1, 0))


def ask_subject(subject: str, other: str, relation: str, thing: str, swap: bool) -> Question:
    """Ask `is <subject> or <other> above <thing>?`, as a question with roles."""
    verb = [("verb", relation), *PHRASE[relation][1:]]
    return compose("subject", subject, ["is", *either(subject, other, swap), *verb, ("object", thing), "?"])


def ask_verb(subject: str, relation: str, other: str, thing: str, swap: bool, of: bool = False) -> Question:
    """Ask `is <subject> above or below <thing>?`, with `of` after the relation if requested or needed."""
    tail = ["of"] if of or len(PHRASE[relation]) > 1 else []
    pieces = ["is", ("subject", subject), *either(relation, other, swap), *tail, ("object", thing), "?"]
    return compose("verb", relation, pieces)


def ask_object(subject: str, relation: str, thing: str, other: str, swap: bool) -> Question:
    """Ask `is <subject> above <thing> or <other>?`, as a question with roles."""
    verb = [("verb", relation), *PHRASE[relation][1:]]
    return compose("object", thing, ["is", ("subject", subject), *verb, *either(thing, other, swap), "?"])


def ask_openly(relation: str, thing: str, answer: str) -> Question:
    """Ask `what is above <thing>?`, as a question with roles."""
    verb = [("verb", relation), *PHRASE[relation][1:]]
    return compose("subject", answer, ["what", "is", *verb, ("object", thing), "?"])


SCENE_GROUPS = ("subject", "verb", "object")

Fact = tuple[Thing, str, Thing]
"""A relation that holds: subject, relation, object."""


def questions(
    scene: Scene, stream: RandomStream, count: int, groups: tuple[str, ...] = SCENE_GROUPS, *, contested: bool = False
) -> list[Question]:
    """Return random questions with a clear answer; the other option is often another thing of the picture.

    Args:
        scene: The scene.
        stream: Of the draws.
        count: How many.
        groups: Each question is of one of these; one that stands here twice is twice as frequent. Beside the three of
            pairs there are `centre` (is a thing left or right of, above or below the picture's centre?) and `sides`
            (which of two things is left of it?).
        contested: Whether `subject` and `object` are asked about facts for which another thing of the picture can be
            the wrong option, where there are any.
    """
    outside = 0.5 if scene.nested else 0.1
    facts = [
        (subject, relation, thing)
        for subject, thing in permutations(scene.things, 2)
        for relation in OPPOSITE
        # Nearly everything is outside nearly everything: of those facts few are asked about.
        if scene.holds(relation, subject, thing) and (relation != "outside" or stream.coin(outside))
    ]
    rivalled = {group: [fact for fact in facts if contested and _rivals(scene, group, fact)] for group in SCENE_GROUPS}
    asked = []
    for _ in range(count):
        fact, group, swap = stream.choice(facts), stream.choice(groups), stream.coin()
        fact = stream.choice(rivalled[group]) if rivalled.get(group) else fact
        sided = _ask_sided(scene, swap, stream) if group == "sides" else None
        ask = _ask_relation if group in ("verb", "centre") else _ask_shape
        asked.append(sided or ask(scene, fact, group, swap, stream))
    return asked


def _ask_sided(scene: Scene, swap: bool, stream: RandomStream) -> Question | None:
    """Return which of two things is on a side of the centre, if one clearly is and the other clearly is not."""
    choices = [
        (one.shape, other.shape, side)
        for one, other in permutations(scene.things, 2)
        for side in _sides(one)
        if OPPOSITE[side] in _sides(other)
    ]
    if not choices:
        return None
    shape, other, side = stream.choice(choices)
    return ask_subject(shape, other, side, "center", swap)


def _ask_relation(scene: Scene, fact: Fact, group: str, swap: bool, stream: RandomStream) -> Question:
    subject, relation, thing = fact
    sides = _sides(subject) if group == "centre" else []
    if sides:
        side = stream.choice(sides)
        return ask_verb(subject.shape, side, OPPOSITE[side], "center", swap)
    other = stream.choice([OPPOSITE[relation], *_rival_relations(scene, subject, relation, thing)])
    of = {relation, other} == {"inside", "outside"} and stream.coin(0.3)
    return ask_verb(subject.shape, relation, other, thing.shape, swap, of)


def _ask_shape(scene: Scene, fact: Fact, group: str, swap: bool, stream: RandomStream) -> Question:
    subject, relation, thing = fact
    others = len(scene.things) - 2
    if group == "subject" and stream.coin(0.25) and len(_rivals(scene, group, fact)) == others:
        return ask_openly(relation, thing.shape, subject.shape)
    rivals = _rivals(scene, group, fact)
    absent = [shape for shape in SHAPES if shape not in [other.shape for other in scene.things]]
    wrong = stream.choice(rivals) if rivals and stream.coin(0.75) else stream.choice(absent)
    if group == "subject":
        return ask_subject(subject.shape, wrong, relation, thing.shape, swap)
    return ask_object(subject.shape, relation, thing.shape, wrong, swap)


def _rivals(scene: Scene, group: str, fact: Fact) -> list[str]:
    """Return shapes of other things of the picture that are clearly wrong as subject (or object) of a fact."""
    subject, relation, thing = fact
    others = [other for other in scene.things if other not in (subject, thing)]
    if group == "subject":
        return [other.shape for other in others if scene.holds(relation, other, thing) is False]
    return [other.shape for other in others if scene.holds(relation, subject, other) is False]


def _sides(thing: Thing) -> list[str]:
    """Return the sides of the picture's centre on which a thing clearly lies."""
    across, down = thing.x - UNITS / 2, thing.y - UNITS / 2
    sides = (("left", -across), ("right", across), ("above", -down), ("below", down))
    return [side for side, distance in sides if distance >= CLEAR]


def _rival_relations(scene: Scene, subject: Thing, relation: str, thing: Thing) -> list[str]:
    """Return relations to offer against this one in `is <subject> inside or above <container>?`: they do not hold."""
    if scene.nested is None or scene.things.index(thing) != scene.nested[1] or relation in ("left", "right", "outside"):
        return []
    return ["above", "below"] if relation == "inside" else ["inside"]


def random_scene(stream: RandomStream) -> Scene:
    """Two or three things in a row, anywhere, or one inside another."""
    shapes = stream.sample(SHAPES, 2 + stream.coin(0.75))
    kind = stream.below(20)
    if kind < 9:
        return row_of_three(stream, stream.below(2), shapes)
    if kind < 15:
        return spread(stream, shapes)
    container = stream.choice(CONTAINERS)
    inner, *outer = [shape for shape in shapes if shape != container][: 1 + stream.coin(0.8)]
    return nest(stream, inner, container, outer)
