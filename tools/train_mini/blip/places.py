"""A training loss that keeps the position of a patch easy to read from the vision stack's output.

Questions of the group `verb` compare two places. Left to itself the vision stack drowns the place in shape and colour
(it was a twentieth of the variance), and the text stack did not find it in a thousand steps; with the place as a large
linear part of the output it took a hundred.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LOUDNESS = 8.0
"""How far the first and the last row (or column) are from the middle, along their direction."""


def place_loss(states: Float[Tensor, "image pos width"]) -> Float[Tensor, ""]:
    """How far the states are from naming their row and column along two fixed directions; 0 where they do.

    Args:
        states: Output of the vision stack, the class token first.
    """
    grid = int((states.shape[1] - 1) ** 0.5)
    steps = LOUDNESS * torch.linspace(-1, 1, grid, device=states.device)
    wanted = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)
    found = states[:, 1:].float() @ _directions(states.shape[2]).to(states.device)
    return (found - wanted).square().mean() / LOUDNESS


def _directions(width: int) -> Float[Tensor, "width 2"]:
    """Two directions of length 1 at right angles: alternating signs, and alternating pairs of signs."""
    number = torch.arange(width)
    signs = torch.stack([number % 2, number // 2 % 2], dim=1) * 2 - 1
    return signs / width**0.5
