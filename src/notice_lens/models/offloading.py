"""Weights that are not there: accelerate keeps those of a model larger than its devices in memory or on disk.

Between two calls of a module such weights are on the `meta` device, without numbers. A hook of accelerate fetches them
when the module is called, to the device that it computes on. So everything that calls modules works as it is; what asks
where a model is, or what its weights are, asks here.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module computes on: that of its weights, or where they are fetched to."""
    weight = next(iter([*module.parameters(), *module.buffers()]), None)
    if weight is not None and not weight.is_meta:
        return weight.device
    devices = [hook.execution_device for hook in _hooks(module) if getattr(hook, "execution_device", None) is not None]
    if devices:
        # accelerate takes numbers for GPUs.
        return torch.device("cuda", devices[0]) if isinstance(devices[0], int) else torch.device(devices[0])
    return torch.device("cpu") if weight is None else weight.device


def numbers_of(module: nn.Module, name: str) -> Tensor:
    """Return a weight's numbers, from wherever accelerate keeps them where they are not in the module.

    Args:
        module: That has the weight, or a module in it has.
        name: Of the weight, as `named_parameters` and `named_buffers` say it.

    Raises:
        ValueError: It has no numbers anywhere.
    """
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    weight: Tensor = getattr(owner, leaf)
    if not weight.is_meta:
        return weight
    for hook in _hooks(owner):
        kept: Mapping[str, Tensor] = getattr(hook, "weights_map", None) or {}
        with suppress(KeyError):
            return kept[leaf].to(weight.dtype)
    raise ValueError(
        f"the weight {name} is on the meta device, and nothing says where its numbers are: the model was made without "
        "weights, or lost the hooks of accelerate that fetch them; load it with from_pretrained"
    )


def _hooks(module: nn.Module) -> list[Any]:
    """Return accelerate's hooks on a module; several of them are in one that calls one after the other."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", (hook,)))
