"""The task `states`: what colour is this thing, is it open or closed, is it big or small? One to three things.

Groups are `colour` (9 words), `opening` (open, closed) and `size` (big, small). In a pair only the asked-for attribute
of one thing changes. In most pictures another thing already has the other option, so that the same question about that
thing has the other answer.
"""

from notice_lens.mini.pair import Pair
from notice_lens.mini.picture import Picture
from notice_lens.mini.pictures.emoji import Emoji, other_words, random_emoji
from notice_lens.mini.pictures.ground import ground
from notice_lens.mini.pictures.names import (
    ATTRIBUTE_WORDS,
    COLOURED,
    LOOKS,
    OBJECTS,
    OPENED,
    EmojiAttribute,
    attribute_of,
)
from notice_lens.mini.questions import OPEN_WORDS, Question, compose, either
from notice_lens.mini.stream import RandomStream

STATE_ATTRIBUTES: tuple[EmojiAttribute, ...] = ("colour", "opening", "size")

CORNERS = ((33.0, 33.0), (95.0, 33.0), (33.0, 95.0), (95.0, 95.0))
"""Where things stand, near the corners of a picture: their middles, in units."""


def things(stream: RandomStream, nouns: list[str]) -> tuple[Emoji, ...]:
    """Return things of these nouns (1 to 4) in different places; the first is named `object`."""
    places = stream.sample(CORNERS, len(nouns))
    made = []
    for number, (noun, (x, y)) in enumerate(zip(nouns, places, strict=True)):
        if len(nouns) == 1:
            x, y = stream.uniform(32, 96), stream.uniform(32, 96)
        middle = (x + stream.uniform(-3, 3), y + stream.uniform(-3, 3))
        name = f"distractor{number}" if number else "object"
        one = random_emoji(stream, name, noun, middle, stream.uniform(0.94, 1.06))
        made.append(one.having("size", stream.choice(ATTRIBUTE_WORDS["size"])))
    return tuple(made)


def ask(asked: Emoji, attribute: EmojiAttribute, other: str, swap: bool) -> Question:
    """Ask `is the <noun> <word> or <word>?`, with the thing's own word and another."""
    answer = asked.word(attribute)
    return compose(attribute, answer, ["is", "the", ("noun", asked.noun), *either(answer, other, swap), "?"])


def ask_openly(asked: Emoji, attribute: EmojiAttribute) -> Question:
    """Ask `what color is the <noun>?`, or what size."""
    pieces = ["what", OPEN_WORDS[attribute], "is", "the", ("noun", asked.noun), "?"]
    return compose(attribute, asked.word(attribute), pieces)


def questions(scene: tuple[Emoji, ...], stream: RandomStream, count: int, *, contested: bool = False) -> list[Question]:
    """Return random questions about the things; the other option is often the word of another thing.

    Args:
        scene: The things.
        stream: Of random draws.
        count: How many questions.
        contested: Whether more are open, and the other option is another thing's word wherever possible.
    """
    facts: list[tuple[Emoji, EmojiAttribute]] = [
        (one, each) for one in scene for each in STATE_ATTRIBUTES if one.word(each)
    ]
    if contested:
        facts = [fact for fact in facts if _near(scene, *fact)] or facts
    asked = []
    for _ in range(count):
        one, attribute = stream.choice(facts)
        asked.append(_ask(scene, one, attribute, stream, contested))
    return asked


def _ask(
    scene: tuple[Emoji, ...], one: Emoji, attribute: EmojiAttribute, stream: RandomStream, contested: bool
) -> Question:
    if attribute in OPEN_WORDS and stream.coin(0.4 if contested else 0.25):
        return ask_openly(one, attribute)
    near = _near(scene, one, attribute)
    words = near if near and stream.coin(0.95 if contested else 0.6) else other_words(attribute, one.word(attribute))
    return ask(one, attribute, stream.choice(words), stream.coin())


def _near(scene: tuple[Emoji, ...], one: Emoji, attribute: EmojiAttribute) -> list[str]:
    """Return the words that other things have for an attribute and this one has not."""
    return [word for other in scene if (word := other.word(attribute)) and word != one.word(attribute)]


def random_scene(stream: RandomStream, least: int = 1) -> tuple[Emoji, ...]:
    """Return `least` to three things at random, sometimes among them an object without a look."""
    count = max(1 + stream.choice((0, 1, 1, 2, 2, 2)), least)
    nouns = stream.sample((*COLOURED, *OPENED, *OPENED), 3)
    nouns = list(dict.fromkeys([*nouns, stream.choice(OBJECTS)]))
    return things(stream, nouns[:count])


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair of a group; `swap` puts the right answer second in the question."""
    attribute: EmojiAttribute = next(each for each in STATE_ATTRIBUTES if each == group)
    noun = stream.choice({"colour": COLOURED, "opening": OPENED, "size": (*COLOURED, *OPENED)}[attribute])
    words = ATTRIBUTE_WORDS["size"] if attribute == "size" else LOOKS[noun]
    correct, incorrect = stream.sample(words, 2)
    shares = stream.coin(0.85)
    others = _others(stream, noun, attribute, incorrect if shares else "", stream.choice((1, 1, 2, 2, 2)))
    behind = ground(stream)
    first, *rest = things(stream, [noun, *(other for other, _ in others)])
    rest = [_looking(one, attribute, word) for one, (_, word) in zip(rest, others, strict=True)]
    clean = (first.having(attribute, correct), *rest)
    corrupt = (first.having(attribute, incorrect), *rest)
    donor, donor_question = _donor(stream, clean, attribute, (correct, incorrect), swap)
    parts = {"object": ("object",), "distractor": tuple(one.name for one in rest), "background": ("background",)}
    return Pair(
        task="states",
        group=group,
        clean=Picture(behind, clean),
        corrupt=Picture(behind, corrupt),
        donor=Picture(behind, donor),
        question=ask(clean[0], attribute, incorrect, swap),
        incorrect=incorrect,
        corrupt_question=_corrupt_question(stream, clean[0], attribute, swap),
        donor_question=donor_question,
        control_question=ask(rest[0], attribute, correct, not swap) if shares else None,
        clean_parts=parts,
    )


def _others(stream: RandomStream, noun: str, attribute: EmojiAttribute, word: str, count: int) -> list[tuple[str, str]]:
    """Return `count` other nouns with their words: the first has `word`; an empty word stands for any."""
    able = [other for other in (*COLOURED, *OPENED) if other != noun]
    first = stream.choice(able)
    if word and attribute != "size":
        first = stream.choice([other for other in able if word in LOOKS[other]])
    rest = stream.sample([other for other in able if other != first], count - 1)
    return [(first, word), *((other, "") for other in rest)]


def _looking(one: Emoji, attribute: EmojiAttribute, word: str) -> Emoji:
    return one.having(attribute, word) if word else one


def _corrupt_question(stream: RandomStream, asked: Emoji, attribute: EmojiAttribute, swap: bool) -> Question:
    """Return a question about another attribute of the same thing, so that it has a right answer too."""
    own = attribute_of(asked.noun)
    other: EmojiAttribute = own if attribute == "size" and own else "size"
    word = asked.word(other)
    looks = ATTRIBUTE_WORDS["size"] if other == "size" else LOOKS[asked.noun]
    return ask(asked, other, stream.choice([look for look in looks if look != word]), swap)


def _donor(
    stream: RandomStream, clean: tuple[Emoji, ...], attribute: EmojiAttribute, options: tuple[str, str], swap: bool
) -> tuple[tuple[Emoji, ...], Question]:
    """Return a scene for which neither option is right, and a question that has a right answer there.

    For a colour, the same thing has a third one. An attribute with only two words has no third: another thing stands in
    its place, and the question asks for its colour.
    """
    first, *rest = clean
    if attribute == "colour":
        third = stream.choice([look for look in LOOKS[first.noun] if look not in options])
        donor = first.having("colour", third)
    else:
        absent = [noun for noun in COLOURED if noun not in [one.noun for one in clean]]
        noun = stream.choice(absent)
        fresh = random_emoji(stream, "object", noun, (first.x, first.y), first.side)
        donor = fresh.having("size", first.size or "big")
    wrong = [word for word in other_words("colour", donor.look) if word not in options]
    return (donor, *rest), ask(donor, "colour", stream.choice(wrong), swap)
