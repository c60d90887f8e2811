"""The optimizer: orthogonal steps for the matrices inside of the blocks, AdamW for all else.

The step of a matrix is the nearest orthogonal one to its momentum (Muon; Jordan and others, 2024): all directions are
learnt at one speed, which takes fewer steps than Adam's where examples are dear. Matrices of one shape are treated
together, in float32: on many CPUs that is quicker than bfloat16.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that draws all singular values towards one."""


class Muon(torch.optim.Optimizer):
    """Orthogonal steps with momentum.

    Args:
        params: Matrices, or groups of them.
        lr: Size of a step: its singular values, times the root of rows over columns where there are more rows.
        momentum: Share of the momentum that stays.
        decay: Weight decay, times the rate.
        parts: Matrices that stand above each other in one, such as a fused projection's queries, keys and values; a
            group may have its own number.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, decay: float = 0.0, parts: int = 1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay, "parts": parts})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; a closure is not called."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step_shape(parameters, group)

    def _step_shape(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum, moved = group["momentum"], []
        for parameter in parameters:
            state, slope = self.state[parameter], parameter.grad
            assert slope is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(slope, 1 - momentum)
            moved.append(slope.lerp(state["momentum"], momentum))
        whole = torch.stack(moved)
        steps = orthogonal(whole.unflatten(1, (group["parts"], -1)).flatten(0, 1)).view_as(whole)
        rows, columns = parameters[0].shape[0] // group["parts"], parameters[0].shape[1]
        size = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(1 - group["lr"] * group["decay"]).add_(step, alpha=-size)


def orthogonal(matrices: Float[Tensor, "matrix row column"], rounds: int = 5) -> Float[Tensor, "matrix row column"]:
    """Return about the nearest orthogonal matrices: singular values from 0.7 to 1.2."""
    first, second, third = COEFFICIENTS
    turned = matrices.shape[1] > matrices.shape[2]
    near = matrices.mT if turned else matrices
    near = near / (near.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(rounds):
        square = near @ near.mT
        near = first * near + (second * square + third * square @ square) @ near
    return near.mT if turned else near
