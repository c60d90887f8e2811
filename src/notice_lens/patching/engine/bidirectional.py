"""The engine of stacks whose positions see each other both ways: rows grow in the wave (see `wave.py`).

Rows are sorted by where they join the wave and sent through it some at a time: as many as the memory plan allows, half
as many whenever the device runs out of memory all the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.measure import Measured, PairVariant
from notice_lens.patching.engine.memory import budget, bytes_per_pair, bytes_per_row, free, log, rows_that_fit
from notice_lens.patching.engine.pair_batch import Batch, Context, Recording, References, Setting
from notice_lens.patching.engine.path_walk import StepPaths, received, walk_hooks
from notice_lens.patching.engine.plan import HookEdit, Plan
from notice_lens.patching.engine.protocol import Chunks, GradientSource
from notice_lens.patching.engine.read_out import combined
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Trace, attn_results, trace
from notice_lens.patching.engine.wave import Wave

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.patching.gradient.targets import Target
    from notice_lens.patching.grid import Grid
    from notice_lens.patching.prepare import Prepared

PAIRS_RECORDED_AT_ONCE = 64
"""Pairs that are recorded together, at most."""


class BidirectionalEngine:
    """Runs pairs and measures rows; an `Engine`.

    Args:
        prepared: The pairs.
        grid: The grid of edits to measure.
        donors: Whether rows take values from mismatched donors.
    """

    def __init__(self, prepared: "Prepared", grid: "Grid", donors: bool) -> None:
        self.prepared, self.grid, self.donors = prepared, grid, donors
        self.model = cast("HookedBLIP", prepared.model)

    @cached_property
    def recording(self) -> Recording:
        """The hook points that are recorded of each run."""
        grid, stacks = self.grid, self.model.cfg.stacks
        edited = {HookName.parse(hook).stack for hook in grid.recorded}
        # Variants pass through all stacks from the first that is edited on.
        streams = stacks[min(stacks.index(stack) for stack in edited if stack) :]
        of_base = []
        if receivers := grid.receivers:
            of_base = walk_hooks(self.model, receivers)
        donors = self.donors or "donor" in grid.hooks
        return Recording(grid.recorded, set(grid.hooks), streams, of_base, donors=donors)

    @staticmethod
    def together() -> int:
        """Return how many pairs are recorded in one forward pass where no memory plan says it."""
        return 16

    @staticmethod
    def hooked_run(model: Any, inputs: Any, hooks: Sequence[str], before: Trace | None = None) -> Trace:
        """Return a run with its activations at some hook points; with `before`, the last stack alone runs anew."""
        with attn_results(model, hooks):
            return trace(model, inputs, hooks, upstream=before)

    @staticmethod
    def paths(model: Any) -> StepPaths:
        """Return which parts of a model send and receive."""
        return StepPaths(model)

    @staticmethod
    def gradients(prepared: "Prepared", targets: "Sequence[Target]", steps: int, path: str) -> GradientSource:
        """Return the gradients of an attribution."""
        from notice_lens.patching.gradient.blockwise import BlockwiseGradients

        return BlockwiseGradients(prepared, targets, steps, path)

    @staticmethod
    def stream_reader(model: Any) -> Any:
        """Raise ValueError: the text stacks are post-norm, so that there is no stream to read."""
        raise ValueError(
            f"{type(model).__name__} has no stream that a logit lens could read: every block of its text stacks ends "
            "with a LayerNorm, which rescales all that earlier blocks wrote, and only the last block's output is in "
            "the basis of the unembedding. On models whose blocks add to one stream (any HookedVLM) it runs; here, "
            "patch_modules tells by intervention in which layers the answer is formed"
        )

    def plan(self) -> Chunks:
        """Return how many variants and how many pairs fit into the budget at a time."""
        model, lengths, options = self.model, self.prepared.lengths, self.prepared.options
        passed = {stack: lengths[stack] for stack in self.recording.streams}
        rows = rows_that_fit(model, options.memory, bytes_per_row(model, passed, model.cfg.d_read_out))
        # Recorded runs stay while all variants of their pairs go through: as many pairs as their variants fill chunks,
        # and no more than fit beside them.
        rows_of_pair = max(1, len(self.grid.variants) * (1 + self.donors))
        pair = bytes_per_pair(model, lengths, self.recording.hooks, 2 + self.recording.donors)
        limit = free(model) if options.memory is None else budget(model, options.memory)
        return Chunks(rows, int(np.clip(min(rows // rows_of_pair, limit // pair), 1, PAIRS_RECORDED_AT_ONCE)))

    def runs(self, pairs: list[int], setting: Setting, references: References | None) -> list[Context]:
        """Return the recorded runs of some pairs: once for each teacher-forced answer, or just once."""
        foils = [self.prepared.foils[number] for number in pairs]
        batch = Batch(self.model, self.prepared.pairs.select(pairs), foils, setting, self.recording)
        return list(batch.runs(references))

    def measure(self, runs: Sequence[Context], rows: Iterable[PairVariant], fit: int) -> Iterator[Measured]:
        """Send rows through the model, as many at a time as fit.

        Args:
            runs: Of a batch, one for each answer that is teacher-forced.
            rows: What to measure.
            fit: How many rows to send at a time, at most; halved where the device runs out of memory.
        """
        # Rows that join early are computed for long: those of one layer together, so that a chunk starts as late as it
        # can.
        waiting = sorted(rows, key=lambda row: (*row.start, row.pair))
        while waiting:
            chunk = waiting[:fit]
            try:
                yield _send(runs, chunk)
            except torch.OutOfMemoryError:
                if len(chunk) == 1:
                    raise
                fit = max(1, len(chunk) // 2)
                torch.cuda.empty_cache()
                log.warning("out of memory with %d variants at a time; going on with %d", len(chunk), fit)
                continue
            waiting = waiting[len(chunk) :]


def _send(contexts: Sequence[Context], rows: list[PairVariant]) -> Measured:
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


def _edits(context: Context, rows: Sequence[PairVariant], number: int) -> list[list[HookEdit[Index]]]:
    """Return the edits of each row; of paths what their receivers take in, which is computed here."""
    edits = [row.edits[number] for row in rows]
    ends = {at: row.variant.receiver for at, row in enumerate(rows) if row.variant.receiver is not None}
    if ends:
        senders = [edits[at] for at in ends]
        taken = received(context.run, [rows[at].pair for at in ends], senders, list(ends.values()))
        for at, edit in zip(ends, taken, strict=True):
            edits[at] = [edit]
    return edits
