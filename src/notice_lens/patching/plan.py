"""Which variant is edited where, sorted by the order in which the wave gets there.

A `Patch` is one edit with everything looked up: a hook, a head, positions, a source. A row of the wave is one variant
of one pair. `Plan` sorts the patches of all rows by stack, layer and step, and says where each row joins and with which
positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.names import HookName
from notice_lens.patching.cells import Index

_SELF = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern")
_CROSS = ("cross_attn.hook_k", "cross_attn.hook_v", "cross_attn.hook_attn_scores", "cross_attn.hook_pattern")
INSIDE = {**dict.fromkeys(_SELF, "attn.inside"), **dict.fromkeys(_CROSS, "cross_attn.inside")}
"""Edits inside of an attention step: where their rows join."""
EMBEDDING = ("hook_embed", "hook_pos_embed")
NEURONS = ("mlp.hook_pre", "mlp.hook_post")
OUTPUT, END = "output", 10_000
"""What a stack hands on: a step behind its last block, in a layer that no stack reaches."""
PRE_NORM = (
    *EMBEDDING, "hook_resid_pre", "attn.inside", *_SELF, "attn.hook_z", "attn.hook_result", "hook_attn_out",
    "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post", OUTPUT,
)  # fmt: skip
"""The steps of a block of the vision stack, in their order."""
POST_NORM = (
    *EMBEDDING, "hook_resid_pre", "attn.inside", *_SELF, "attn.hook_z", "attn.hook_result", "hook_attn_out",
    "hook_resid_mid", "cross_attn.hook_q", "cross_attn.inside", *_CROSS, "cross_attn.hook_z", "cross_attn.hook_result",
    "hook_cross_attn_out", "hook_resid_mid_cross", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post",
    "hook_normalized_resid_post", OUTPUT,
)  # fmt: skip
"""The steps of a block of the text and decoder stacks, in their order."""
GIVEN = "given"
"""The source of a patch that brings its value along."""
Where = tuple[int, str]
"""Layer and step; the embedding is layer -1."""


class Patch(NamedTuple):
    """One edit of one row.

    Where patches of one hook overlap, the later one in the row holds. A patch of scores or of a pattern never opens
    what is masked: padding, and what comes after a causal position, stay unseen whatever its source has there.

    Attributes:
        hook: The hook point, with its stack; `<stack>.output` is what the stack hands on.
        positions: Positions of the stream; keys for `hook_k` and `hook_v`, queries for scores and patterns.
        source: The run that the new value comes from; `GIVEN` where the patch brings it.
        head: The head, or None for all, or where there are none.
        keys: Of scores and patterns, the keys; None for all.
        value: What is put there, [position, ...], where the source is `GIVEN`; not for scores and patterns.
    """

    hook: str
    positions: Index
    source: str
    head: int | None = None
    keys: Index | None = None
    value: Tensor | None = None


class Edits(NamedTuple):
    """Edits of one hook from one source, ready for one indexed assignment: a line each."""

    source: str
    rows: Index
    positions: Index
    heads: Index | None
    given: Tensor | None


class Joins(NamedTuple):
    """Rows that join, and with which positions: a line each."""

    rows: Index
    positions: Index


@dataclass
class Steps:
    """What happens in one stack.

    Attributes:
        arriving: Rows that changed an earlier stack, in ascending order.
        aboard: Rows that are aboard at the end, in ascending order.
        first_layer: The first layer that any row joins in.
        joins: By layer and step.
        edits: By layer and step.
        special: Scores, patterns, and keys and values of cross-attention, by layer and module: patches of each row.
    """

    arriving: Index
    aboard: Index
    first_layer: int = 0
    joins: dict[Where, Joins] = field(default_factory=dict)
    edits: dict[Where, list[Edits]] = field(default_factory=dict)
    special: dict[tuple[int, str], dict[int, list[Patch]]] = field(default_factory=dict)


class Plan:
    """The patches of all rows.

    Args:
        stacks: Of the model, in their order.
        pairs: The pair of each variant's row.
        patches: The patches of each.
        lengths: How many positions each stack has.
        n_pairs: How many pairs there are; their base rows come first.
    """

    def __init__(
        self,
        stacks: Sequence[str],
        pairs: Sequence[int],
        patches: Sequence[Sequence[Patch]],
        lengths: dict[str, int],
        n_pairs: int,
    ) -> None:
        self.stacks, self.lengths, self.n_pairs = tuple(stacks), lengths, n_pairs
        self.pair_of: Index = np.concatenate([np.arange(n_pairs), np.asarray(pairs, dtype=np.int64)])
        self.patches = {n_pairs + row: list(found) for row, found in enumerate(patches)}

    @cached_property
    def _by_stack(self) -> dict[str, dict[int, list[tuple[int, str, Patch]]]]:
        """For each stack, the patches of each row with their layer and step."""
        found: dict[str, dict[int, list[tuple[int, str, Patch]]]] = {stack: {} for stack in self.stacks}
        for row, patches in self.patches.items():
            for patch in patches:
                name = HookName.parse(patch.hook)
                assert name.stack is not None, "sites are checked"
                outside = END if name.leaf == OUTPUT else -1
                place = (outside if name.layer is None else name.layer, name.leaf, patch)
                found[name.stack].setdefault(row, []).append(place)
        return found

    def steps(self, stack: str) -> Steps:
        """What happens in a stack."""
        before = self.stacks[: self.stacks.index(stack)]
        arriving = {row for earlier in before for row in self._by_stack[earlier]}
        own = self._by_stack[stack]
        steps = Steps(_index(sorted(arriving)), _index(sorted({*arriving, *own})))
        joins: dict[Where, list[tuple[int, Index]]] = {}
        for row in steps.aboard.tolist():
            where, positions = self._join(stack, own.get(row, []), row in arriving)
            joins.setdefault(where, []).append((row, positions))
        steps.joins = {where: _lines(found) for where, found in joins.items()}
        steps.first_layer = max(0, min((layer for layer, _ in joins), default=0))
        self._sort_edits(own, steps)
        return steps

    def _join(self, stack: str, patches: list[tuple[int, str, Patch]], arriving: bool) -> tuple[Where, Index]:
        """Where a row joins, and with which positions: all that it may change before the next self-attention."""
        order = PRE_NORM if stack == "vision" else POST_NORM
        everything = np.arange(self.lengths[stack])
        where = [(layer, order.index(INSIDE.get(leaf, leaf))) for layer, leaf, _ in patches]
        if arriving:
            where.append((0, order.index("cross_attn.inside")))
        layer, step = min(where)
        if arriving or order[step] == "attn.inside":
            return (layer, order[step]), everything
        now = _mixings_before(layer, step)
        here = [found[2] for found, at in zip(patches, where, strict=True) if _mixings_before(*at) == now]
        if any(patch.hook.endswith(("cross_attn.hook_k", "cross_attn.hook_v")) for patch in here):
            return (layer, order[step]), everything
        return (layer, order[step]), np.unique(np.concatenate([patch.positions for patch in here]))

    def _sort_edits(self, own: dict[int, list[tuple[int, str, Patch]]], steps: Steps) -> None:
        grouped: dict[Where, dict[tuple[int, str, bool], list[tuple[int, Patch]]]] = {}
        for row, patches in own.items():
            turns: dict[Where, tuple[int, str, bool]] = {}
            for layer, leaf, patch in patches:
                if leaf in INSIDE and leaf not in ("attn.hook_q", "attn.hook_k", "attn.hook_v"):
                    module = leaf.partition(".")[0]
                    steps.special.setdefault((layer, module), {}).setdefault(row, []).append(patch)
                    continue
                # Where edits of a row overlap, the later one holds: it gets a later turn, in an assignment of its own.
                kind = (patch.source, patch.head is not None)
                turn, *before = turns.get((layer, leaf), (0, *kind))
                turns[layer, leaf] = key = (turn + (tuple(before) != kind), *kind)
                grouped.setdefault((layer, leaf), {}).setdefault(key, []).append((row, patch))
        for where, kinds in grouped.items():
            by_turn = sorted(kinds, key=lambda kind: kind[0])
            steps.edits[where] = [_edits(source, kinds[turn, source, by_head]) for turn, source, by_head in by_turn]


def _mixings_before(layer: int, step: int) -> int:
    """How many self-attentions come before a step: a block's first steps belong to the block before."""
    return max(layer, 0) + (step >= PRE_NORM.index("attn.inside"))


def _edits(source: str, found: Sequence[tuple[int, Patch]]) -> Edits:
    lines = _lines([(row, patch.positions) for row, patch in found])
    heads = [patch.head for _, patch in found if patch.head is not None]
    times = [len(patch.positions) for _, patch in found]
    given = torch.cat([patch.value for _, patch in found if patch.value is not None]) if source == GIVEN else None
    return Edits(source, lines.rows, lines.positions, np.repeat(_index(heads), times) if heads else None, given)


def _lines(found: Sequence[tuple[int, Index]]) -> Joins:
    rows = np.repeat(_index([row for row, _ in found]), [len(positions) for _, positions in found])
    return Joins(rows, np.concatenate([positions for _, positions in found]))


def _index(numbers: Sequence[int]) -> Index:
    return np.asarray(numbers, dtype=np.int64)
