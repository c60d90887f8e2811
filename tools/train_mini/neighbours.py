"""First weights with which a small vision transformer learns shapes within minutes.

A fresh transformer first has to find out which patches are beside each other, and learns the outlines of things only
then. Here it starts with that: a few dimensions of the stream hold the place of a patch as sines and cosines, and in
all blocks but the last the first eight heads look at the eight neighbours, since turning those sines and cosines shifts
a place. These are first values like any others, and all of them are trained.
"""

from math import cos, pi, sin

import torch
from jaxtyping import Float
from torch import Tensor, nn

PLACE_SIZE, SHARPNESS = 2.0, 1.5
"""Size of a place's sines and cosines in the stream, and the factor on queries: heads look with a weight above 0.8."""

NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


def start_embeddings(
    patch: Float[Tensor, "width channel rows columns"],
    class_token: Float[Tensor, "*one width"],
    positions: Float[Tensor, "pos width"],
    places: int,
    std: float,
    generator: torch.Generator,
) -> None:
    """Set the first embeddings: the first `places` dimensions of the stream hold the place of a patch alone.

    Args:
        patch: Weights of the patches' embedding, drawn with the standard deviation `std`.
        class_token: The class token's embedding.
        positions: The positions' embeddings, the class token's first.
        places: How many dimensions hold the place.
        std: See `patch`.
        generator: Of random draws.
    """
    nn.init.normal_(patch, std=std, generator=generator)
    nn.init.normal_(class_token, std=0.02, generator=generator)
    nn.init.zeros_(positions)
    # The places' dimensions are kept clear of what the patches and the first blocks write.
    patch[:places] = 0
    class_token[..., :places] = 0
    positions[1:, :places] = PLACE_SIZE * place_codes(round((len(positions) - 1) ** 0.5), places)


def look_at(
    query: Float[Tensor, "places width"], key: Float[Tensor, "places width"], grid: int, offset: tuple[int, int]
) -> None:
    """Set what a head's queries and keys read off the places, so that it looks `offset` patches down and right."""
    places = len(query)
    query[:, :places] = SHARPNESS * shift_of_places(grid, places, *offset)
    key[:, :places] = torch.eye(places)


def _turns(grid: int, places: int) -> list[float]:
    return [number * pi / grid for number in range(1, places // 4 + 1)]


def place_codes(grid: int, places: int) -> Float[Tensor, "patch places"]:
    """Return cosine and sine of each frequency, first of a patch's row, then of its column."""
    steps = torch.arange(grid)[:, None] * torch.tensor(_turns(grid, places))
    along = torch.stack([steps.cos(), steps.sin()], dim=-1).flatten(1)
    rows, columns = along[:, None].expand(grid, grid, -1), along[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def shift_of_places(grid: int, places: int, down: int, right: int) -> Float[Tensor, "places places"]:
    """Return the matrix that turns the sines and cosines of a place into those of one further down and right."""
    pairs = [(step * turn) for step in (down, right) for turn in _turns(grid, places)]
    return torch.block_diag(*(torch.tensor([[cos(by), -sin(by)], [sin(by), cos(by)]]) for by in pairs))
