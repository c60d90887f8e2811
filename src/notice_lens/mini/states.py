"""The task `states`: what colour, texture or form has this thing? One to three things, each of another shape.

Groups are `colour` (8 words), `texture` (4) and `shape` (4: big, small, tall, wide). In a pair only the asked-for
attribute of one thing changes. In three of four pictures another thing already has the other option, so that the same
question about that thing has the other answer.
"""

from dataclasses import replace

from notice_lens.mini.picture import Background, Picture
from notice_lens.mini.questions import OPEN_WORDS, Question, compose, either
from notice_lens.mini.shapes import SHAPES
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import ATTRIBUTE_VALUES, Attribute, Thing, jitter

ATTRIBUTE_OF_GROUP: dict[str, Attribute] = {"colour": "colour", "shape": "form", "texture": "texture"}
"""Group of questions, and the attribute that it asks for."""

QUADRANTS = ((16.5, 16.5), (47.5, 16.5), (16.5, 47.5), (47.5, 47.5))
"""Where things stand, one in each: their middles, in units."""


def things(stream: RandomStream, count: int) -> tuple[Thing, ...]:
    """Return `count` (1 to 3) things of different shapes, colours and places; the first is named `object`."""
    shapes, colours = stream.sample(SHAPES, count), stream.sample(ATTRIBUTE_VALUES["colour"], count)
    cells = stream.sample(QUADRANTS, count)
    made = []
    for place, (shape, colour, (x, y)) in enumerate(zip(shapes, colours, cells, strict=True)):
        if count == 1:
            x, y = stream.uniform(18, 46), stream.uniform(18, 46)
        made.append(
            Thing(
                name="object" if place == 0 else f"distractor{place}",
                shape=shape,
                colour=colour,
                texture=stream.choice(ATTRIBUTE_VALUES["texture"]),
                form=stream.choice(ATTRIBUTE_VALUES["form"]),
                x=x + stream.uniform(-1, 1),
                y=y + stream.uniform(-1, 1),
                radius=stream.uniform(0.95, 1.05),
                **jitter(stream),
            )
        )
    return tuple(made)


def ask(thing: Thing, group: str, other: str, swap: bool) -> Question:
    """Ask `is this <shape> <word> or <word>?` with the thing's own word and another."""
    answer = thing.word(ATTRIBUTE_OF_GROUP[group])
    return compose(group, answer, ["is", "this", ("noun", thing.shape), *either(answer, other, swap), "?"])


def ask_openly(thing: Thing, group: str) -> Question:
    """Ask `what color is this <shape>?`, as a question with roles."""
    return compose(
        group,
        thing.word(ATTRIBUTE_OF_GROUP[group]),
        ["what", OPEN_WORDS[group], "is", "this", ("noun", thing.shape), "?"],
    )


def questions(scene: tuple[Thing, ...], stream: RandomStream, count: int) -> list[Question]:
    """Return random questions about the things; the other option is often the word of another thing."""
    return [_ask(scene, stream.choice(scene), stream.choice(tuple(ATTRIBUTE_OF_GROUP)), stream) for _ in range(count)]


def _ask(scene: tuple[Thing, ...], thing: Thing, group: str, stream: RandomStream) -> Question:
    if stream.coin(0.25):
        return ask_openly(thing, group)
    attribute = ATTRIBUTE_OF_GROUP[group]
    own = thing.word(attribute)
    near = [other.word(attribute) for other in scene if other.word(attribute) != own]
    others = [word for word in ATTRIBUTE_VALUES[attribute] if word != own]
    return ask(thing, group, stream.choice(near) if near and stream.coin() else stream.choice(others), stream.coin())


def picture(scene: tuple[Thing, ...], behind: Background) -> Picture:
    """Return the things in front of a background."""
    return Picture(behind, tuple(thing.part() for thing in scene))


def random_scene(stream: RandomStream) -> tuple[Thing, ...]:
    """Return one to three things; some share a colour, as things in pairs do."""
    scene = things(stream, 1 + stream.below(3))
    if len(scene) > 1 and stream.coin(0.3):
        return (scene[0], replace(scene[1], colour=scene[0].colour), *scene[2:])
    return scene
