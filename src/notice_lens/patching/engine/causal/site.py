"""Sites of a decoder: what a sweep patches, one cell after the other, checked before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from notice_lens.errors import one_of
from notice_lens.patching.edits import listed
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.plan import LEAVES, DecoderEdit

PositionsAsked = Sequence[int] | Mapping[str, int | Sequence[int]]
Cell = tuple[int, int | None, int]
"""Layer, head or None, and the number of the position or group of positions."""


@dataclass(frozen=True)
class DecoderSite:
    """A site of a decoder to patch. Built by `DecoderSite.of`, which checks it.

    Attributes:
        name: Stack and activation, such as `language.attn.hook_z`.
        leaf: The activation, a key of `LEAVES`.
        layers: Which layers, one at a time.
        heads: Which heads, one at a time; None for all at once, or an activation without heads.
    """

    name: str
    leaf: str
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None

    @classmethod
    def of(cls, decoder: Decoder, name: str, layers: Any = None, heads: Any = "each") -> "DecoderSite":
        """Return a site of a decoder.

        Args:
            decoder: The decoder.
            name: `language.attn` (its z), `language.attn.k`, `language.cross_attn`, `language.resid_pre`,
                `language.mlp.post`, ...; the `hook_` of the last part may be left out.
            layers: One, several, or None for all that have the activation.
            heads: `each`, one, several, or None for all at once.

        Raises:
            ValueError: There is no such activation, layer or head; the message names what there is.
        """
        activation, leaf = _parse(decoder, name)
        cross = activation.startswith("cross_attn.")
        own = [
            number for number, is_cross in enumerate(decoder.is_cross) if "attn." not in activation or is_cross == cross
        ]
        chosen = own if layers is None else _numbers("layer", layers, own, f"language.{activation}")
        kind = LEAVES[leaf].heads
        if kind is None:
            if heads is not None and heads != "each":
                raise ValueError(f"heads {heads!r} asked for; language.{activation} has no heads")
            return cls(f"language.{activation}", leaf, tuple(chosen), None)
        attention = decoder.blocks[chosen[0]].attn
        n = attention.n_heads if kind == "query" else attention.n_kv_heads
        what = "head" if kind == "query" else "key-value head"
        each = list(range(n)) if isinstance(heads, str) and heads == "each" else heads
        several = None if each is None else tuple(_numbers(what, each, range(n), f"language.{activation}"))
        return cls(f"language.{activation}", leaf, tuple(chosen), several)

    def cells(self, n_groups: int) -> list[Cell]:
        """Return every cell in the order of the result: by layer, by head, by position or group of positions."""
        heads: Sequence[int | None] = (None,) if self.heads is None else self.heads
        return [(layer, head, group) for layer in self.layers for head in heads for group in range(n_groups)]

    def edit(self, cell: Cell, groups: Sequence[tuple[int, ...]], source: str) -> DecoderEdit:
        """Return the edit of a cell."""
        layer, head, group = cell
        return DecoderEdit(self.leaf, layer, groups[group], head, source)


def leaf_of(activation: str) -> str:
    """Return the leaf of an activation of a hosted model's block, which both kinds of attention share."""
    return activation.removeprefix("cross_attn.").removeprefix("attn.").replace("cross_attn_out", "attn_out")


def activations(decoder: Decoder) -> dict[str, str]:
    """Return every activation that can be patched and its leaf: `attn.hook_z` to `hook_z`."""
    found: dict[str, str] = {}
    rotary = any(block.attn.rotary for block in decoder.blocks)
    for leaf, known in LEAVES.items():
        if leaf.startswith("hook_rot_") and not rotary:
            continue  # queries and keys meet as they are
        if known.heads is None:
            found[leaf] = leaf
            continue
        if not all(decoder.is_cross):
            found[f"attn.{leaf}"] = leaf
        if any(decoder.is_cross) and known.in_cross:
            found[f"cross_attn.{leaf}"] = leaf
    for module in ("attn", "cross_attn"):
        if f"{module}.hook_z" in found:
            # A head's result is a fixed linear map of its z: patching the one is patching the other.
            found[f"{module}.hook_result"] = "hook_z"
    return found


def _parse(decoder: Decoder, name: str) -> tuple[str, str]:
    stack, _, rest = str(name).partition(".")
    if stack != "language":
        raise ValueError(f"site {name!r}: " + one_of("stack", stack, ("language",)))
    valid = activations(decoder)
    short = {activation.replace("hook_", ""): activation for activation in valid}
    short |= {module: f"{module}.hook_z" for module in ("attn", "cross_attn") if f"{module}.hook_z" in valid}
    found = short.get(rest.replace("hook_", ""))
    if found is None:
        why = "" if rest.partition(".")[0] != "cross_attn" else "; cross-attention's keys and values are the image's"
        raise ValueError(f"site {name!r}: " + one_of("activation of `language`", rest, short) + why)
    return found, valid[found]


def _numbers(what: str, asked: Any, valid: Sequence[int], where: str) -> list[int]:
    """Return layers or heads, each once, in the requested order."""
    single = isinstance(asked, str) or not isinstance(asked, Iterable)
    given: list[Any] = [asked] if single else list(asked)
    several = [one.item() if isinstance(one, np.generic) else one for one in given]
    for number in several:
        if isinstance(number, bool) or not isinstance(number, int) or number not in valid:
            raise ValueError(f"{what} {number!r} asked for; {where} has {what}s {listed(valid)}")
    if not several or len(set(several)) < len(several):
        raise ValueError(f"{what}s {several} asked for; expected one or more of them, each once")
    return several


def groups_of(positions: PositionsAsked, length: int) -> tuple[list[int] | list[str], list[tuple[int, ...]]]:
    """Return a label for each position or group, and the positions that it stands for.

    Negative positions count from the end.

    Raises:
        TypeError: They are not numbers.
        ValueError: A position is outside the input or given twice, or none was given.
    """
    if isinstance(positions, Mapping):
        named = {str(name): _absolute(some, length) for name, some in positions.items()}
        labels: list[int] | list[str] = list(named)
        groups = list(named.values())
    else:
        labels = list(_absolute(positions, length))
        groups = [(position,) for position in labels if isinstance(position, int)]
    if not groups:
        raise ValueError("positions {} asked for; expected names of groups, each with one or more of them")
    return labels, groups


def _absolute(positions: Any, length: int) -> tuple[int, ...]:
    single = isinstance(positions, str) or not isinstance(positions, Iterable)
    several: list[Any] = [positions] if single else list(positions)
    found = []
    for position in several:
        number = position.item() if hasattr(position, "item") else position
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(
                f"position {position!r}: expected whole numbers, or a mapping of names to them, "
                "such as {'image': range(5, 581)}"
            )
        if not -length <= number < length:
            raise ValueError(f"position {number} asked for; the inputs have positions 0 to {length - 1}")
        found.append(number % length)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"positions {list(several)} asked for; expected one or more of them, each once")
    return tuple(found)
