"""How many rows fit: an estimate of what a row of the wave takes, and a budget for all of them."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import psutil
import torch

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

log = logging.getLogger("notice_lens.patching")
SHARE_OF_FREE = 0.25
MOST_ON_CPU = 512 * 2**20
"""More at once is slower on a CPU: what one step writes is no longer in its cache when the next one reads it."""


def budget(blip: "HookedBLIP", asked: int | None = None) -> int:
    """Bytes that a wave may take: what was asked for, or a share of what is free.

    Raises:
        ValueError: Less than a byte was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise ValueError(f"memory={asked}: expected a number of bytes, 1 or more, or None")
        return int(asked)
    if blip.device.type == "cuda":
        return int(SHARE_OF_FREE * 2 * torch.cuda.mem_get_info(blip.device)[0])
    return int(min(SHARE_OF_FREE * psutil.virtual_memory().available, MOST_ON_CPU))


def bytes_per_row(blip: "HookedBLIP", stacks: Mapping[str, int], logits: int) -> int:
    """What a variant takes at the widest place of its way.

    At the MLP that is the stream, what it was normalised to, and twice the neurons; in attention the stream, queries,
    keys, values, z, and copies of them when rows spread. The states that a variant hands on to the next stack stay
    with it.

    Args:
        blip: The model.
        stacks: The stacks that a variant passes through, with their positions.
        logits: How many logits are read from a variant at a time.
    """
    size = torch.finfo(blip.dtype).bits // 8
    widest, carried = 0, 0
    for stack, positions in stacks.items():
        cfg = blip.stack(stack).cfg
        widest = max(widest, positions * (2 * cfg.d_mlp + 9 * cfg.d_model))
        carried += positions * cfg.d_model
    return size * (widest + carried) + 3 * 4 * logits


def rows_that_fit(blip: "HookedBLIP", asked: int | None, row: int) -> int:
    """How many rows of so many bytes fit into the budget, one at least; it is logged."""
    limit = budget(blip, asked)
    fit = max(1, limit // row)
    log.info("a variant takes about %.1f MB; %.2f GB hold %d at a time", row / 2**20, limit / 2**30, fit)
    return fit
