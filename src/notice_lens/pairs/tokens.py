"""Words and word pieces: everything that a tokenizer is asked about pairs."""

from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from notice_lens.models.layout import Span, without_space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from notice_lens.models.protocol import TextReader

AFTER_SPACE = "a "
"""What words are put behind to be read as in the middle of a prompt: `Ġdog` may be one piece where `dog` is two."""
AT_START = "\n"
"""The same for words without a space before them: first in a chat template's text, or behind a bracket."""


def as_tokenizer(source: Any) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model, a hub id or a folder; a tokenizer is returned as it is.

    Raises:
        TypeError: It is not one of these.
        OSError: Neither the hub nor the disk has it.
        ValueError: It gives no character offsets, which are needed to find words among tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if isinstance(source, str | PathLike):
        found = AutoTokenizer.from_pretrained(fspath(source))
    else:
        found = source if isinstance(source, PreTrainedTokenizerBase) else getattr(source, "tokenizer", None)
    if not isinstance(found, PreTrainedTokenizerBase):
        raise TypeError(
            f"a tokenizer comes from a HookedBLIP, a Hugging Face tokenizer, a hub id or a folder; "
            f"got {type(source).__name__}"
        )
    if not found.is_fast:
        raise ValueError(f"{type(found).__name__} gives no character offsets; take the fast tokenizer of this model")
    return found


def as_reader(source: Any, kind: str = "vqa") -> "TextReader":
    """Return the reader of prompts' and answers' tokens: the model itself.

    Args:
        source: A model, a tokenizer, or a hub id or folder. A tokenizer alone is read as BLIP would.
        kind: Of the pairs that a tokenizer alone is to read.

    Raises:
        TypeError, OSError, ValueError: As `as_tokenizer`.
    """
    tokenizer = as_tokenizer(source)
    if hasattr(source, "layout_of"):
        return source
    from notice_lens.models.blip.layout import BLIPReader

    return BLIPReader(kind, tokenizer)  # pyright: ignore[reportArgumentType] -- kinds of pairs are kinds of BLIPs


def pieces(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text's word pieces, without `[CLS]` and `[SEP]`."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def pieces_behind(tokenizer: Any, before: str, words: Sequence[str]) -> list[list[int]]:
    """Return the token ids of words as they follow other text, `AFTER_SPACE` or `AT_START`."""
    if not words:
        return []
    texts = [before + word for word in words]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        [id for id, span in zip(ids, spans, strict=True) if len(before) < span[1] > without_space(text, *span)[0]]
        for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def beginnings(tokenizer: Any, answer: str) -> tuple[int, int]:
    """Return an answer's first piece by itself, and behind a space: a model writes the one or the other."""
    by_itself, spaced = pieces(tokenizer, answer), pieces_behind(tokenizer, AFTER_SPACE, [answer])[0]
    return by_itself[0], spaced[0]


def begin_alike(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether two answers cannot be told apart by their first pieces, given their `beginnings`."""
    return any(a == b for a, b in zip(first, second, strict=True))


TokenOutline = tuple[tuple[int, ...], ...]


def outline(tokenizer: Any, prompt: str, spans: Sequence[Span]) -> TokenOutline | None:
    """Return a prompt's tokens with the number of the span, -1 and below, for each token of a span.

    Two prompts with one outline differ in the words of these spans alone, which have equally many tokens in the same
    places. A prompt has an outline for each way of reading it: by itself, as in BLIP, and behind the end of a line, as
    in most chat templates, where its first word may have other tokens.

    Args:
        tokenizer: The model's.
        prompt: Before the chat template.
        spans: Characters; spans do not overlap.

    Returns:
        Ids by way of reading; None where a token reaches across the edge of a span.
    """
    readings = "", AT_START
    encoded = tokenizer([lead + prompt for lead in readings], add_special_tokens=False, return_offsets_mapping=True)
    outlines = [list(ids) for ids in encoded["input_ids"]]
    for lead, ids, offsets in zip(readings, outlines, encoded["offset_mapping"], strict=True):
        for place, (start, stop) in enumerate(spans, 1):
            start, stop = start + len(lead), stop + len(lead)
            for number, span in enumerate(offsets):
                if span[0] < stop and span[1] > start:
                    first, last = without_space(lead + prompt, *span)
                    if first < start or last > stop:
                        return None
                    ids[number] = -place
    return tuple(map(tuple, outlines))


def same_answer(tokenizer: Any, said: str, expected: str) -> bool:
    """Return whether two answers are the same to a model, that is, have the same word pieces.

    "t - shirt", as pieces are put together again, is "t-shirt".
    """
    said, expected = said.strip().lower(), expected.strip().lower()
    return said == expected or (bool(said) and pieces(tokenizer, said) == pieces(tokenizer, expected))


def has_unknown(tokenizer: Any, text: str) -> bool:
    """Return whether the text has a piece that the vocabulary does not know, `[UNK]`."""
    return tokenizer.unk_token_id in pieces(tokenizer, text)
