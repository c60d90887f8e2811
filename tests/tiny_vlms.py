"""Tiny random checkpoints of every family of vision-language models, processors included, in Hugging Face's formats.

`write(family, folder)` makes one with `save_pretrained`; nothing is fetched. Weights have a real size: with the sizes
that transformers starts from, images change next to nothing, Llama-3.2-Vision's gates are shut, and a patch at the
neighbouring position would pass. The tokenizers are trained here, on a few sentences.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from notice_lens.models.vlm.processors import image_only

SENTENCES = [
    "is this apple red or green ?",
    "what colour is the book on the table ?",
    "a man runs and a woman walks past the small car",
    "answer with one word :\n red green blue yellow happy sad",
    "USER ASSISTANT user assistant system model question answer",
]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def template(image: str, start: str = "<|im_start|>{role}\n", end: str = "<|im_end|>\n", first: str = "") -> str:
    """Return a chat template: what stands for an image, in front of a message, behind it, and before all of them."""
    before, after = start.split("{role}")
    generation = start.format(role="assistant")
    return (
        f"{first}{{% for message in messages %}}{before}{{{{ message['role'] }}}}{after}"
        f"{{% for item in message['content'] %}}{{% if item['type'] == 'image' %}}{image}"
        f"{{% else %}}{{{{ item['text'] }}}}{{% endif %}}{{% endfor %}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{generation}{{% endif %}}"
    )


def tokenizer(special: list[str], named: Mapping[str, str] | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """Return a trained tokenizer in which words begin with `▁`, as Llama's do.

    Args:
        special: Tokens beside `<pad>`, `<s>`, `</s>` and `<unk>`.
        named: Attribute to special token: `image_token` gives `tokenizer.image_token` and its id.
        **options: Of the tokenizer.
    """
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    first = ["<pad>", "<s>", "</s>", "<unk>"]
    raw.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=220, special_tokens=first, show_progress=False))
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=dict(named or {}),
        padding_side="left",
        **options,
    )


@dataclass(frozen=True)
class Tiny:
    """A tiny model of a family: its config and its processor.

    Attributes:
        config: Hugging Face's, of the whole model.
        processor: Hugging Face's.
    """

    config: Any
    processor: Any


def llava() -> Tiny:
    """LLaVA-1.5: CLIP, whose last block but one is read; 16 image tokens."""
    words = tokenizer(["<image>"], {"image_token": "<image>"})
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(**square(28)),
        tokenizer=words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return Tiny(config, processor)


def square(side: int) -> dict[str, Any]:
    """Return options of a CLIP image processor for pictures of `side` pixels."""
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def qwen2_vl() -> Tiny:
    """Qwen2-VL: 2 x 2 merged patches, three-dimensional rotary positions, a tower without a batch axis."""
    words, ids = _qwen_words()
    config = transformers.Qwen2VLConfig(
        text_config=dict(**TEXT, **_mrope([1, 1, 2]), vocab_size=len(words)),
        vision_config={
            "depth": 3,
            "embed_dim": 16,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 7,
            "spatial_merge_size": 2,
        },
        **ids,
    )
    return Tiny(config, _qwen_processor(transformers.Qwen2VLProcessor, words))


def _mrope(sections: list[int]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}}


def _qwen_words() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    special = [
        *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    ]
    words = tokenizer(special)
    ids = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    return words, ids


def _qwen_processor(kind: Any, words: PreTrainedTokenizerFast) -> Any:
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    )
    shown = template("<|vision_start|><|image_pad|><|vision_end|>")
    return image_only(kind)(image_processor=images, tokenizer=words, chat_template=shown)


FAMILIES: dict[str, Callable[[], Tiny]] = {"llava": llava, "qwen2_vl": qwen2_vl}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every weight a real size, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            if weight.ndim >= 2:
                gain = 2.0 if any(part in name for part in ("q_proj", "k_proj")) else 1.0
                fan_in = weight[0].numel() if "embed" not in name or "patch" in name else 1
                weight.copy_(noise * gain * fan_in**-0.5)
            elif "gate" in name or "lambda" in name:
                weight.copy_(0.8 + 0.1 * noise)
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.1 * noise)


def make(family: str, seed: int = 0) -> tuple[Any, Any]:
    """Return a model with weights of a real size, and its processor."""
    tiny = FAMILIES[family]()
    model = AutoModelForImageTextToText.from_config(tiny.config)
    randomise(model, seed)
    model.tie_weights()
    return model.eval(), tiny.processor


def write(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint with `save_pretrained`, processor included, and return its folder."""
    model, processor = make(family, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(seed: int, side: int = 28) -> Image.Image:
    """Return a picture of noise."""
    noise = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())
