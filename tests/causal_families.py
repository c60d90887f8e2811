"""Tiny random models of every family, made from their configs, and two inputs for each: one prompt, two pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor

from forward_oracle import decoder_of

IMAGE, START, END = 390, 391, 392
N_HEADS, N_KV, VOCAB = 4, 2, 400
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 56, "patch_size": 14,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV, "vocab_size": VOCAB, "max_position_embeddings": 512,
}  # fmt: skip
QWEN = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END, "video_token_id": 393}
QWEN_VISION = {"hidden_size": 32, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}


class Family(NamedTuple):
    """A model, and its inputs by the seed of the picture."""

    model: Any
    inputs: Callable[[int], dict[str, Tensor]]


def prompt(n_image: int = 4) -> Tensor:
    """Two tokens, the image, its end, and seven words."""
    return torch.cat([torch.tensor([1, START]), torch.full((n_image,), IMAGE), torch.tensor([END, *range(5, 12)])])[
        None
    ]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_image(ids: Tensor, *shape: int, **more: Tensor) -> Callable[[int], dict[str, Tensor]]:
    def inputs(seed: int) -> dict[str, Tensor]:
        rest = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}
        return {**rest, "pixel_values": noise(seed, *shape).to(torch.get_default_dtype())}

    return inputs


def llava() -> Family:
    vision = hf.CLIPVisionConfig(**{**VISION, "image_size": 28})
    config = hf.LlavaConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE, vision_feature_layer=-2,
        image_seq_length=4,
    )  # fmt: skip
    return Family(hf.LlavaForConditionalGeneration(config), with_image(prompt(), 1, 3, 28, 28))


def vipllava() -> Family:
    # Two states of the tower side by side enter the projector.
    vision = hf.CLIPVisionConfig(**{**VISION, "image_size": 28})
    config = hf.VipLlavaConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_layers=[-1, -2], image_seq_length=4,
    )  # fmt: skip
    return Family(hf.VipLlavaForConditionalGeneration(config), with_image(prompt(), 1, 3, 28, 28))


def llava_next() -> Family:
    vision = hf.CLIPVisionConfig(**{**VISION, "image_size": 28})
    config = hf.LlavaNextConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE, vision_feature_layer=-2,
        image_grid_pinpoints=[[28, 56], [56, 28]], image_seq_length=4,
    )  # fmt: skip
    # The whole picture, two tiles side by side, and a newline token after each of two rows.
    sizes = torch.tensor([[28, 56]])
    return Family(
        hf.LlavaNextForConditionalGeneration(config), with_image(prompt(14), 1, 3, 3, 28, 28, image_sizes=sizes)
    )


def llava_onevision() -> Family:
    vision = hf.SiglipVisionConfig(**{**VISION, "image_size": 28})
    config = hf.LlavaOnevisionConfig(
        vision_config=vision, text_config=hf.Qwen2Config(**TEXT), image_token_index=IMAGE, vision_feature_layer=-1,
        video_token_index=393, image_grid_pinpoints=[[28, 56], [56, 28]],
    )  # fmt: skip
    sizes = torch.tensor([[28, 56]])
    inputs = with_image(prompt(14), 1, 3, 3, 28, 28, image_sizes=sizes)
    return Family(hf.LlavaOnevisionForConditionalGeneration(config), inputs)


def qwen_inputs() -> Callable[[int], dict[str, Tensor]]:
    ids = prompt()
    grid = torch.tensor([[1, 4, 4]])
    return with_image(ids, 16, 3 * 2 * 14 * 14, image_grid_thw=grid, mm_token_type_ids=(ids == IMAGE).int())


def qwen2_vl() -> Family:
    text = {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {**QWEN_VISION, "depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    config = hf.Qwen2VLConfig(text_config=text, vision_config=vision, **QWEN)
    return Family(hf.Qwen2VLForConditionalGeneration(config), qwen_inputs())


def qwen2_5_vl() -> Family:
    text = {**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {
        **QWEN_VISION, "depth": 2, "intermediate_size": 64, "out_hidden_size": 64, "fullatt_block_indexes": [1],
        "window_size": 56,
    }  # fmt: skip
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **QWEN)
    return Family(hf.Qwen2_5_VLForConditionalGeneration(config), qwen_inputs())


def qwen3_vl() -> Family:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**TEXT, "head_dim": 16, "rope_scaling": rope}
    vision = {
        **QWEN_VISION, "depth": 3, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **QWEN)
    return Family(hf.Qwen3VLForConditionalGeneration(config), qwen_inputs())


def gemma3() -> Family:
    # Seven layers: the sixth sees everything, the others a window; the image's tokens see each other both ways.
    text = {**TEXT, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 6}
    config = hf.Gemma3Config(
        text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=START,
        eoi_token_index=END,
    )  # fmt: skip
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return Family(model, with_image(prompt(), 1, 3, 56, 56, token_type_ids=(prompt() == IMAGE).int()))


def paligemma() -> Family:
    # The whole prompt is a prefix in which everything sees everything.
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**{**VISION, "image_size": 28}),
        text_config=hf.GemmaConfig(**TEXT, head_dim=16), image_token_id=IMAGE, projection_dim=64, hidden_size=64,
    )  # fmt: skip
    inputs = with_image(prompt(), 1, 3, 28, 28, token_type_ids=torch.zeros_like(prompt()))
    return Family(hf.PaliGemmaForConditionalGeneration(config), inputs)


def idefics3() -> Family:
    text = hf.LlamaConfig(**TEXT, pad_token_id=0)
    config = hf.Idefics3Config(
        text_config=text, vision_config=VISION, image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return Family(hf.Idefics3ForConditionalGeneration(config), with_image(prompt(), 1, 1, 3, 56, 56))


def internvl() -> Family:
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14]}
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT), vision_config=vision, image_token_id=IMAGE, downsample_ratio=0.5,
        image_seq_length=4,
    )  # fmt: skip
    return Family(hf.InternVLForConditionalGeneration(config), with_image(prompt(), 1, 3, 56, 56))


def mllama() -> Family:
    text = {
        **TEXT, "num_hidden_layers": 6, "cross_attention_layers": [1, 4], "pad_token_id": 0,
        "rope_scaling": {"rope_type": "default"},
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": 28, "patch_size": 14, "max_num_tiles": 1,
        "supported_aspect_ratios": [[1, 1]], "vision_output_dim": 64, "intermediate_layers_indices": [0],
    }  # fmt: skip
    model = hf.MllamaForConditionalGeneration(
        hf.MllamaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    )
    for name, parameter in model.model.language_model.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.8)  # gates of 0 would shut the image out
    ids = torch.where(prompt() == IMAGE, 7, prompt())
    return Family(model, with_image(
        ids, 1, 1, 1, 3, 28, 28, aspect_ratio_ids=torch.tensor([[1]]),
        aspect_ratio_mask=torch.ones(1, 1, 1, dtype=torch.long),
        cross_attention_mask=torch.ones(1, ids.shape[1], 1, 1, dtype=torch.long),
    ))  # fmt: skip


QFORMER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "encoder_hidden_size": 32, "cross_attention_frequency": 2, "vocab_size": 60, "max_position_embeddings": 32,
}  # fmt: skip


def let_the_image_through(model: Any) -> None:
    """Give the Q-Former weights with which its queries tell pictures apart."""
    torch.nn.init.normal_(model.query_tokens)
    for module in (model.vision_model, model.qformer, model.language_projection):
        for parameter in module.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def blip_2() -> Family:
    # OPT: positions are learned, queries are scaled before attention, and the block is its own MLP.
    text = hf.OPTConfig(
        hidden_size=64, ffn_dim=128, num_hidden_layers=4, num_attention_heads=N_HEADS, vocab_size=VOCAB,
        word_embed_proj_dim=64, max_position_embeddings=512,
    )  # fmt: skip
    config = hf.Blip2Config(
        vision_config={**VISION, "image_size": 28}, qformer_config=QFORMER, text_config=text, num_query_tokens=4,
        image_token_index=IMAGE,
    )  # fmt: skip
    model = hf.Blip2ForConditionalGeneration(config)
    let_the_image_through(model)
    return Family(model, with_image(prompt(), 1, 3, 28, 28))


def instructblip() -> Family:
    config = hf.InstructBlipConfig(
        vision_config={**VISION, "image_size": 28}, qformer_config=QFORMER, text_config=hf.LlamaConfig(**TEXT),
        num_query_tokens=4, image_token_index=IMAGE,
    )  # fmt: skip
    model = hf.InstructBlipForConditionalGeneration(config)
    let_the_image_through(model)
    question = torch.tensor([[1, *range(5, 12)]])
    more = {"qformer_input_ids": question, "qformer_attention_mask": torch.ones_like(question)}
    return Family(model, with_image(prompt(), 1, 3, 28, 28, **more))


def softcapped() -> Family:
    """A PaliGemma 2: soft caps of scores and logits, sliding windows in every other layer."""
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**{**VISION, "image_size": 28}),
        text_config=hf.Gemma2Config(**TEXT, head_dim=16, sliding_window=6, attn_logit_softcapping=0.5),
        image_token_id=IMAGE, projection_dim=64, hidden_size=64,
    )  # fmt: skip
    inputs = with_image(prompt(), 1, 3, 28, 28, token_type_ids=torch.zeros_like(prompt()))
    return Family(hf.PaliGemmaForConditionalGeneration(config), inputs)


FAMILIES = {
    make.__name__: make
    for make in (
        llava, llava_next, llava_onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, gemma3, paligemma, idefics3, internvl,
        mllama, softcapped, blip_2, instructblip, vipllava,
    )
}  # fmt: skip


def made(name: str, dtype: torch.dtype = torch.float64) -> Family:
    """Return a family's model with its seed, in a dtype, with weights of a size that makes attention look somewhere."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    model.eval().to(dtype)
    with torch.no_grad():
        for key, parameter in decoder_of(model).named_parameters():
            if parameter.dim() == 2 and "embed" not in key:
                parameter.mul_(3)

    def typed(seed: int) -> dict[str, Tensor]:
        given = inputs(seed)
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}

    return Family(model, typed)
