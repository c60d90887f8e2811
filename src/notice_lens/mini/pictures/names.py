"""The picture world's words: nouns, what each can look like, and the emoji that shows it.

A noun has one attribute, which tells its looks apart: a heart's is `colour`, a lock's `opening`, a man's `verb`, a
face's `emotion`. Animals and other objects have none. Where Fluent has no emoji of a colour, the noun is recoloured.
"""

from typing import Literal

from notice_lens.mini.faces import EMOTIONS

EmojiAttribute = Literal["colour", "opening", "verb", "emotion", "size"]

HUES: dict[str, float] = {
    "red": 352.0,
    "orange": 26.0,
    "yellow": 48.0,
    "green": 136.0,
    "blue": 215.0,
    "purple": 272.0,
}
"""The colours that a noun can be recoloured in, with their hues in degrees."""

COLOUR_WORDS: tuple[str, ...] = (*HUES, "brown", "black", "white")
OPENING_WORDS: tuple[str, ...] = ("open", "closed")
VERBS: tuple[str, ...] = (
    "walking",
    "running",
    "cycling",
    "swimming",
    "surfing",
    "rowing",
    "kneeling",
    "juggling",
    "dancing",
)
SIZES: dict[str, float] = {"big": 56.0, "small": 34.0}
"""Side of a thing's emoji, in units of which 128 span the picture."""

ATTRIBUTE_WORDS: dict[EmojiAttribute, tuple[str, ...]] = {
    "colour": COLOUR_WORDS,
    "opening": OPENING_WORDS,
    "verb": VERBS,
    "emotion": EMOTIONS,
    "size": tuple(SIZES),
}
"""The words for each attribute, every one a single token of the mini LLaVA."""

PEOPLE: tuple[str, ...] = ("man", "woman")
ANIMALS: tuple[str, ...] = ("dog", "cat", "horse", "cow", "pig", "rabbit", "elephant", "sheep", "duck", "turtle")
OBJECTS: tuple[str, ...] = ("tree", "house", "chair", "guitar", "cake", "drum", "rocket", "snowman", "camera", "clock")

RECOLOURED: dict[str, tuple[str, ...]] = {
    "apple": ("yellow",),
    "book": ("purple", "yellow"),
    "car": ("orange", "yellow", "green", "blue", "purple"),
    "balloon": ("orange", "yellow", "green", "blue", "purple"),
    "shirt": ("red", "orange", "yellow", "blue", "purple"),
    "cap": ("red", "orange", "yellow", "green", "purple"),
}
"""Colours that Fluent has no emoji of: they are made of the noun's first emoji."""

_HEARTS = "2764-fe0f 1f9e1 1f49b 1f49a 1f499 1f49c 1f90e 1f5a4 1f90d".split()
_BALLS = "1f534 1f7e0 1f7e1 1f7e2 1f535 1f7e3 1f7e4 26ab 26aa".split()
_SQUARES = "1f7e5 1f7e7 1f7e8 1f7e9 1f7e6 1f7ea 1f7eb 2b1b 2b1c".split()

_VERB_CODES = {
    "walking": "1f6b6",
    "running": "1f3c3",
    "cycling": "1f6b4",
    "swimming": "1f3ca",
    "surfing": "1f3c4",
    "rowing": "1f6a3",
    "kneeling": "1f9ce",
    "juggling": "1f939",
}
_DANCERS = {"man": "1f57a", "woman": "1f483"}
_SIGNS = {"man": "2642", "woman": "2640"}
_SKINS = ("1f3fb", "1f3fe")

_EMOTION_CODES = {
    "angry": "1f620 1f621",
    "disgusted": "1f922 1f92e",
    "happy": "1f603 1f604",
    "neutral": "1f610 1f611",
    "sad": "2639-fe0f 1f622",
    "scared": "1f628 1f631",
    "surprised": "1f62e 1f632",
}
_CAT_CODES = {"angry": "1f63e", "happy": "1f63a 1f638", "sad": "1f63f", "scared": "1f640"}
_PLAIN_CODES = (
    "1f415 1f408 1f40e 1f404 1f416 1f407 1f418 1f411 1f986 1f422 "
    "1f333 1f3e0 1fa91 1f3b8 1f382 1f941 1f680 26c4 1f4f7 23f0"
)


def _emoji_codes() -> dict[tuple[str, str], tuple[str, ...]]:
    table: dict[tuple[str, str], tuple[str, ...]] = {}
    for noun, codes in (("heart", _HEARTS), ("ball", _BALLS), ("square", _SQUARES)):
        table |= {(noun, colour): (code,) for colour, code in zip(COLOUR_WORDS, codes, strict=True)}
    table |= {("apple", "red"): ("1f34e",), ("apple", "green"): ("1f34f",)}
    table |= {
        ("book", colour): (code,)
        for colour, code in zip(("red", "green", "blue", "orange"), ("1f4d5", "1f4d7", "1f4d8", "1f4d9"), strict=True)
    }
    table |= {("car", "red"): ("1f697",), ("balloon", "red"): ("1f388",)}
    table |= {("shirt", "green"): ("1f455",), ("cap", "blue"): ("1f9e2",)}
    openings = {"lock": "1f513 1f512", "mailbox": "1f4ed 1f4ea", "folder": "1f4c2 1f4c1"}
    openings |= {"umbrella": "2602-fe0f 1f302", "hand": "270b 270a"}
    for noun, codes in openings.items():
        table |= {(noun, word): (code,) for word, code in zip(OPENING_WORDS, codes.split(), strict=True)}
    for person, sign in _SIGNS.items():
        for verb, code in _VERB_CODES.items():
            table[person, verb] = tuple(f"{code}-{skin}-200d-{sign}-fe0f" for skin in _SKINS)
        table[person, "dancing"] = tuple(f"{_DANCERS[person]}-{skin}" for skin in _SKINS)
    table |= {("face", emotion): tuple(codes.split()) for emotion, codes in _EMOTION_CODES.items()}
    table |= {("kitten", emotion): tuple(codes.split()) for emotion, codes in _CAT_CODES.items()}
    table |= {(noun, ""): (code,) for noun, code in zip((*ANIMALS, *OBJECTS), _PLAIN_CODES.split(), strict=True)}
    return table


EMOJI_CODES = _emoji_codes()
"""Names of the emoji (their code points, as Fluent's files are called) that show a noun and a look, one or more."""


def _looks() -> dict[str, tuple[str, ...]]:
    looks: dict[str, tuple[str, ...]] = {}
    for noun, look in EMOJI_CODES:
        looks[noun] = (*looks.get(noun, ()), look)
    return {noun: (*words, *RECOLOURED.get(noun, ())) for noun, words in looks.items()}


LOOKS = _looks()
"""The looks of each noun: words of its attribute, or one empty word."""

COLOURED: tuple[str, ...] = ("heart", "ball", "square", "apple", "book", "car", "balloon", "shirt", "cap")
OPENED: tuple[str, ...] = ("lock", "mailbox", "folder", "umbrella", "hand")


def attribute_of(noun: str) -> EmojiAttribute | None:
    """Return the attribute in which a noun's looks differ; None where it has only one look."""
    first = LOOKS[noun][0]
    return next((name for name, words in ATTRIBUTE_WORDS.items() if name != "size" and first in words), None)
