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
        processor: Hugging Face's processor.
    """

    config: Any
    processor: Any


def llava(words: Any = None, chat_template: str = LLAVA_TEMPLATE) -> Tiny:
    """LLaVA-1.5: CLIP, whose last block but one is read; 16 image tokens.

    Args:
        words: A tokenizer that knows `<image>`; None trains one.
        chat_template: The format of prompts.
    """
    words = words or tokenizer(["<image>"], {"image_token": "<image>"})
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
        chat_template=chat_template,
    )
    return Tiny(config, processor)


def vipllava() -> Tiny:
    """VipLLaVA: LLaVA, whose projector reads several layers of CLIP at once."""
    words = tokenizer(["<image>"], {"image_token": "<image>"})
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**{**VISION, "num_hidden_layers": 4}),
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layers=[-2, -3],
    )
    return Tiny(config, llava(words).processor)


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


QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _qwen_words(words: Any = None) -> tuple[Any, dict[str, int]]:
    words = words or tokenizer(QWEN_MARKS)
    ids = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    return words, ids


def _qwen_processor(kind: Any, words: Any, chat_template: str = "") -> Any:
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    )
    shown = chat_template or template("<|vision_start|><|image_pad|><|vision_end|>")
    return image_only(kind)(image_processor=images, tokenizer=words, chat_template=shown)


def qwen2_5_vl(words: Any = None, chat_template: str = "") -> Tiny:
    """Qwen2.5-VL: windows in the tower's first layers; `words` knows `QWEN_MARKS`, otherwise as `llava`."""
    words, ids = _qwen_words(words)
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(**TEXT, **_mrope([1, 1, 2]), vocab_size=len(words)),
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 7,
            "spatial_merge_size": 2,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        **ids,
    )
    return Tiny(config, _qwen_processor(transformers.Qwen2_5_VLProcessor, words, chat_template))


def qwen3_vl() -> Tiny:
    """Qwen3-VL: features of the tower's first blocks enter the language model's first blocks."""
    words, ids = _qwen_words()
    config = transformers.Qwen3VLConfig(
        text_config=dict(**TEXT, **_mrope([2, 1, 1]), head_dim=8, vocab_size=len(words)),
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 7,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **ids,
    )
    return Tiny(config, _qwen_processor(transformers.Qwen3VLProcessor, words))


def llava_next() -> Tiny:
    """LLaVA-NeXT: the picture as a whole and in tiles, with a newline behind each row."""
    words = tokenizer(["<image>"], {"image_token": "<image>"})
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.MistralConfig(**TEXT, vocab_size=len(words), sliding_window=None),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessorPil(**square(28), image_grid_pinpoints=pinpoints),
        tokenizer=words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return Tiny(config, processor)


def llava_onevision() -> Tiny:
    """LLaVA-OneVision: SigLIP and Qwen2, tiles and newlines."""
    words = tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = image_only(transformers.LlavaOnevisionProcessor)(
        image_processor=transformers.LlavaOnevisionImageProcessorPil(
            size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=words,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
    )
    return Tiny(config, processor)


GEMMA_IMAGE = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
GEMMA_MARKS = ["<start_of_turn>", "<end_of_turn>", *GEMMA_IMAGE.values()]
GEMMA_TEMPLATE = template("<start_of_image>", "<start_of_turn>{role}\n", "<end_of_turn>\n", first="{{ bos_token }}")


def gemma3(words: Any = None, chat_template: str = GEMMA_TEMPLATE) -> Tiny:
    """Gemma 3: norms on both sides, sliding windows, image tokens that see each other both ways.

    Args:
        words: A tokenizer that knows `GEMMA_MARKS` and has the attributes `GEMMA_IMAGE`; None trains one.
        chat_template: The format of prompts.
    """
    words = words or tokenizer(GEMMA_MARKS, GEMMA_IMAGE)
    text = {**TEXT, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 8}
    config = transformers.Gemma3Config(
        text_config=dict(**text, vocab_size=len(words), query_pre_attn_scalar=8, sliding_window_pattern=2),
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=chat_template,
    )
    return Tiny(config, processor)


def paligemma() -> Tiny:
    """PaliGemma: the whole prompt sees itself both ways; no chat template."""
    words = tokenizer(["<image>"], {"image_token": "<image>"})
    images = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor=images, tokenizer=words)
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**TEXT, head_dim=8, vocab_size=len(words)),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return Tiny(config, processor)


def idefics3() -> Tiny:
    """Idefics3: tiles and the whole picture, pixels shuffled into fewer tokens."""
    return _idefics(transformers.Idefics3Config, transformers.Idefics3Processor, transformers.Idefics3ImageProcessorPil)


def smolvlm() -> Tiny:
    """SmolVLM, with the processor of Idefics3: its own says numbers in words, with a package of its own."""
    return _idefics(transformers.SmolVLMConfig, transformers.Idefics3Processor, transformers.SmolVLMImageProcessorPil)


def _idefics(config: Any, processor: Any, images: Any) -> Tiny:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    words = tokenizer(
        [*marks, "<|im_start|>", *tiles],
        {
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
            "global_image_token": "<global-img>",
        },
    )
    return Tiny(
        config(
            text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(words), pad_token_id=0),
            vision_config=VISION,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=0,
        ),
        processor(
            image_processor=images(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
            tokenizer=words,
            image_seq_len=4,
            chat_template=template("<image>", "<|im_start|>{role}: ", "<end_of_utterance>\n"),
        ),
    )


def internvl() -> Tiny:
    """InternVL: tiles, pixels shuffled into fewer tokens, layer scale in the tower."""
    words = tokenizer(
        ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=len(words)),
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7], "use_qk_norm": True},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        image_seq_length=4,
    )
    processor = image_only(transformers.InternVLProcessor)(
        image_processor=transformers.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=words,
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n"),
    )
    return Tiny(config, processor)


LLAMA_MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"]
LLAMA_TEMPLATE = template(
    "<|image|>", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", first="{{ bos_token }}"
)


def mllama(words: Any = None, chat_template: str = LLAMA_TEMPLATE) -> Tiny:
    """Llama-3.2-Vision: layers of cross-attention to the image, behind gates that start shut.

    Args:
        words: A tokenizer that knows `LLAMA_MARKS` and not yet `<|image|>`; None trains one.
        chat_template: The format of prompts.
    """
    words = words or tokenizer(LLAMA_MARKS)
    # The image's token has an id past the end of the vocabulary, as in the published model.
    words.add_tokens([AddedToken("<|image|>", normalized=False, special=True)])
    config = transformers.MllamaConfig(
        text_config={
            **TEXT,
            "num_hidden_layers": 4,
            "cross_attention_layers": [1, 3],
            "vocab_size": len(words) - 1,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    processor = transformers.MllamaProcessor(
        image_processor=transformers.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=2),
        tokenizer=words,
        chat_template=chat_template,
    )
    return Tiny(config, processor)


OPT = {
    "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 32,
    "max_position_embeddings": 512,
}  # fmt: skip
QFORMER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "encoder_hidden_size": 16, "cross_attention_frequency": 2, "max_position_embeddings": 64,
}  # fmt: skip
N_QUERIES = 8


def blip2() -> Tiny:
    """BLIP-2: a Q-Former between the tower and OPT, whose positions are learned and whose blocks are their own MLPs."""
    words = tokenizer(["<image>"])
    ids = {name: getattr(words, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": 50},
        text_config=transformers.OPTConfig(
            **OPT, vocab_size=len(words), **{f"{name}_token_id": token for name, token in ids.items()}
        ),
        num_query_tokens=N_QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.Blip2Processor(
        image_processor=transformers.BlipImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=words,
        num_query_tokens=N_QUERIES,
    )
    return Tiny(config, processor)


def instructblip() -> Tiny:
    """InstructBLIP: a Q-Former that reads the question too, by a tokenizer of its own, between the tower and Llama."""
    words, own = tokenizer(["<image>"]), tokenizer(["[CLS]"])
    config = transformers.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(own)},
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(words)),
        num_query_tokens=N_QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    own.padding_side = "right"
    processor = transformers.InstructBlipProcessor(
        image_processor=transformers.BlipImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=words,
        qformer_tokenizer=own,
        num_query_tokens=N_QUERIES,
    )
    return Tiny(config, processor)


def glm4v() -> Tiny:
    """GLM-4V, of which the package knows nothing: gate and up projection in one, norms on both sides."""
    marks = ["<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>"]
    words = tokenizer([*marks, "<|begin_of_video|>", "<|end_of_video|>"])
    ids = words.convert_tokens_to_ids
    config = transformers.Glm4vConfig(
        text_config=dict(**TEXT, **_mrope([1, 1, 2]), vocab_size=len(words)),
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "image_size": 28,
            "patch_size": 7,
            "spatial_merge_size": 2,
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    processor = image_only(transformers.Glm4vProcessor)(
        image_processor=transformers.Glm4vImageProcessorPil(
            patch_size=7, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 2 * 56 * 56}
        ),
        tokenizer=words,
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>", "<|{role}|>\n", ""),
    )
    return Tiny(config, processor)


FAMILIES: dict[str, Callable[[], Tiny]] = {
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "gemma3": gemma3,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen3_vl": qwen3_vl,
    "paligemma": paligemma,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "mllama": mllama,
    "blip-2": blip2,
    "instructblip": instructblip,
    "glm4v": glm4v,
    "vipllava": vipllava,
}
"""By model type. GLM-4V is not known to the package, and is hosted all the same."""


def randomise(model: Any, seed: int = 0) -> None:
    """Give every weight a real size, the same for the same seed."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            if weight.ndim >= 2:
                gain = 2.0 if any(part in name for part in ("q_proj", "k_proj", ".query.", ".key.")) else 1.0
                table = "embed_tokens" in name and not tied
                fan_in = 1 if table else weight[0].numel()
                weight.copy_(noise * gain * fan_in**-0.5)
            elif "gate" in name or "lambda" in name:
                weight.copy_(0.8 + 0.1 * noise)
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.1 * noise)


def make(family: str | Tiny, seed: int = 0) -> tuple[Any, Any]:
    """Return a model with weights of a real size, and its processor."""
    tiny = FAMILIES[family]() if isinstance(family, str) else family
    model = AutoModelForImageTextToText.from_config(tiny.config)
    randomise(model, seed)
    model.tie_weights()
    return model.eval(), tiny.processor


def write(family: str | Tiny, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint with `save_pretrained`, processor included, and return its folder."""
    model, processor = make(family, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(seed: int, side: int = 28) -> Image.Image:
    """Return a picture of noise."""
    noise = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())
