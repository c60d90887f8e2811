"""First weights of the mini BLIP's vision stack: its heads begin by looking at a patch's neighbours."""

from typing import Any

import torch
from torch import nn

from train_mini.neighbours import NEIGHBOURS, look_at, start_embeddings


@torch.no_grad()
def look_at_neighbours(vision: Any, generator: torch.Generator) -> None:
    """Set the first weights of a `BlipVisionModel`.

    Raises:
        ValueError: A head's width is not a multiple of 4.
    """
    config = vision.config
    places = config.hidden_size // config.num_attention_heads
    if places % 4:
        raise ValueError(f"heads of width {places}: places need a multiple of 4")
    grid = config.image_size // config.patch_size
    for parameter in vision.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=generator)
    embeddings = vision.embeddings
    patch, positions = embeddings.patch_embedding.weight, embeddings.position_embedding[0]
    start_embeddings(patch, embeddings.class_embedding, positions, places, patch[0].numel() ** -0.5, generator)
    for layer in vision.encoder.layers[:-1]:
        heads = layer.self_attn.qkv.weight.view(3, config.num_attention_heads, places, config.hidden_size)
        for head, offset in zip(range(config.num_attention_heads), NEIGHBOURS, strict=False):
            nn.init.normal_(heads[:2, head], std=0.01, generator=generator)
            look_at(heads[0, head], heads[1, head], grid, offset)
        layer.self_attn.projection.weight[:places] = 0
        layer.mlp.fc2.weight[:places] = 0
