"""The words that the mini LLaVA knows, and its processor.

Every word of the picture world is one token, so that answers are one token and the questions of a template equally
long. A thousand common words are included for a user's own questions; all other words are split into letters.
"""

from functools import cache
from typing import Any

from notice_lens.mini import vocabulary
from notice_lens.mini.pictures.names import ATTRIBUTE_WORDS, LOOKS
from train_mini.patches import NOTHING

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")

TEMPLATE_WORDS = (
    "is",
    "the",
    "or",
    "near",
    "what",
    "who",
    "how",
    "color",
    "size",
    "doing",
    "does",
    "feel",
    "user",
    "assistant",
)
"""The words of the templates."""

IMAGE_SIZE, PATCH = 128, 16

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def world_words() -> list[str]:
    """Return every noun and every answer of the picture world, each once."""
    attributes = [word for words in ATTRIBUTE_WORDS.values() for word in words]
    return list(dict.fromkeys([*LOOKS, *attributes]))


def word_pieces() -> list[str]:
    """Return the tokens in the order of their ids."""
    return vocabulary.word_pieces([*SPECIAL, *vocabulary.PUNCTUATION, *world_words(), *TEMPLATE_WORDS, NOTHING])


@cache
def ids() -> dict[str, int]:
    """Return the id of each token."""
    return {piece: number for number, piece in enumerate(word_pieces())}


def tokens(text: str) -> list[int]:
    """Return token ids of a question of known words: the tokenizer's, but quickly, and without any special token.

    Raises:
        KeyError: A word is no token of the vocabulary.
    """
    return [ids()[word] for word in text.replace("?", " ?").split()]


def processor() -> Any:
    """Return a `LlavaProcessor` with this vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece(dict(ids()), unk_token="<unk>", max_input_chars_per_word=40))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids()["<s>"])]
    )
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=256,
    )
    size, crop = {"shortest_edge": IMAGE_SIZE}, {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=crop),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
