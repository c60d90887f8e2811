"""First weights with which a small vision transformer learns shapes within minutes.

A fresh transformer first has to find out which patches lie beside each other, and learns the outlines of things only
then. Here it is told: a few dimensions of the stream hold the place of a patch as sines and cosines, and in all blocks
but the last the first eight heads look at the eight neighbours, since turning those sines and cosines shifts a place.
These are first values like any others, and all of them are trained.
"""

from math import cos, pi, sin
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

PLACE_SIZE, SHARPNESS = 2.0, 1.5
"""Size of a place's sines and cosines in the stream, and the factor on queries: heads look with a weight above 0.8."""

NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


@torch.no_grad()
def look_at_neighbours(vision: Any, generator: torch.Generator) -> None:
    """Sets the first weights of a `BlipVisionModel`.

    Raises:
        ValueError: if a head's width is no multiple of 4.
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
    patch = embeddings.patch_embedding.weight
    nn.init.normal_(patch, std=config.hidden_size**-0.5, generator=generator)
    nn.init.normal_(embeddings.class_embedding, std=0.02, generator=generator)
    nn.init.zeros_(embeddings.position_embedding)
    # The places' dimensions are kept clear of what the patches and the first blocks write.
    patch[:places] = 0
    embeddings.class_embedding[..., :places] = 0
    embeddings.position_embedding[0, 1:, :places] = PLACE_SIZE * place_codes(grid, places)
    for layer in vision.encoder.layers[:-1]:
        heads = layer.self_attn.qkv.weight.view(3, config.num_attention_heads, places, config.hidden_size)
        for head, (down, right) in zip(range(config.num_attention_heads), NEIGHBOURS, strict=False):
            nn.init.normal_(heads[:2, head], std=0.01, generator=generator)
            heads[0, head, :, :places] = SHARPNESS * shift_of_places(grid, places, down, right)
            heads[1, head, :, :places] = torch.eye(places)
        layer.self_attn.projection.weight[:places] = 0
        layer.mlp.fc2.weight[:places] = 0


def _turns(grid: int, places: int) -> list[float]:
    return [number * pi / grid for number in range(1, places // 4 + 1)]


def place_codes(grid: int, places: int) -> Float[Tensor, "patch places"]:
    """Cosine and sine of each frequency, first of a patch's row, then of its column."""
    steps = torch.arange(grid)[:, None] * torch.tensor(_turns(grid, places))
    along = torch.stack([steps.cos(), steps.sin()], dim=-1).flatten(1)
    rows, columns = along[:, None].expand(grid, grid, -1), along[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def shift_of_places(grid: int, places: int, down: int, right: int) -> Float[Tensor, "places places"]:
    """The matrix that turns the sines and cosines of a place into those of one further down and right."""
    pairs = [(step * turn) for step in (down, right) for turn in _turns(grid, places)]
    return torch.block_diag(*(torch.tensor([[cos(by), -sin(by)], [sin(by), cos(by)]]) for by in pairs))
