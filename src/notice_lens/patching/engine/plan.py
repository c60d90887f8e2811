"""The plan of edits: rows and their edits in the order in which the wave reaches them.

A row is one variant of one pair, with everything looked up: hook points, heads, positions, sources. The wave goes
through the model once, step by step, for all rows. So it needs the edits the other way round: for each stack, layer and
step, which rows join and which are edited. That is a `Schedule`, and a `Plan` makes one for each stack:

1. Sort the edits of all rows by stack. A row that is edited in an earlier stack *arrives* in every later one.
2. A row joins at its first edit, with the positions that it may change before the next self-attention. There positions
   mix, and it gets all of them. An arriving row joins at the first cross-attention, where it reads its own states.
3. Edits at one step become a few indexed assignments, one for each source, instead of one for each row. Edits inside of
   attention (scores, patterns, keys and values of some heads) are kept apart: these heads are computed step by step.

Limit: the order of steps is that of the stack's blocks (`StackShape.steps`), and positions are those of a stack whose
self-attention is bidirectional: after it, everything may have changed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.blip.steps import OUTPUT, Attend, Steps, inside, inside_of, order
from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.rows import Index

END = 10_000
"""The layer of `OUTPUT`, after every block: a number that no layer has."""
VALUE_GIVEN = "given"
"""The source of an edit that carries its own value."""
Where = tuple[int, str]
"""Layer and step; the embedding is layer -1."""


class LabelledPositions(NamedTuple):
    """Positions by label, which mean others in each pair.

    Attributes:
        name: A role, a region, or an index; None for all positions.
        axis: The stack whose positions they are.
    """

    name: str | int | None
    axis: str


At = TypeVar("At", Index, LabelledPositions)


@dataclass(slots=True, eq=False)
class HookEdit(Generic[At]):
    """One edit of one hook point: from the grid, where its positions are labels, to the wave, where they are looked up.

    Where edits of one hook overlap in a row, the later one holds. An edit of scores or of a pattern never opens what is
    masked: padding, and what comes after a causal position, stay unseen whatever its source has there.

    Attributes:
        hook: The hook point, with its stack; `<stack>.output` is the stack's output.
        positions: Positions of the stream; keys for `hook_k` and `hook_v`, queries for scores and patterns.
        source: The run or the reference values that the new value comes from; `VALUE_GIVEN` where the edit brings it.
        head: The head; None for all heads, and for modules without heads.
        keys: Of scores and patterns, the keys; None for all, and elsewhere.
        value: What is put there, [position, ...], where the source is `VALUE_GIVEN`; not for scores and patterns.
    """

    hook: str
    positions: At
    source: str
    head: int | None = None
    keys: At | None = None
    value: Tensor | None = None

    def by(self, source: str) -> "HookEdit[At]":
        """Return the same edit with its value from another source."""
        return HookEdit(self.hook, self.positions, source, self.head, self.keys, self.value)


RowEdit = HookEdit[Index]
Placed = tuple[int, str, RowEdit]
"""An edit with its layer and step: the embedding is in layer -1, the output in layer `END`."""


class Assignment(NamedTuple):
    """Edits of one hook point from one source, as arrays for one indexed assignment; entry i of each is one line."""

    source: str
    rows: Index
    positions: Index
    heads: Index | None
    given: Tensor | None


class Joins(NamedTuple):
    """Rows that join, and with which positions: a line each."""

    rows: Index
    positions: Index


class StackShape(NamedTuple):
    """The shape of a stack, as far as a plan needs it.

    Attributes:
        steps: The steps of its blocks, in order.
        n_heads: Heads of its attention modules.
        length: How many positions it has in this run.
    """

    steps: Steps
    n_heads: int
    length: int


class HeadAssignment(NamedTuple):
    """Edits between the projections of an attention module and its z, as arrays for one indexed assignment.

    Attributes:
        leaf: `hook_k`, `hook_v`, `hook_attn_scores` or `hook_pattern`.
        source: The run that the new values come from, or `VALUE_GIVEN`.
        heads: Which of the edited heads, as numbers into `EditedHeads.rows`.
        positions: Keys of `hook_k` and `hook_v`, queries of scores and patterns; the same for all of these heads.
        keys: Of scores and patterns; None for all.
        given: What is put there where the source is `VALUE_GIVEN`, [head, position, d_head].
    """

    leaf: str
    source: str
    heads: Index
    positions: Index
    keys: Index | None
    given: Tensor | None


class EditedHeads(NamedTuple):
    """The heads of one attention module that have to be computed step by step, since something inside is edited.

    Attributes:
        rows: The row of each.
        heads: Its number.
        edits: In the order in which they are made.
    """

    rows: Index
    heads: Index
    edits: list[HeadAssignment]


@dataclass
class Schedule:
    """The joins and edits of one stack, by layer and step.

    Attributes:
        arriving: Rows that changed an earlier stack, in ascending order.
        active: Rows that are active at the end, in ascending order.
        first_layer: The first layer that any row joins in.
        joins: By layer and step.
        edits: By layer and step.
        inside: Edits of scores, patterns, and keys and values of cross-attention, by layer and module.
    """

    arriving: Index
    active: Index
    first_layer: int = 0
    joins: dict[Where, Joins] = field(default_factory=dict)
    edits: dict[Where, list[Assignment]] = field(default_factory=dict)
    inside: dict[tuple[int, str], EditedHeads] = field(default_factory=dict)


class Plan:
    """The edits of all rows.

    Args:
        stacks: Of the model, in their order.
        pairs: The pair of each variant's row.
        edits: The edits of each.
        n_pairs: How many pairs there are; their base rows come first.
    """

    def __init__(
        self,
        stacks: Mapping[str, StackShape],
        pairs: Sequence[int],
        edits: Sequence[Sequence[RowEdit]],
        n_pairs: int,
    ) -> None:
        self.stacks, self.n_pairs = dict(stacks), n_pairs
        self.pair_of: Index = np.concatenate([np.arange(n_pairs), np.asarray(pairs, dtype=np.int64)])
        self.edits = {n_pairs + row: list(found) for row, found in enumerate(edits)}

    @cached_property
    def _by_stack(self) -> dict[str, dict[int, list[Placed]]]:
        """The edits of each row with their layer and step, by stack."""
        found: dict[str, dict[int, list[Placed]]] = {stack: {} for stack in self.stacks}
        for row, edits in self.edits.items():
            for edit in edits:
                name = HookName.parse(edit.hook)
                assert name.stack is not None, "sites are checked"
                outside = END if name.leaf == OUTPUT else -1
                place = (outside if name.layer is None else name.layer, name.leaf, edit)
                found[name.stack].setdefault(row, []).append(place)
        return found

    def schedule(self, stack: str) -> Schedule:
        """Return the joins and edits of a stack."""
        names = list(self.stacks)
        arriving = {row for earlier in names[: names.index(stack)] for row in self._by_stack[earlier]}
        own = self._by_stack[stack]
        schedule = Schedule(_index(sorted(arriving)), _index(sorted({*arriving, *own})))
        line = _Order(self.stacks[stack])
        joins: dict[Where, list[tuple[int, Index]]] = {}
        for row in schedule.active.tolist():
            where, positions = line.join(own.get(row, []), row in arriving)
            joins.setdefault(where, []).append((row, positions))
        schedule.joins = {where: _lines(found) for where, found in joins.items()}
        schedule.first_layer = max(0, min((layer for layer, _ in joins), default=0))
        self._sort_edits(own, schedule, line)
        return schedule

    @staticmethod
    def _sort_edits(own: Mapping[int, list[Placed]], schedule: Schedule, line: "_Order") -> None:
        """Group the edits of one place into indexed assignments: inside of attention, and everywhere else."""
        inside: dict[tuple[int, str], list[tuple[int, RowEdit]]] = {}
        elsewhere: dict[Where, list[tuple[int, RowEdit]]] = {}
        for row, edits in own.items():
            for layer, leaf, edit in edits:
                if line.is_inside(leaf):
                    inside.setdefault((layer, leaf.partition(".")[0]), []).append((row, edit))
                else:
                    elsewhere.setdefault((layer, leaf), []).append((row, edit))
        for where, found in elsewhere.items():
            turns = _in_turns(found, lambda edit: (edit.source, edit.head is not None))
            schedule.edits[where] = [_assignment(kind[0], several) for kind, several in turns]
        for where, found in inside.items():
            schedule.inside[where] = _edited_heads(found, line.n_heads)


class _Order:
    """The order of a stack's steps, which decides where rows join.

    Args:
        stack: Its shape.
    """

    def __init__(self, stack: StackShape) -> None:
        steps, self.n_heads, length = stack
        self.points, self.inside, self.everything = order(steps), inside_of(steps), np.arange(length)
        attends = [step for step in steps if isinstance(step, Attend)]
        self.mixing = [self.points.index(inside(step.module)) for step in attends if not step.crosses]
        self.crossing = {step.module: self.points.index(inside(step.module)) for step in attends if step.crosses}

    def is_inside(self, leaf: str) -> bool:
        """Return whether an edit there needs its head computed step by step.

        Queries, keys and values of self-attention do not: rows have all positions there, and edits go into the tensor.
        """
        mixes = self.points.index(self.inside[leaf]) in self.mixing if leaf in self.inside else False
        return leaf in self.inside and not (mixes and leaf.endswith(("hook_q", "hook_k", "hook_v")))

    def join(self, edits: list[Placed], arriving: bool) -> tuple[Where, Index]:
        """Return where a row joins, and with which positions: all that it may change before the next self-attention."""
        where = [(layer, self.points.index(self.inside.get(leaf, leaf))) for layer, leaf, _ in edits]
        if arriving:
            where.append((0, min(self.crossing.values())))
        layer, step = min(where)
        # A row that arrives reads other states everywhere; inside of self-attention positions mix: all are needed.
        if arriving or step in self.mixing:
            return (layer, self.points[step]), self.everything
        now = self._mixings_before(layer, step)
        # Edits beyond the next self-attention come when the row has all positions: only those before it count.
        here = [found for found, at in zip(edits, where, strict=True) if self._mixings_before(*at) == now]
        # Their positions are those of the source: which of the row's own they change is not known, so all of them.
        if any(leaf in self.inside and leaf.endswith(("hook_k", "hook_v")) for _, leaf, _ in here):
            return (layer, self.points[step]), self.everything
        return (layer, self.points[step]), np.unique(np.concatenate([edit.positions for _, _, edit in here]))

    def _mixings_before(self, layer: int, step: int) -> int:
        """Return how many self-attentions come before a step: a block's first steps belong to the block before."""
        return max(layer, 0) * len(self.mixing) + sum(step >= at for at in self.mixing)


def _in_turns(
    found: Sequence[tuple[int, RowEdit]], kind_of: Callable[[RowEdit], Hashable]
) -> list[tuple[Any, list[tuple[int, RowEdit]]]]:
    """Group edits of one place by their kind, so that each group is one assignment.

    Where edits of a row overlap, the later one holds: when the kind changes within a row, what follows gets a later
    turn, in a separate assignment.
    """
    groups: dict[tuple[int, Any], list[tuple[int, RowEdit]]] = {}
    last: dict[int, tuple[int, Any]] = {}
    for row, edit in found:
        kind = kind_of(edit)
        turn, before = last.get(row, (0, kind))
        turn += before != kind
        last[row] = turn, kind
        groups.setdefault((turn, kind), []).append((row, edit))
    return [(kind, several) for (_, kind), several in sorted(groups.items(), key=lambda item: item[0][0])]


def _edited_heads(found: Sequence[tuple[int, RowEdit]], n_heads: int) -> EditedHeads:
    """Sort the edits inside of attention by head, and merge them into few assignments of many heads each."""
    number: dict[tuple[int, int], int] = {}

    def heads_of(row: int, edit: RowEdit) -> list[int]:
        heads = range(n_heads) if edit.head is None else (edit.head,)
        return [number.setdefault((row, head), len(number)) for head in heads]

    edits = []
    by_leaf: dict[str, list[tuple[int, RowEdit]]] = {}
    for row, edit in found:
        by_leaf.setdefault(edit.hook.rpartition(".")[2], []).append((row, edit))
    for leaf, own in by_leaf.items():
        for kind, several in _in_turns(own, _same_places):
            heads = _index([head for row, edit in several for head in heads_of(row, edit)])
            first = several[0][1]
            given = torch.cat([_value_by_head(edit) for _, edit in several]) if kind[0] == VALUE_GIVEN else None
            edits.append(HeadAssignment(leaf, first.source, heads, first.positions, first.keys, given))
    rows, heads = np.array(list(number), dtype=np.int64).reshape(-1, 2).T
    return EditedHeads(rows, heads, edits)


def _same_places(edit: RowEdit) -> tuple[Hashable, ...]:
    keys = None if edit.keys is None else edit.keys.tobytes()
    return edit.source, edit.head is None, edit.positions.tobytes(), keys


def _value_by_head(edit: RowEdit) -> Float[Tensor, "head position d_head"]:
    assert edit.value is not None, "the edit carries its value"
    return edit.value[None] if edit.head is not None else edit.value.transpose(0, 1)


def _assignment(source: str, found: Sequence[tuple[int, RowEdit]]) -> Assignment:
    lines = _lines([(row, edit.positions) for row, edit in found])
    heads = [edit.head for _, edit in found if edit.head is not None]
    times = [len(edit.positions) for _, edit in found]
    given = torch.cat([edit.value for _, edit in found if edit.value is not None]) if source == VALUE_GIVEN else None
    return Assignment(source, lines.rows, lines.positions, np.repeat(_index(heads), times) if heads else None, given)


def _lines(found: Sequence[tuple[int, Index]]) -> Joins:
    rows = np.repeat(_index([row for row, _ in found]), [len(positions) for _, positions in found])
    return Joins(rows, np.concatenate([positions for _, positions in found]))


def _index(numbers: Sequence[int]) -> Index:
    return np.asarray(numbers, dtype=np.int64)
