"""The memory plan: how many rows, and the runs of how many pairs, fit at a time; half as many where it was short."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from notice_lens.models.hook_names import HookName

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel

log = logging.getLogger("notice_lens.patching")
SHARE_OF_FREE = 0.25
MOST_ON_CPU = 512 * 2**20
"""More at once is slower on a CPU: what one step writes is no longer in its cache when the next one reads it."""
Arrays = dict[str, np.ndarray]


def budget(model: "VisionLanguageModel", memory: float | int | None = None) -> int:
    """Return how many bytes variants may take: those that the caller allows, or a share of what is free.

    Raises:
        ValueError: Less than a byte is allowed.
    """
    if memory is None:
        return int(free(model) * 2) if model.device.type == "cuda" else int(min(free(model), MOST_ON_CPU))
    if memory < 1:
        raise ValueError(f"memory={memory}: expected a number of bytes, 1 or more, or None")
    return int(memory)


def free(model: "VisionLanguageModel") -> float:
    """Return a share of the bytes that are free on the model's device."""
    if model.device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(model.device)[0]
    return SHARE_OF_FREE * psutil.virtual_memory().available


def bytes_per_row(model: "VisionLanguageModel", lengths: Mapping[str, int], logits: int) -> int:
    """Return the bytes that a variant takes where it takes most.

    At the MLP that is the stream, its normalised copy, and twice the neurons; in attention the stream, queries, keys,
    values, z, and copies of them when rows get all their positions. The states that a variant gives to the next stack
    stay with it.

    Args:
        model: The model.
        lengths: The positions of each stack that a variant passes through.
        logits: How many logits are read from a variant at a time.
    """
    widest, states = 0, 0
    for stack, positions in lengths.items():
        cfg = model.stack(stack).cfg
        widest = max(widest, positions * (2 * cfg.d_mlp + 9 * cfg.d_model))
        states += positions * cfg.d_model
    return bytes_per_number(model) * (widest + states) + 3 * 4 * logits


def bytes_per_pair(model: "VisionLanguageModel", lengths: Mapping[str, int], hooks: Iterable[str], runs: int) -> int:
    """Return the bytes that the recorded runs of a pair take: edited hook points of every run, streams of the base run.

    Args:
        model: The model.
        lengths: The positions of each stack.
        hooks: Hook points that every run records.
        runs: How many runs there are.
    """
    streams = sum(model.stack(name).cfg.n_layers * lengths[name] * model.stack(name).cfg.d_model for name in lengths)
    return bytes_per_number(model) * (streams + runs * sum(numbers_at(model, lengths, hook) for hook in hooks))


def numbers_at(model: "VisionLanguageModel", lengths: Mapping[str, int], hook: str) -> int:
    """Return how many numbers a hook point has in one run of one pair, at most."""
    name = HookName.parse(hook)
    stack = name.stack or ""
    cfg, leaf, keys = model.stack(stack).cfg, name.leaf, max(lengths.values())
    # Keys may be of the stack before, which a plan for fewer stacks does not list; then its own length has to do.
    positions = keys if leaf.startswith("cross_attn") and leaf.endswith(("hook_k", "hook_v")) else lengths[stack]
    if leaf.endswith(("hook_attn_scores", "hook_pattern")):
        return positions * keys * cfg.n_heads
    width = cfg.d_mlp if leaf.startswith("mlp.") else cfg.d_model
    return positions * width * (cfg.n_heads if leaf.endswith("hook_result") else 1)


def bytes_per_number(model: "VisionLanguageModel") -> int:
    """Return the size of one of the model's numbers."""
    return torch.finfo(model.dtype).bits // 8


def rows_that_fit(model: "VisionLanguageModel", memory: float | int | None, row: int) -> int:
    """Return how many rows of so many bytes fit into the budget, one at least; log it."""
    limit = budget(model, memory)
    fit = max(1, limit // row)
    log.info("a variant takes about %.1f MB; %.2f GB hold %d at a time", row / 2**20, limit / 2**30, fit)
    return fit


def by_halves(compute: Callable[[list[int]], Arrays], pairs: list[int]) -> Arrays:
    """Compute the arrays [pair, ...] of some pairs; where the device runs out of memory, of half of them at a time."""
    try:
        return compute(pairs)
    except torch.OutOfMemoryError:
        if len(pairs) == 1:
            raise
    # Outside of the handler: inside, the error's traceback would keep the tensors of the failed attempt.
    torch.cuda.empty_cache()
    log.warning("out of memory with %d pairs at a time; going on with half as many", len(pairs))
    middle = len(pairs) // 2
    one, two = (by_halves(compute, half) for half in (pairs[:middle], pairs[middle:]))
    return {name: np.concatenate([one[name], two[name]]) for name in one}
