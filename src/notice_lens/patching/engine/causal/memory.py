"""The memory budget of patched rows."""

import psutil
import torch
from torch import nn

HOSTED_SHARE_OF_FREE = 0.4
HOSTED_MOST_ON_CPU = 1 * 2**30
"""Bytes; a CPU gains nothing from more rows at once."""


def memory_for(model: nn.Module, memory: int | None) -> int:
    """Return the bytes that rows may take: those given, or a share of the free memory of the model's device.

    Raises:
        ValueError: The given number is not a positive integer.
    """
    if memory is not None:
        if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
            raise ValueError(f"memory={memory!r}: expected a number of bytes, such as 2 * 2**30, or None")
        return memory
    device = next(model.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(HOSTED_SHARE_OF_FREE * (free + unused))
    return int(min(HOSTED_SHARE_OF_FREE * psutil.virtual_memory().available, HOSTED_MOST_ON_CPU))
