"""From cells of a sweep to numbers: rows for the wave, chunks that fit, and what each row says.

A *cell* is one entry of a result: edits of a layer, a head, positions by label. For each pair it becomes a row of the
wave (none where the pair lacks the label), once with the other run as its source, once with the mismatched donor, and
beside them rows that patch the base run into itself: whatever these change is noise of the arithmetic.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import torch

from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.metrics import Said
from notice_lens.patching.engine.pair_batch import Context, contrasted
from notice_lens.patching.engine.plan import END, Patch, Plan
from notice_lens.patching.engine.wave import Wave
from notice_lens.patching.paths import Receiver, received
from notice_lens.patching.positions import Places

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP


log = logging.getLogger("notice_lens.patching")
SHARE_OF_FREE = 0.25
MOST_ON_CPU = 512 * 2**20
"""More at once is slower on a CPU: what one step writes is no longer in its cache when the next one reads it."""


def budget(model: "HookedBLIP", asked: int | None = None) -> int:
    """Bytes that a wave may take: what was asked for, or a share of what is free.

    Raises:
        ValueError: Less than a byte was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise ValueError(f"memory={asked}: expected a number of bytes, 1 or more, or None")
        return int(asked)
    if model.device.type == "cuda":
        return int(SHARE_OF_FREE * 2 * torch.cuda.mem_get_info(model.device)[0])
    return int(min(SHARE_OF_FREE * psutil.virtual_memory().available, MOST_ON_CPU))


def bytes_per_row(model: "HookedBLIP", stacks: Mapping[str, int], logits: int) -> int:
    """What a variant takes at the widest place of its way.

    At the MLP that is the stream, what it was normalised to, and twice the neurons; in attention the stream, queries,
    keys, values, z, and copies of them when rows spread. The states that a variant hands on to the next stack stay
    with it.

    Args:
        model: The model.
        stacks: The stacks that a variant passes through, with their positions.
        logits: How many logits are read from a variant at a time.
    """
    size = torch.finfo(model.dtype).bits // 8
    widest, carried = 0, 0
    for stack, positions in stacks.items():
        cfg = model.stack(stack).cfg
        widest = max(widest, positions * (2 * cfg.d_mlp + 9 * cfg.d_model))
        carried += positions * cfg.d_model
    return size * (widest + carried) + 3 * 4 * logits


def rows_that_fit(model: "HookedBLIP", asked: int | None, row: int) -> int:
    """How many rows of so many bytes fit into the budget, one at least; it is logged."""
    limit = budget(model, asked)
    fit = max(1, limit // row)
    log.info("a variant takes about %.1f MB; %.2f GB hold %d at a time", row / 2**20, limit / 2**30, fit)
    return fit


log = logging.getLogger("notice_lens.patching")
MATCHED, MISMATCHED, SELF = "matched", "mismatched", "self"


class CellEdit(NamedTuple):
    """One edit of a cell, positions by label.

    Attributes:
        hook: The hook point.
        head: The head, or None.
        label: A role, region or position; None for all.
        axis: What the positions are.
        key_label: The same for keys of scores and patterns.
        key_axis: What the keys are; None where there are none.
        source: `other`, `zero`, `mean` or `donor`.
    """

    hook: str
    head: int | None
    label: Any
    axis: str
    key_label: Any = None
    key_axis: str | None = None
    source: str = "other"


class Cell(NamedTuple):
    """One entry of a result.

    Attributes:
        place: Where in the result, the pair left out.
        edits: What is edited; of a path, what its sender has.
        receiver: Where a path ends; None where the edits themselves are the patch.
    """

    place: tuple[int, ...]
    edits: tuple[CellEdit, ...]
    receiver: Receiver | None = None


@dataclass(frozen=True)
class Row:
    """One variant of one pair: a cell with one source.

    Attributes:
        pair: Of the batch.
        cell: The cell.
        role: `matched`, `mismatched` or `self`.
        patches: What is patched, for each thing that the decoder is made to say.
    """

    pair: int
    cell: Cell
    role: str
    patches: tuple[list[Patch], ...]

    @classmethod
    def of(cls, contexts: Sequence[Context], places: Places, number: int, pair: int, cell: Cell) -> "Row | None":
        """The row of a cell with its own sources; None where the pair lacks a label.

        Args:
            contexts: The runs.
            places: Of all pairs.
            number: The pair among all.
            pair: The pair in its batch.
            cell: The cell.
        """
        found = []
        for context in contexts:
            patches = [_patch(context, places, number, pair, edit) for edit in cell.edits]
            found.append([patch for patch in patches if patch is not None])
            if len(found[-1]) < len(patches):
                return None
        return cls(pair, cell, MATCHED, tuple(found))

    def control(self, role: str) -> "Row":
        """The same row with the sources of a control."""

        def source(own: str) -> str:
            return "self" if role == SELF else "donor" if own == "other" else own

        patches = [[patch._replace(source=source(patch.source)) for patch in several] for several in self.patches]
        return Row(self.pair, self.cell, role, tuple(patches))


def _patch(context: Context, places: Places, number: int, pair: int, edit: CellEdit) -> Patch | None:
    positions = places.of(number, edit.label, edit.axis, context.real_length(edit.axis, pair))
    keys = None
    if edit.key_axis is not None:
        keys = places.of(number, edit.key_label, edit.key_axis, context.real_length(edit.key_axis, pair))
    if not len(positions) or (keys is not None and not len(keys)):
        return None
    return Patch(edit.hook, positions, edit.source, edit.head, keys)


class Measured(NamedTuple):
    """What rows say, and what the base row of each says in the same call.

    Attributes:
        rows: The rows.
        said: Of the rows.
        base: Of their base rows.
    """

    rows: list[Row]
    said: Said
    base: Said


def measure(contexts: Sequence[Context], rows: Sequence[Row], fit: int) -> Iterator[Measured]:
    """Sends rows through the model, as many at a time as fit.

    Args:
        contexts: The runs of a batch, for each thing that the decoder is made to say.
        rows: What to measure.
        fit: How many rows to send at a time, at most; halved where the device runs out of memory.
    """
    # Rows that join early are aboard for long: those of one layer together, so that a chunk starts as late as it can.
    stacks = contexts[0].run.model.cfg.stacks
    waiting = sorted(rows, key=lambda row: (*_depth(row, stacks), row.pair))
    while waiting:
        chunk = waiting[:fit]
        try:
            yield _send(contexts, chunk)
        except torch.OutOfMemoryError:
            if len(chunk) == 1:
                raise
            fit = max(1, len(chunk) // 2)
            torch.cuda.empty_cache()
            log.warning("out of memory with %d variants at a time; going on with %d", len(chunk), fit)
            continue
        waiting = waiting[len(chunk) :]


def _depth(row: Row, stacks: Sequence[str]) -> tuple[int, int]:
    """The stack and layer in which a row joins."""
    receiver = row.cell.receiver
    hooks = [edit.hook for edit in row.cell.edits] if receiver is None else [receiver.hook]
    names = [HookName.parse(hook) for hook in hooks]
    outside = END if receiver is not None else -1
    return min((stacks.index(name.stack or stacks[0]), outside if name.layer is None else name.layer) for name in names)


def _patches(context: Context, rows: Sequence[Row], number: int) -> list[list[Patch]]:
    """What is patched in each row; of paths what their receivers take, which is computed here."""
    patches = [row.patches[number] for row in rows]
    ends = {place: row.cell.receiver for place, row in enumerate(rows) if row.cell.receiver is not None}
    if ends:
        senders = [patches[place] for place in ends]
        taken = received(context.run, [rows[place].pair for place in ends], senders, list(ends.values()))
        for place, patch in zip(ends, taken, strict=True):
            patches[place] = [patch]
    return patches


def _send(contexts: Sequence[Context], rows: list[Row]) -> Measured:
    n_pairs = contexts[0].run.base.inputs.pixel_values.shape[0]
    said, own = [], None
    for number, context in enumerate(contexts):
        patches = _patches(context, rows, number)
        plan = Plan(context.run.shapes, [row.pair for row in rows], patches, n_pairs)
        wave = Wave(context.run, plan)
        own = wave.encode() if number == 0 else own
        said.append(context.say(wave.read_out(own), plan.pair_of))
    everyone = contrasted(said)
    pairs = torch.tensor([row.pair for row in rows], device=everyone.logit_diff.device)
    return Measured(rows, everyone.take(slice(n_pairs, None)), everyone.take(pairs))


def numbers(measured: Measured) -> dict[str, np.ndarray]:
    """The metrics of each row, by name."""
    said, base = measured.said, measured.base
    found = {
        "answer_prob": said.answer_prob,
        "prob_change": said.answer_prob - base.answer_prob,
        "logit_diff_change": said.logit_diff - base.logit_diff,
        "kl": said.kl,
        "accuracy": said.accuracy,
        **said.custom,
    }
    return {name: value.cpu().numpy() for name, value in found.items()}
