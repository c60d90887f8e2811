"""The mini BLIP before training, and a quick forward for many questions about each image."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.vocabulary import processor, word_pieces
from train_mini.blip.start import look_at_neighbours


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of the mini model.

    Attributes:
        width: Of every stack (`d_model`).
        heads: Per layer, in every stack.
        vision_layers: Blocks of the vision stack.
        text_layers: Blocks of the question encoder, and of the answer decoder.
        mlp: Width of the hidden layer of every MLP.
        image_size: Pixels.
        patch_size: Pixels.
    """

    width: int = 192
    heads: int = 8
    vision_layers: int = 4
    text_layers: int = 3
    mlp: int = 384
    image_size: int = 64
    patch_size: int = 8


def new_model(config: MiniConfig, seed: int) -> Any:
    """A `BlipForQuestionAnswering` with fresh weights in float32; the global random state is left as it was."""
    from transformers import BlipConfig, BlipForQuestionAnswering

    tokens = processor().tokenizer
    width = {
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "projection_dim": 64,
        "initializer_range": 0.04,
    }
    text = {
        "vocab_size": len(word_pieces()),
        "num_hidden_layers": config.text_layers,
        "max_position_embeddings": 48,
        "bos_token_id": tokens.bos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.sep_token_id,
        "sep_token_id": tokens.sep_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "use_cache": False,
    }
    vision = {
        "num_hidden_layers": config.vision_layers,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForQuestionAnswering(
            BlipConfig(
                text_config=text | width, vision_config=vision | width, image_text_hidden_size=64, projection_dim=64
            )
        )
    look_at_neighbours(model.vision_model, torch.Generator().manual_seed(seed))
    return model


def encode_images(
    model: Any, pixels: Float[Tensor, "image channel rows columns"]
) -> Float[Tensor, "image patch width"]:
    """What `model.vision_model` gives, with fused attention: the class token first, then the patches."""
    vision = model.vision_model
    stream = vision.embeddings(pixels)
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        heads = (3, attention.num_heads, attention.head_dim)
        mixed = attention.qkv(layer.layer_norm1(stream)).unflatten(-1, heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        mixed = _mix(query, key, value)
        stream = stream + attention.projection(mixed.transpose(1, 2).flatten(2))
        stream = stream + layer.mlp(layer.layer_norm2(stream))
    return vision.post_layernorm(stream)


def answer_logits(
    model: Any,
    images: Float[Tensor, "image patch width"],
    questions: Int[Tensor, "image question pos"],
    answers: Int[Tensor, "image question answer_pos"],
) -> Float[Tensor, "image question answer_pos vocab"]:
    """Logits of what follows each answer token, for several questions about each image.

    Keys and values of an image are computed once for all of its questions. Padding of a question is masked in the
    decoder's cross-attention too, so the numbers are those of each question alone.

    Args:
        model: The model.
        images: Output of `encode_images`.
        questions: Token ids, padded on the right.
        answers: Token ids of the answers so far, `[DEC]` first.
    """
    return decoded(model, read(model, images, questions)[-1], questions, answers)


def read(
    model: Any, images: Float[Tensor, "image patch width"], questions: Int[Tensor, "image question pos"]
) -> list[Float[Tensor, "row pos width"]]:
    """Return the question encoder's stream after each layer, a row for each question, image by image.

    Arguments as of `answer_logits`.
    """
    image, question, pos = questions.shape
    real = _real(model, questions)
    states, after = _embed(model.text_encoder.embeddings, questions.flatten(0, 1)), []
    for layer in model.text_encoder.encoder.layer:
        states = _attend(layer.attention, states, states, mask=real)
        # All of an image's questions stand in one long query.
        long = _attend(layer.crossattention, states.view(image, question * pos, -1), images)
        states = layer.feed_forward_chunk(long.view(image * question, pos, -1))
        after.append(states)
    return after


def decoded(
    model: Any,
    states: Float[Tensor, "row pos width"],
    questions: Int[Tensor, "image question pos"],
    answers: Int[Tensor, "image question answer_pos"],
) -> Float[Tensor, "image question answer_pos vocab"]:
    """Return the logits of what follows each answer token, from the last of `read`'s; arguments as there."""
    real, decoder = _real(model, questions), model.text_decoder
    stream = _embed(decoder.bert.embeddings, answers.flatten(0, 1))
    for layer in decoder.bert.encoder.layer:
        stream = _attend(layer.attention, stream, stream, causal=True)
        stream = layer.feed_forward_chunk(_attend(layer.crossattention, stream, states, mask=real))
    return decoder.cls(stream).unflatten(0, questions.shape[:2])


def _real(model: Any, questions: Int[Tensor, "image question pos"]) -> Bool[Tensor, "row 1 1 pos"]:
    """Return which tokens are no padding, as a mask of keys."""
    return (questions != model.config.text_config.pad_token_id).flatten(0, 1)[:, None, None, :]


def _embed(embeddings: Any, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos width"]:
    places = embeddings.position_embeddings.weight[: tokens.shape[1]]
    return embeddings.LayerNorm(embeddings.word_embeddings(tokens) + places)


def _attend(
    block: Any,
    states: Float[Tensor, "row pos width"],
    source: Float[Tensor, "row source width"],
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Float[Tensor, "row pos width"]:
    attention = block.self
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query, key, value = (
        project(of).unflatten(-1, heads).transpose(1, 2)
        for project, of in ((attention.query, states), (attention.key, source), (attention.value, source))
    )
    mixed = _mix(query, key, value, mask, causal)
    return block.output(mixed.transpose(1, 2).flatten(2), states)


def _mix(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    if query.device.type == "cpu":
        # On a CPU the fused attention's backward is five times slower in bfloat16 than in float32.
        with torch.autocast("cpu", enabled=False):
            return functional.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), attn_mask=mask, is_causal=causal
            )
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
