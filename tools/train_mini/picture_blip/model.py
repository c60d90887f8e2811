"""The mini BLIP of the picture world before training.

First weights are as the mini LLaVA's: heads of the vision stack look at a patch's neighbours, and heads of the question
encoder and the decoder look for what resembles their queries and copy it.
"""

from typing import Any

import torch
from torch import nn

from train_mini.blip.start import look_at_neighbours
from train_mini.llava.start import start_alike
from train_mini.picture_blip.schedule import BlipSizes
from train_mini.picture_blip.vocabulary import IMAGE_SIZE, PATCH, ids, word_pieces

LIKENESS = 1.3
"""Size of first queries and keys, in units of the normed stream."""


def new_model(sizes: BlipSizes, seed: int) -> Any:
    """Return an untrained `BlipForQuestionAnswering`; first weights follow from the seed."""
    from transformers import BlipConfig, BlipForQuestionAnswering

    text = {
        "vocab_size": len(word_pieces()),
        "hidden_size": sizes.width,
        "encoder_hidden_size": sizes.width,
        "num_attention_heads": sizes.text_heads,
        "intermediate_size": sizes.text_mlp,
        "num_hidden_layers": sizes.text_layers,
        "projection_dim": 64,
        "max_position_embeddings": 48,
        "bos_token_id": ids()["[DEC]"],
        "pad_token_id": ids()["[PAD]"],
        "eos_token_id": ids()["[SEP]"],
        "sep_token_id": ids()["[SEP]"],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "use_cache": False,
    }
    vision = {
        "hidden_size": sizes.width,
        "num_attention_heads": sizes.vision_heads,
        "intermediate_size": sizes.vision_mlp,
        "num_hidden_layers": sizes.vision_layers,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "projection_dim": 64,
    }
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=64, projection_dim=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForQuestionAnswering(config)
    generator = torch.Generator().manual_seed(seed)
    look_at_neighbours(model.vision_model, generator)
    first_weights(model, generator)
    return model


@torch.no_grad()
def first_weights(model: Any, generator: torch.Generator) -> None:
    """Set the first weights of both text stacks."""
    encoder, decoder = model.text_encoder, model.text_decoder.bert
    width = encoder.config.hidden_size
    words = encoder.embeddings.word_embeddings.weight
    nn.init.normal_(words, std=width**-0.5, generator=generator)
    # What the question encoder copies, the decoder can name.
    for same in (decoder.embeddings.word_embeddings.weight, model.text_decoder.cls.predictions.decoder.weight):
        same.copy_(words)
    transform = model.text_decoder.cls.predictions.transform.dense
    nn.init.eye_(transform.weight)
    for stack in (encoder, decoder):
        nn.init.normal_(stack.embeddings.position_embeddings.weight, std=0.5 * width**-0.5, generator=generator)
        layers = stack.encoder.layer
        for layer in layers:
            for attention in (layer.attention, layer.crossattention):
                own, output = attention.self, attention.output.dense.weight
                query, key, value = own.query.weight, own.key.weight, own.value.weight
                start_alike(query, key, value, output, own.num_attention_heads, LIKENESS, generator)
                output.mul_((2 * len(layers)) ** -0.5)
            for linear in (layer.intermediate.dense, layer.output.dense):
                nn.init.normal_(linear.weight, std=linear.weight.shape[1] ** -0.5, generator=generator)
            layer.output.dense.weight.mul_((2 * len(layers)) ** -0.5)
