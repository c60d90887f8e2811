"""From the variants of a grid to numbers: rows for the wave, chunks that fit, and the metrics of each row.

A *variant* is the edits of one patched run, its positions given by label. For each pair it becomes a *row* of the wave
(none where the pair lacks the label):

1. once with the values of the other run (`matched`),
2. once with those of the mismatched donor, where that control is on (`mismatched`),
3. once for each set of hook points with the base run's own values (`self`): whatever that changes is floating-point
   noise.

Rows are sorted by where they join the wave and sent through it some at a time: as many as the memory plan allows, half
as many whenever the device runs out of memory all the same.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool

from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.pair_batch import Context, combined
from notice_lens.patching.engine.path_walk import Receiver, received
from notice_lens.patching.engine.plan import END, HookEdit, Label, Plan
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.wave import Wave
from notice_lens.patching.positions import Positions

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP


log = logging.getLogger("notice_lens.patching")
SHARE_OF_FREE = 0.25
MOST_ON_CPU = 512 * 2**20
"""More at once is slower on a CPU: what one step writes is no longer in its cache when the next one reads it."""
MATCHED, MISMATCHED, SELF = "matched", "mismatched", "self"
Arrays = dict[str, np.ndarray]


# Memory


def budget(model: "HookedBLIP", memory: float | int | None = None) -> int:
    """Return how many bytes variants may take: those that the caller allows, or a share of what is free.

    Raises:
        ValueError: Less than a byte is allowed.
    """
    if memory is None:
        return int(free(model) * 2) if model.device.type == "cuda" else int(min(free(model), MOST_ON_CPU))
    if memory < 1:
        raise ValueError(f"memory={memory}: expected a number of bytes, 1 or more, or None")
    return int(memory)


def free(model: "HookedBLIP") -> float:
    """Return a share of the bytes that are free on the model's device."""
    if model.device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(model.device)[0]
    return SHARE_OF_FREE * psutil.virtual_memory().available


def bytes_per_row(model: "HookedBLIP", lengths: Mapping[str, int], logits: int) -> int:
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


def bytes_per_pair(model: "HookedBLIP", lengths: Mapping[str, int], hooks: Iterable[str], runs: int) -> int:
    """Return the bytes that the recorded runs of a pair take: edited hook points of every run, streams of the base run.

    Args:
        model: The model.
        lengths: The positions of each stack.
        hooks: Hook points that every run records.
        runs: How many runs there are.
    """
    streams = sum(model.stack(name).cfg.n_layers * lengths[name] * model.stack(name).cfg.d_model for name in lengths)
    return bytes_per_number(model) * (streams + runs * sum(numbers_at(model, lengths, hook) for hook in hooks))


def numbers_at(model: "HookedBLIP", lengths: Mapping[str, int], hook: str) -> int:
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


def bytes_per_number(model: "HookedBLIP") -> int:
    """Return the size of one of the model's numbers."""
    return torch.finfo(model.dtype).bits // 8


def rows_that_fit(model: "HookedBLIP", memory: float | int | None, row: int) -> int:
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


# Rows


class Variant(NamedTuple):
    """The edits of one patched run, for any pair.

    Attributes:
        at: The index of its numbers in the result, the pair left out.
        edits: The edits; of a path, those of its sender.
        receiver: The end of a path; None where the edits themselves are the patch.
    """

    at: tuple[int, ...]
    edits: tuple[HookEdit[Label], ...]
    receiver: Receiver | None = None


@dataclass(frozen=True)
class Row:
    """A variant of one pair.

    Attributes:
        pair: Its number in the batch.
        variant: The variant.
        role: `matched`, `mismatched` or `self`.
        edits: The edits at the pair's own positions, for each context.
        start: The stack and layer in which it joins the wave, as numbers to sort by.
    """

    pair: int
    variant: Variant
    role: str
    edits: tuple[list[HookEdit[Index]], ...]
    start: tuple[int, int]

    def control(self, role: str) -> "Row":
        """Return the same row with the sources of a control."""
        sources = {"other": "donor"} if role == MISMATCHED else {}
        edits = tuple(
            [edit.by(SELF if role == SELF else sources.get(edit.source, edit.source)) for edit in own]
            for own in self.edits
        )
        return Row(self.pair, self.variant, role, edits, self.start)


def rows_of(
    contexts: Sequence[Context],
    positions: Positions,
    pairs: Sequence[int],
    variants: Sequence[Variant],
    controls: Collection[str],
    available: Mapping[str, Bool[np.ndarray, " pair"]],
) -> Iterator[Row]:
    """Yield every row of a batch: each variant of each pair that has its labels, with its controls.

    Args:
        contexts: The runs of the batch.
        positions: Of all pairs.
        pairs: The numbers of the batch's pairs.
        variants: What to measure.
        controls: Of `self` and `mismatched`.
        available: For sources that some pairs lack, which of all pairs have them.
    """
    stacks = contexts[0].run.model.cfg.stacks
    # What is the same for all pairs is worked out once: a sweep has a thousand rows for each pair.
    prepared = [
        (
            one,
            {edit.source for edit in one.edits},
            (*(edit.hook for edit in one.edits), one.receiver),
            _start(one, stacks),
        )
        for one in variants
    ]
    for pair, number in enumerate(pairs):
        lookups = [_Lookup(context, positions, pair, number) for context in contexts]
        without = {source for source, having in available.items() if not having[number]}
        tested: set[Any] = set()
        for variant, sources, hooks, start in prepared:
            if not without.isdisjoint(sources):
                continue
            edits = tuple([lookup.placed(edit) for edit in variant.edits] for lookup in lookups)
            if any(None in own for own in edits):
                continue
            row = Row(pair, variant, MATCHED, edits, start)  # pyright: ignore[reportArgumentType]
            yield row
            if MISMATCHED in controls and "donor" not in without and "other" in sources:
                yield row.control(MISMATCHED)
            if SELF in controls and hooks not in tested:
                tested.add(hooks)
                yield row.control(SELF)


class _Lookup:
    """The positions that labels mean in one pair; each is looked up once, whatever the layer and head."""

    def __init__(self, context: Context, positions: Positions, pair: int, number: int) -> None:
        self.context, self.positions, self.pair, self.number = context, positions, pair, number
        self.known: dict[Label, Index] = {}

    def placed(self, edit: HookEdit[Label]) -> HookEdit[Index] | None:
        """Return an edit at the pair's own positions; None where the pair lacks a label."""
        positions = self._at(edit.positions)
        keys = None if edit.keys is None else self._at(edit.keys)
        if not len(positions) or (keys is not None and not len(keys)):
            return None
        return HookEdit(edit.hook, positions, edit.source, edit.head, keys)

    def _at(self, label: Label) -> Index:
        if label not in self.known:
            length = self.context.real_length(label.axis, self.pair)
            self.known[label] = self.positions.of(self.number, label.name, label.axis, length)
        return self.known[label]


def _start(variant: Variant, stacks: Sequence[str]) -> tuple[int, int]:
    """Return the stack and layer in which a variant joins the wave."""
    receiver = variant.receiver
    names = [
        HookName.parse(hook)
        for hook in ([edit.hook for edit in variant.edits] if receiver is None else [receiver.hook])
    ]
    outside = END if receiver is not None else -1
    return min((stacks.index(name.stack or stacks[0]), outside if name.layer is None else name.layer) for name in names)


# Through the wave


class Measured(NamedTuple):
    """The read-outs of rows, and of the base row of each in the same call.

    Attributes:
        rows: The rows.
        patched: Of the rows.
        base: Of their base rows.
    """

    rows: list[Row]
    patched: ReadOut
    base: ReadOut

    def numbers(self) -> Arrays:
        """Return the metrics of each row, by name. [row]."""
        patched, base = self.patched, self.base
        values = {
            "answer_prob": patched.answer_prob,
            "prob_change": patched.answer_prob - base.answer_prob,
            "logit_diff_change": patched.logit_diff - base.logit_diff,
            "kl": patched.kl,
            "accuracy": patched.accuracy,
            **patched.custom,
        }
        return {name: value.cpu().numpy() for name, value in values.items()}


def measure(contexts: Sequence[Context], rows: Iterable[Row], fit: int) -> Iterator[Measured]:
    """Send rows through the model, as many at a time as fit.

    Args:
        contexts: The runs of a batch, one for each answer that is teacher-forced.
        rows: What to measure.
        fit: How many rows to send at a time, at most; halved where the device runs out of memory.
    """
    # Rows that join early are computed for long: those of one layer together, so that a chunk starts as late as it can.
    waiting = sorted(rows, key=lambda row: (*row.start, row.pair))
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


def _send(contexts: Sequence[Context], rows: list[Row]) -> Measured:
    n_pairs = len(contexts[0].batch.pairs)
    pairs = [row.pair for row in rows]
    read_outs, states = [], None
    for number, context in enumerate(contexts):
        plan = Plan(context.run.shapes, pairs, _edits(context, rows, number), n_pairs)
        wave = Wave(context.run, plan)
        # Stacks before the last one run once: they do not see which answer is teacher-forced.
        states = wave.encode() if number == 0 else states
        read_outs.append(context.read_out(wave.read_out(states), plan.pair_of))
    everyone = combined(read_outs)
    base = torch.tensor(pairs, device=everyone.logit_diff.device)
    return Measured(rows, everyone.take(slice(n_pairs, None)), everyone.take(base))


def _edits(context: Context, rows: Sequence[Row], number: int) -> list[list[HookEdit[Index]]]:
    """Return the edits of each row; of paths what their receivers take in, which is computed here."""
    edits = [row.edits[number] for row in rows]
    ends = {at: row.variant.receiver for at, row in enumerate(rows) if row.variant.receiver is not None}
    if ends:
        senders = [edits[at] for at in ends]
        taken = received(context.run, [rows[at].pair for at in ends], senders, list(ends.values()))
        for at, edit in zip(ends, taken, strict=True):
            edits[at] = [edit]
    return edits


def baselines(contexts: Sequence[Context]) -> Arrays:
    """Return the metrics of a batch's unpatched runs, `logit_diff_clean` and so on. [pair]; NaN without a donor."""
    everyone = np.arange(len(contexts[0].batch.pairs))
    arrays = {}
    for run in contexts[0].unpatched:
        read_out = combined([context.read_logits(context.unpatched[run].logits, everyone) for context in contexts])
        for name in ("logit_diff", "answer_prob", "accuracy"):
            values = getattr(read_out, name).cpu().numpy()
            arrays[f"{name}_{run}"] = (
                np.where(contexts[0].batch.has_donor, values, np.nan) if run == "donor" else values
            )
    return arrays
