"""The task `states`: what colour is this thing, is it open or closed, is it big or small? One to three things.

Groups are `colour` (9 words), `opening` (open, closed) and `size` (big, small). In a pair only the asked-for attribute
of one thing changes. In most pictures another thing already has the other option, so that the same question about that
thing has the other answer.
"""

from notice_lens.mini.pair import Pair
from notice_lens.mini.pictures.drawing import ground
from notice_lens.mini.pictures.names import (
    COLOURED,
    LOOKS,
    OBJECTS,
    OPENED,
    WORDS_OF_ATTRIBUTES,
    Attribute,
    attribute_of,
)
from notice_lens.mini.pictures.things import Thing, other_words, picture, thing
from notice_lens.mini.questions import Question, compose, either
from notice_lens.mini.stream import RandomStream

STATE_KINDS: tuple[Attribute, ...] = ("colour", "opening", "size")

OTHER_OPTION_SHOWN = 0.85
"""Share of the pairs in whose pictures another thing has the other option."""

CELLS = ((33.0, 33.0), (95.0, 33.0), (33.0, 95.0), (95.0, 95.0))

OPEN: dict[Attribute, tuple[str, str]] = {"colour": ("what", "color"), "size": ("what", "size")}
"""How an open question begins: `what color is the apple?` Of `opening` there is none."""


def things(stream: RandomStream, nouns: list[str]) -> tuple[Thing, ...]:
    """Things of these nouns (1 to 4) in different places; the first is named `object`."""
    cells = stream.sample(CELLS, len(nouns))
    made = []
    for number, (noun, (x, y)) in enumerate(zip(nouns, cells, strict=True)):
        if len(nouns) == 1:
            x, y = stream.uniform(32, 96), stream.uniform(32, 96)
        place = (x + stream.uniform(-3, 3), y + stream.uniform(-3, 3))
        name = f"distractor{number}" if number else "object"
        one = thing(stream, name, noun, place, stream.uniform(0.94, 1.06))
        made.append(one.having("size", stream.choice(WORDS_OF_ATTRIBUTES["size"])))
    return tuple(made)


def ask(asked: Thing, attribute: Attribute, other: str, swap: bool) -> Question:
    """The question `is the <noun> <word> or <word>?` with the thing's own word and another."""
    answer = asked.word(attribute)
    return compose(attribute, answer, ["is", "the", ("noun", asked.noun), *either(answer, other, swap), "?"])


def ask_openly(asked: Thing, attribute: Attribute) -> Question:
    """The question `what color is the <noun>?`, or what size."""
    pieces = [*OPEN[attribute], "is", "the", ("noun", asked.noun), "?"]
    return compose(attribute, asked.word(attribute), pieces)


def questions(scene: tuple[Thing, ...], stream: RandomStream, count: int, *, contested: bool = False) -> list[Question]:
    """Random questions about the things; words of other things are preferred as options.

    Args:
        scene: The things.
        stream: Of random draws.
        count: How many questions.
        contested: Whether more are open, and another thing's word is the other option wherever there is one.
    """
    facts: list[tuple[Thing, Attribute]] = [(one, each) for one in scene for each in STATE_KINDS if one.word(each)]
    if contested:
        facts = [fact for fact in facts if _near(scene, *fact)] or facts
    asked = []
    for _ in range(count):
        one, attribute = stream.choice(facts)
        asked.append(_ask(scene, one, attribute, stream, contested))
    return asked


def _ask(scene: tuple[Thing, ...], one: Thing, attribute: Attribute, stream: RandomStream, contested: bool) -> Question:
    if attribute in OPEN and stream.coin(0.4 if contested else 0.25):
        return ask_openly(one, attribute)
    near = _near(scene, one, attribute)
    words = near if near and stream.coin(0.95 if contested else 0.6) else other_words(attribute, one.word(attribute))
    return ask(one, attribute, stream.choice(words), stream.coin())


def _near(scene: tuple[Thing, ...], one: Thing, attribute: Attribute) -> list[str]:
    """Words of other things for an attribute that are not the thing's own."""
    return [word for other in scene if (word := other.word(attribute)) and word != one.word(attribute)]


def random_scene(stream: RandomStream, least: int = 1) -> tuple[Thing, ...]:
    """One to three things, and `least` of them or more; sometimes an object without a look among them."""
    count = max(1 + stream.choice((0, 1, 1, 2, 2, 2)), least)
    nouns = stream.sample((*COLOURED, *OPENED, *OPENED), 3)
    nouns = list(dict.fromkeys([*nouns, stream.choice(OBJECTS)]))
    return things(stream, nouns[:count])


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """A pair of a group; `swap` puts the right answer second in the question."""
    attribute: Attribute = next(each for each in STATE_KINDS if each == group)
    noun = stream.choice({"colour": COLOURED, "opening": OPENED, "size": (*COLOURED, *OPENED)}[attribute])
    words = WORDS_OF_ATTRIBUTES["size"] if attribute == "size" else LOOKS[noun]
    correct, incorrect = stream.sample(words, 2)
    shares = stream.coin(OTHER_OPTION_SHOWN)
    others = _others(stream, noun, attribute, incorrect if shares else "", stream.choice((1, 1, 2, 2, 2)))
    behind = ground(stream)
    first, *rest = things(stream, [noun, *(other for other, _ in others)])
    rest = [_looking(one, attribute, word) for one, (_, word) in zip(rest, others, strict=True)]
    clean = (first.having(attribute, correct), *rest)
    corrupt = (first.having(attribute, incorrect), *rest)
    donor, donor_question = _donor(stream, clean, attribute, (correct, incorrect), swap)
    parts = {"object": ("object",), "distractor": tuple(one.name for one in rest), "background": ("background",)}
    return Pair(
        id="",
        task="states",
        group=group,
        clean=picture(clean, behind),
        corrupt=picture(corrupt, behind),
        donor=picture(donor, behind),
        question=ask(clean[0], attribute, incorrect, swap),
        incorrect=incorrect,
        corrupt_question=_corrupt_question(stream, clean[0], attribute, swap),
        donor_question=donor_question,
        control_question=ask(rest[0], attribute, correct, not swap) if shares else None,
        clean_parts=parts,
        corrupt_parts=parts,
    )


def _others(stream: RandomStream, noun: str, attribute: Attribute, word: str, count: int) -> list[tuple[str, str]]:
    """Nouns beside the asked-for one, and their words: the first has `word`; the next, and all if it is empty, any."""
    able = [other for other in (*COLOURED, *OPENED) if other != noun]
    first = stream.choice(able)
    if word and attribute != "size":
        first = stream.choice([other for other in able if word in LOOKS[other]])
    rest = stream.sample([other for other in able if other != first], count - 1)
    return [(first, word), *((other, "") for other in rest)]


def _looking(one: Thing, attribute: Attribute, word: str) -> Thing:
    return one.having(attribute, word) if word else one


def _corrupt_question(stream: RandomStream, asked: Thing, attribute: Attribute, swap: bool) -> Question:
    """A question about another attribute of the same thing, so that it has a right answer too."""
    own = attribute_of(asked.noun)
    other: Attribute = own if attribute == "size" and own else "size"
    word = asked.word(other)
    looks = WORDS_OF_ATTRIBUTES["size"] if other == "size" else LOOKS[asked.noun]
    return ask(asked, other, stream.choice([look for look in looks if look != word]), swap)


def _donor(
    stream: RandomStream, clean: tuple[Thing, ...], attribute: Attribute, options: tuple[str, str], swap: bool
) -> tuple[tuple[Thing, ...], Question]:
    """A picture whose right answer is neither option, and a question that has one there.

    Of a colour it is a third colour of the same thing. Where there are two words alone, another thing stands in the
    place of the one that was asked about.
    """
    first, *rest = clean
    if attribute == "colour":
        third = stream.choice([look for look in LOOKS[first.noun] if look not in options])
        donor = first.having("colour", third)
    else:
        absent = [noun for noun in COLOURED if noun not in [one.noun for one in clean]]
        noun = stream.choice(absent)
        fresh = thing(stream, "object", noun, (first.x, first.y), first.side)
        donor = fresh.having("size", first.size or "big")
    wrong = [word for word in other_words("colour", donor.look) if word not in options]
    return (donor, *rest), ask(donor, "colour", stream.choice(wrong), swap)
