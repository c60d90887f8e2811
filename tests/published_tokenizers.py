"""Tokenizers of the kinds that published models have, trained here on a few texts: nothing is fetched.

| kind | words begin with | what the vocabulary lacks | model |
| --- | --- | --- | --- |
| `llama` | `▁`, which a text's first word gets too | bytes | LLaVA |
| `gemma` | `▁` where the text has a space | bytes | Gemma 3 |
| `qwen`, `llama3` | `Ġ` where the text has a space; all pieces are of bytes | nothing | Qwen-VL, Llama-3.2-Vision |
| `unigram` | `▁`, which every word gets | `<unk>` | XLM-RoBERTa, T5 |

Pre-tokenizers and decoders are those of the published files; vocabularies are small, so that words have several pieces.
"""

import json
import string
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RUNS = [mark * n for mark in ("\n", "▁") for n in range(2, 5)]
"""Lines and spaces in a row, which Gemma's vocabulary has whole."""


def llama(texts: Iterable[str], size: int, special: Sequence[str] = (), **options: Any) -> Any:
    """Return a SentencePiece BPE with byte fallback: Llama's."""
    vocab, merges = _sentence_pieces(texts, ["<unk>", "<s>", "</s>", *BYTES], size)
    words = LlamaTokenizer(vocab=vocab, merges=merges, legacy=False, pad_token="<unk>", padding_side="left", **options)
    return _with_special(words, special)


def gemma(texts: Iterable[str], size: int, special: Sequence[str] = (), **options: Any) -> Any:
    """Return a SentencePiece BPE without a prefixed space: Gemma's."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *BYTES, "\n", *RUNS]
    vocab, merges = _sentence_pieces(texts, first, size, prepend="never")
    merges += [(run[:-1], run[-1]) for run in RUNS]
    words = GemmaTokenizer(vocab=vocab, merges=merges, padding_side="left", **options)
    return _with_special(words, special)


def qwen(texts: Iterable[str], size: int, special: Sequence[str] = (), **options: Any) -> Any:
    """Return a byte-level BPE: Qwen2's."""
    vocab, merges = _byte_pieces(texts, ["<|endoftext|>"], size)
    words = Qwen2Tokenizer(vocab=vocab, merges=merges, padding_side="left", **options)
    return _with_special(words, special)


def llama3(texts: Iterable[str], size: int, special: Sequence[str] = (), **options: Any) -> Any:
    """Return a byte-level BPE as tiktoken has it, where a word of the vocabulary is never split: Llama 3's."""
    vocab, merges = _byte_pieces(texts, [], size)
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _LLAMA3_SPECIAL])
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=_LLAMA3_SPECIAL[0],
        eos_token="<|eot_id|>",
        pad_token=_LLAMA3_SPECIAL[1],
        padding_side="left",
        **options,
    )
    return _with_special(words, special)


_LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>")


def unigram(texts: Iterable[str], size: int, special: Sequence[str] = (), **options: Any) -> Any:
    """Return a SentencePiece Unigram: XLM-RoBERTa's and T5's."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    first = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=first,
        unk_token="<unk>",
        initial_alphabet=list(string.printable),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        **options,
    )
    return _with_special(words, special)


def _with_special(words: Any, special: Sequence[str]) -> Any:
    words.add_tokens([AddedToken(token, normalized=False, special=True) for token in special], special_tokens=True)
    return words


Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]
"""Ids by piece, and merges in their order."""


def _sentence_pieces(texts: Iterable[str], first: Sequence[str], size: int, prepend: str = "always") -> Vocabulary:
    """Train on words with their `▁`, apart from punctuation, as SentencePiece does."""
    apart = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme=prepend), pre_tokenizers.Punctuation()])
    vocab, merges = _trained(texts, apart, [], size)
    return {piece: number for number, piece in enumerate(dict.fromkeys([*first, *vocab]))}, merges


def _byte_pieces(texts: Iterable[str], first: Sequence[str], size: int) -> Vocabulary:
    vocab, merges = _trained(texts, pre_tokenizers.ByteLevel(False), sorted(pre_tokenizers.ByteLevel.alphabet()), size)
    return {piece: number for number, piece in enumerate([*first, *vocab])}, merges


def _trained(texts: Iterable[str], apart: Any, alphabet: list[str], size: int) -> tuple[list[str], list[Any]]:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = apart
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    found = json.loads(raw.to_str())["model"]
    return sorted(found["vocab"], key=found["vocab"].get), [tuple(merge) for merge in found["merges"]]
