"""The words that the mini model knows, and its processor.

Every word of the world is one piece, so that answers are one token and the questions of a template equally long. A
thousand common words are included for a user's own questions; all other words are split into letters.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from notice_lens.mini.faces import EMOTIONS
from notice_lens.mini.scenes import OPPOSITE
from notice_lens.mini.things import ATTRIBUTE_VALUES

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
"""`[DEC]` starts an answer; `[ENC]` stands for `[CLS]` in BLIP's original code."""

PUNCTUATION = "?!.,:;'-()"

TEMPLATE_WORDS = ("is", "this", "or", "of", "what", "how", "color", "texture", "form", "person", "feeling")
"""The words of the templates."""

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the channels red, green and blue, from 0 to 1: the defaults of BLIP's image processor."""


def answer_words() -> list[str]:
    """Return every word that is an answer of some question, each once."""
    attributes = [word for words in ATTRIBUTE_VALUES.values() for word in words]
    return list(dict.fromkeys([*attributes, *OPPOSITE, *EMOTIONS]))


def word_pieces(first: Sequence[str] | None = None) -> list[str]:
    """Return the word pieces in the order of their ids.

    Args:
        first: Special tokens and words that come before common words, letters and endings; None for the mini BLIP's.
    """
    first = [*SPECIAL, *PUNCTUATION, *answer_words(), *TEMPLATE_WORDS] if first is None else first
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    endings = ("##s", "##es", "##ed", "##ing", "##er", "##ly", "##y")
    common = files("notice_lens.mini").joinpath("common_words.txt").read_text(encoding="utf-8").split()
    pieces = [*first, *common, *letters, *endings]
    return list(dict.fromkeys([*pieces, *("##" + letter for letter in letters)]))


@cache
def _ids() -> dict[str, int]:
    return {piece: number for number, piece in enumerate(word_pieces())}


def tokens(text: str, ids: Mapping[str, int] | None = None) -> list[int]:
    """Return the token ids of a text of known words, between `[CLS]` and `[SEP]`: the tokenizer's, but quickly.

    Args:
        text: The text.
        ids: The id of each word piece; None for those of the mini BLIP of the drawn world.

    Raises:
        KeyError: A word is not in the vocabulary.
    """
    known = _ids() if ids is None else ids
    return [known[word] for word in ("[CLS]", *text.replace("?", " ?").split(), "[SEP]")]


def processor(image_size: int = 64, ids: Mapping[str, int] | None = None) -> Any:
    """Return a `BlipProcessor` with a vocabulary of word pieces.

    Args:
        image_size: What images are resized to, in pixels.
        ids: As of `tokens`.
    """
    from transformers import BertTokenizer, BlipImageProcessorPil, BlipProcessor

    vocab = dict(_ids() if ids is None else ids)
    tokenizer = BertTokenizer(vocab=vocab, bos_token="[DEC]", additional_special_tokens=["[ENC]"])
    size = {"height": image_size, "width": image_size}
    return BlipProcessor(BlipImageProcessorPil(size=size), tokenizer)
