"""Pairs of the task `states`: one attribute of one thing changes."""

from notice_lens.mini import states
from notice_lens.mini.pair import Pair
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import ATTRIBUTE_VALUES, background

NEXT_GROUP = {"colour": "texture", "texture": "shape", "shape": "colour"}
"""The group of the corrupted question: another attribute of the same thing, so that it has a right answer too."""


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair of a group; `swap` puts the right answer second in the question."""
    attribute = states.ATTRIBUTE_OF_GROUP[group]
    correct, incorrect, third, fourth = stream.sample(ATTRIBUTE_VALUES[attribute], 4)
    behind = background(stream)
    thing, *others = states.things(stream, 1 + stream.choice((0, 1, 1, 1, 2, 2, 2)))
    # The first distractor has the other option, the second the right one: then both words fit both pictures.
    words = [word for word in ATTRIBUTE_VALUES[attribute] if word not in (correct, incorrect)]
    shares = bool(others) and stream.coin(0.9)
    carried = [incorrect, correct] if shares else [stream.choice(words), stream.choice(words)]
    others = [other.having(attribute, word) for other, word in zip(others, carried, strict=False)]
    scenes = [(thing.having(attribute, word), *others) for word in (correct, incorrect, third)]
    asked = scenes[0][0]
    next_group = NEXT_GROUP[group]
    next_attribute = states.ATTRIBUTE_OF_GROUP[next_group]
    next_other = stream.choice(
        [word for word in ATTRIBUTE_VALUES[next_attribute] if word != asked.word(next_attribute)]
    )
    parts = {"object": ("object",), "distractor": tuple(other.name for other in others), "background": ("background",)}
    return Pair(
        task="states",
        group=group,
        clean=states.picture(scenes[0], behind),
        corrupt=states.picture(scenes[1], behind),
        donor=states.picture(scenes[2], behind),
        question=states.ask(asked, group, incorrect, swap),
        incorrect=incorrect,
        corrupt_question=states.ask(asked, next_group, next_other, swap),
        donor_question=states.ask(scenes[2][0], group, fourth, swap),
        control_question=states.ask(others[0], group, correct, not swap) if shares else None,
        clean_parts=parts,
    )
