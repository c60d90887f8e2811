"""The mini LLaVA's sizes, and a forward pass for training that asks several questions about each picture at once.

Image tokens come before the question and do not see it, so they are run once for all questions about a picture. The
questions follow one another in one long row. Each keeps the positions that it would have on its own, and a mask lets it
see the image and itself, but no other question. The modules are Hugging Face's own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from train_mini.llava.start import first_weights
from train_mini.llava.vocabulary import IMAGE_SIZE, PATCH, ids, tokens, word_pieces
from train_mini.picture_examples import GRID

PREFIX = (*tokens("user :"), *([ids()["<image>"]] * GRID**2))
"""What stands in front of every question, behind `<s>`."""


@dataclass(frozen=True)
class LlavaSizes:
    """Sizes of the model.

    Attributes:
        width: Of both streams.
        heads: In each layer of both stacks.
        vision_layers: Layers of the tower.
        language_layers: Layers of the language model.
        vision_mlp: Hidden units of the tower's MLPs.
        language_mlp: Hidden units of the language model's.
    """

    width: int = 128
    heads: int = 8
    vision_layers: int = 4
    language_layers: int = 6
    vision_mlp: int = 256
    language_mlp: int = 320


def new_model(sizes: LlavaSizes, seed: int) -> Any:
    """Return an untrained `LlavaForConditionalGeneration`; first weights follow from the seed."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=sizes.vision_mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        projection_dim=sizes.width,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(word_pieces()),
        hidden_size=sizes.width,
        intermediate_size=sizes.language_mlp,
        num_hidden_layers=sizes.language_layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=ids()["<pad>"],
        bos_token_id=ids()["<s>"],
        eos_token_id=ids()["</s>"],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids()["<image>"],
        image_seq_length=GRID**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    for name, token in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        setattr(model.generation_config, f"{name}_token_id", ids()[token])
    first_weights(model, torch.Generator().manual_seed(seed))
    return model


def image_tokens(model: Any, pixels: Float[Tensor, "image 3 rows columns"]) -> Float[Tensor, "image patch width"]:
    """Return the image tokens of each picture, as they enter the language model."""
    seen = model.model.vision_tower(pixels.contiguous()).last_hidden_state
    return model.model.multi_modal_projector(seen[:, 1:])


def answer_logits(
    model: Any,
    images: Float[Tensor, "image patch width"],
    questions: Int[Tensor, "image question pos"],
    places: Int[Tensor, "image question answer_pos"],
    middle: int = 0,
) -> tuple[Float[Tensor, "image question answer_pos vocab"], Float[Tensor, "image question pos width"]]:
    """Return the logits at some places of each question, several questions about each picture, and the stream inside.

    Args:
        model: The model.
        images: Output of `image_tokens`.
        questions: Token ids, from the question's first on, with `ASSISTANT:` and perhaps the answer; padded on the
            right.
        places: At which of their tokens.
        middle: Layers after which the stream is given back too.
    """
    image, question, pos = questions.shape
    embed = model.get_input_embeddings()
    first = torch.tensor([ids()["<s>"], *PREFIX[:2]], device=questions.device)
    start = embed(first).expand(image, -1, -1)
    stream = torch.cat([start, images, embed(questions.flatten(1, 2))], dim=1)
    prefix = start.shape[1] + images.shape[1]
    positions = torch.arange(prefix + pos, device=questions.device)
    positions = torch.cat([positions[:prefix], positions[prefix:].repeat(question)])[None]
    mask = question_mask(prefix, question, pos).to(questions.device)[None, None].expand(image, -1, -1, -1)
    given = model.model.language_model(
        inputs_embeds=stream, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
    )
    asked, inside = (
        states[:, prefix:].unflatten(1, (question, pos))
        for states in (given.last_hidden_state, given.hidden_states[middle])
    )
    wanted = asked.gather(2, places[..., None].expand(-1, -1, -1, asked.shape[-1]))
    return functional.linear(wanted, embed.weight), inside


def question_mask(prefix: int, questions: int, pos: int) -> Bool[Tensor, "query key"]:
    """Return which position sees which: the image and what is in front, and the same question so far."""
    length = prefix + questions * pos
    number = torch.cat([torch.full((prefix,), -1), torch.arange(questions).repeat_interleave(pos)])
    place = torch.arange(length)
    same = (number[:, None] == number[None]) | (number[None] == -1)
    return same & (place[None] <= place[:, None])
