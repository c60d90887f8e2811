"""Names of hook points: how they are read, and what to say when one does not exist.

This is the only place that parses a hook name. A name is `{stack}.blocks.{layer}.{leaf}` or `{stack}.{leaf}`; a lens
drops the stack.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

STACKS = ("vision", "qformer", "projector", "text", "decoder", "language")
"""Every name that a stack can have, over all families of models."""
IMAGE_STACK = "vision"
"""The stack that embeds the picture, in every family."""
QFORMER = "qformer"
"""The stack of learned queries that reads the image stack, where there is one."""
IMAGE_ONLY = (IMAGE_STACK, "projector")
"""The stacks that hold nothing but the picture."""
_FRONT = "|".join(STACKS)
_HOOK_NAME = re.compile(rf"(?:(?P<stack>{_FRONT})\.)?(?:blocks\.(?P<layer>\d+)\.)?(?P<leaf>.+)")


@dataclass(frozen=True)
class HookName:
    """The parts of a hook name: `text.blocks.3.cross_attn.hook_z` is text, 3, `cross_attn.hook_z`."""

    stack: str | None
    layer: int | None
    leaf: str

    @classmethod
    @cache
    def parse(cls, name: str) -> "HookName":
        """Return the parts of `name`; missing ones are None."""
        match = _HOOK_NAME.fullmatch(name)
        if match is None:
            return cls(None, None, name)
        layer = match["layer"]
        return cls(match["stack"], None if layer is None else int(layer), match["leaf"])

    def __str__(self) -> str:
        layer = None if self.layer is None else f"blocks.{self.layer}"
        return ".".join(part for part in (self.stack, layer, self.leaf) if part)


def full_name(key: Any, stacks: Sequence[str]) -> str | None:
    """Return the full name of a short key with its stack, `("pattern", 3, "text.cross_attn")`; None of any other key.

    Args:
        key: As a caller indexes a cache.
        stacks: Of the model.
    """
    from transformer_lens.utilities.components_utils import get_act_name

    if not isinstance(key, tuple) or len(key) != 3 or not isinstance(key[0], str) or not isinstance(key[2], str):
        return None
    stack, _, module = key[2].partition(".")
    if stack not in stacks or isinstance(key[1], bool) or not isinstance(key[1], int):
        return None
    name = get_act_name(key[0], key[1])
    if module == "cross_attn":
        name = name.replace(".attn.", ".cross_attn.").replace("hook_attn_out", "hook_cross_attn_out")
    return f"{stack}.{name}"


def nearest(name: str, valid: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` valid names that look most like `name`, best first."""
    valid = list(valid)
    parsed = HookName.parse(name)
    # With hundreds of names that differ in a layer only, look in the layer that was meant.
    same_layer = [candidate for candidate in valid if HookName.parse(candidate).layer == parsed.layer]
    return difflib.get_close_matches(name, same_layer or valid, n, cutoff=0.4)


def unknown_hook(name: str, valid: Iterable[str], n_layers: Mapping[str | None, int]) -> str:
    """Return a message that says why a hook name is not valid.

    Args:
        name: The requested name.
        valid: Every name that exists.
        n_layers: Layers of each stack; under None those of a lens, whose names have no stack.
    """
    valid = list(valid)
    parsed = HookName.parse(name)
    layers = n_layers.get(parsed.stack)
    if parsed.layer is not None and layers is not None and parsed.layer >= layers:
        stack = f"`{parsed.stack}`" if parsed.stack else "this lens"
        return f"no hook point {name!r}: layer {parsed.layer} asked for; {stack} has layers 0 to {layers - 1}"
    if parsed.stack is not None and parsed.stack not in n_layers:
        have = ", ".join(f"`{stack}`" for stack in n_layers if stack)
        stacks = f"this model has the stacks {have}" if have else "a lens drops the stack's name"
        message = f"no hook point {name!r}: {stacks}"
    else:
        message = f"no hook point {name!r}"
    close = nearest(name, valid)
    return message + (f"; nearest: {', '.join(close)}" if close else f"; for example {next(iter(valid))}")
