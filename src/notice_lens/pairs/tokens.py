"""Words and word pieces: everything that a tokenizer is asked about pairs."""

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from notice_lens.models.protocol import TextReader


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


def same_answer(tokenizer: Any, said: str, expected: str) -> bool:
    """Return whether two answers are the same to a model, that is, have the same word pieces.

    "t - shirt", as pieces are put together again, is "t-shirt".
    """
    said, expected = said.strip().lower(), expected.strip().lower()
    return said == expected or (bool(said) and pieces(tokenizer, said) == pieces(tokenizer, expected))


def has_unknown(tokenizer: Any, text: str) -> bool:
    """Return whether the text has a piece that the vocabulary does not know, `[UNK]`."""
    return tokenizer.unk_token_id in pieces(tokenizer, text)
