"""The plan: edits as data, apart from the wave that carries them out.

A *variant* is a patched run: one or several edits made at once. Variants whose edits can reach the same positions share
a *suffix*, and run side by side in a `Cohort`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from notice_lens.patching.engine.causal.reach import suffix
from notice_lens.patching.engine.causal.record import Record

Reach = Literal["token", "attention", "block"]


class Leaf(NamedTuple):
    """The properties of an activation that the plan needs.

    Attributes:
        reach: Positions that an edit changes within its own block: the edited `token` alone; all that see it by
            `attention`; or all since the whole `block` reads it.
        heads: Whose heads it has: those of queries, of keys and values, or none.
        keys: Whether it has an axis of keys.
        in_cross: Whether cross-attention has it too, at positions of the stream; its keys and values are the image's.
    """

    reach: Reach
    heads: Literal["query", "kv"] | None = None
    keys: bool = False
    in_cross: bool = False


LEAVES: Mapping[str, Leaf] = {
    "hook_resid_pre": Leaf("block"),
    "hook_q": Leaf("token", "query", in_cross=True),
    "hook_k": Leaf("attention", "kv"),
    "hook_v": Leaf("attention", "kv"),
    "hook_rot_q": Leaf("token", "query"),
    "hook_rot_k": Leaf("attention", "kv"),
    "hook_attn_scores": Leaf("token", "query", keys=True, in_cross=True),
    "hook_pattern": Leaf("token", "query", keys=True, in_cross=True),
    "hook_z": Leaf("token", "query", in_cross=True),
    "hook_attn_out": Leaf("token"),
    "hook_resid_mid": Leaf("token"),
    "mlp.hook_pre": Leaf("token"),
    "mlp.hook_pre_linear": Leaf("token"),
    "mlp.hook_post": Leaf("token"),
    "hook_mlp_out": Leaf("token"),
    "hook_resid_post": Leaf("token"),
}
"""Every activation of a block that can be edited, in the order in which a block computes them."""


@dataclass(frozen=True)
class DecoderEdit:
    """One replaced value of one variant.

    Attributes:
        leaf: The activation, a key of `LEAVES`.
        layer: Its layer.
        positions: Where it is replaced: of queries for scores and patterns.
        head: The head, of queries or of keys and values as the activation has them; None for all, or no heads.
        source: The run that the new value comes from, by name; `zero`; or `cut`: scores of minus infinity, so that the
            queries do not see the keys (attention knockout).
        keys: Of scores and patterns, which keys; None for all.
    """

    leaf: str
    layer: int
    positions: tuple[int, ...]
    head: int | None = None
    source: str = "other"
    keys: tuple[int, ...] | None = None


DecoderVariant = tuple[DecoderEdit, ...]


class Cohort(NamedTuple):
    """Variants whose edits can reach the same positions.

    Attributes:
        reached: Those positions, of all of the stream [pos].
        variants: Numbers into the list of all variants, sorted by the layer in which they join.
    """

    reached: Tensor
    variants: list[int]


def first_layer(variant: DecoderVariant) -> int:
    """Return the layer in which a variant first differs from the base run."""
    return min(edit.layer for edit in variant)


def cohorts(base: Record, variants: Sequence[DecoderVariant]) -> list[Cohort]:
    """Group variants by the positions that their edits can reach."""
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    members: dict[tuple[int, ...], list[int]] = {}
    for number, variant in enumerate(variants):
        edited = tuple(sorted({position for edit in variant for position in edit.positions}))
        if edited not in known:
            known[edited] = tuple(suffix(base.seen, edited, base.length).nonzero()[:, 0].tolist())
        members.setdefault(known[edited], []).append(number)
    found = []
    for positions, numbers in members.items():
        reached = torch.zeros(base.length, dtype=torch.bool)
        reached[list(positions)] = True
        found.append(Cohort(reached, sorted(numbers, key=lambda number: first_layer(variants[number]))))
    return found


def entry(base: Record, variant: DecoderVariant, reached: Tensor) -> Tensor:
    """Return the positions that differ from the base run after a variant's first block [pos], or go into it changed.

    They are what the block is computed at when the variant joins; everywhere else the base run's output holds.
    """
    layer = first_layer(variant)
    seen = base.seen[layer]
    changed = torch.zeros(base.length, dtype=torch.bool)
    for edit in variant:
        if edit.layer != layer:
            continue
        positions = list(edit.positions)
        changed[positions] = True
        if LEAVES[edit.leaf].reach != "token" and seen is not None:
            changed |= seen[:, positions].any(1)
    return changed & reached
