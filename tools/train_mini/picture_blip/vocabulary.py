"""The words that the mini BLIP of the picture world knows, and its processor."""

from functools import cache
from typing import Any

from notice_lens.mini import vocabulary
from train_mini.llava.vocabulary import TEMPLATE_WORDS, world_words
from train_mini.patches import NOTHING

IMAGE_SIZE, PATCH = 128, 16


def word_pieces() -> list[str]:
    """Return the word pieces in the order of their ids."""
    first = [*vocabulary.SPECIAL, *vocabulary.PUNCTUATION, *world_words(), *TEMPLATE_WORDS, NOTHING]
    return vocabulary.word_pieces(first)


@cache
def ids() -> dict[str, int]:
    """Return the id of each word piece."""
    return {piece: number for number, piece in enumerate(word_pieces())}


def tokens(text: str) -> list[int]:
    """Return the token ids of a text of known words; see `notice_lens.mini.vocabulary.tokens`."""
    return vocabulary.tokens(text, ids())


def processor() -> Any:
    """Return a `BlipProcessor` with this vocabulary."""
    return vocabulary.processor(IMAGE_SIZE, ids())
