"""Reach: the positions that a change can reach, and those that can reach the read-outs, by recorded masks.

Never a rule by name. Gemma 3's image tokens see each other both ways, PaliGemma's whole prompt does, sliding layers see
a window: "i sees j" is what the attention of each layer was given.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

SeenKeys = Bool[Tensor, "query_pos key_pos"]


def suffix(seen: Iterable[SeenKeys | None], positions: Sequence[int], length: int) -> Bool[Tensor, "pos"]:
    """Return the positions that a change at some positions can reach in any number of blocks.

    Args:
        seen: Of each layer, which query sees which key; None for cross-attention, which mixes no positions.
        positions: Where the change is.
        length: How many positions there are.
    """
    masks = {id(mask): mask for mask in seen if mask is not None}
    reached = torch.zeros(length, dtype=torch.bool)
    reached[list(positions)] = True
    while True:
        before = int(reached.sum())
        for mask in masks.values():
            reached |= mask[:, reached].any(1)
        if int(reached.sum()) == before:
            return reached


def needed(seen: Sequence[SeenKeys | None], readouts: Sequence[int], length: int) -> list[Bool[Tensor, "pos"]]:
    """Return, for the input of each layer and the output of the last, the positions that the read-outs depend on.

    Entry l is of what goes into layer l, entry n_layers of what the last layer writes: the read-outs alone.
    """
    wanted = torch.zeros(length, dtype=torch.bool)
    wanted[list(readouts)] = True
    found = [wanted]
    for mask in reversed(seen):
        wanted = wanted if mask is None else wanted | mask[wanted].any(0)
        found.append(wanted)
    return found[::-1]
