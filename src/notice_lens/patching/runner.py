"""The runner of a sweep: batches of pairs, their rows, and one labelled result.

1. Cut the sweep up by a memory plan: how many variants go through the model at a time, and how many pairs' runs are
   recorded together. A store that is resumed has its own plan.
2. For each batch of pairs, let the model's engine record their runs and measure the rows of all variants, once for each
   draw of the noise (`engine.protocol`, `engine.measure`).
3. Write the numbers of the batch, labelled. When all are there, add what follows from them.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from notice_lens.patching.engine.measure import MATCHED, MISMATCHED, SELF, baselines, rows_of
from notice_lens.patching.engine.memory import Arrays, by_halves
from notice_lens.patching.engine.pair_batch import Setting
from notice_lens.patching.engine.protocol import engine_of
from notice_lens.patching.grid import Grid
from notice_lens.patching.prepare import Prepared
from notice_lens.patching.writer import ResultWriter, averaged, with_effects
from notice_lens.progress import bar

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.patching.reference_values import ReferenceValues


class SweepRunner:
    """Measures every variant of a grid on every pair.

    Args:
        prepared: The pairs.
        grid: The variants.
        patched: The patched sites by name, in plain values.
    """

    def __init__(self, prepared: Prepared, grid: Grid, patched: Mapping[str, Any]) -> None:
        self.prepared, self.grid, options = prepared, grid, prepared.options
        self.references = None if grid.hooks.keys().isdisjoint(("mean", "resample")) else _references(prepared, grid)
        resamples = None if self.references is None else self.references.resamples
        columns = {} if resamples is None else {"resampled_from": resamples.names}
        self.writer = ResultWriter(prepared, grid, patched, options.store, columns)
        self.engine = engine_of(prepared.model)(prepared, grid, self.writer.mismatched)
        self.chunks = self.engine.plan()

    @torch.no_grad()
    def run(self) -> "xr.Dataset":
        """Run the sweep and return its result."""
        prepared, writer, size = self.prepared, self.writer, len(self.grid.variants)
        if writer.is_parted:
            return writer.gathered()
        shown = bar(prepared.options.progress, "patching", total=len(prepared.own) * size, unit="patches")
        with shown, writer.opened(self.chunks) as (results, self.chunks):
            for batch in prepared.batches(self.chunks.pairs):
                if not results.is_done(batch).all():
                    draws = [self.compute_batch(batch, setting) for setting in prepared.settings]
                    results.write(batch, writer.labelled(batch, averaged(draws)))
                shown.update(len(batch) * size)
            return with_effects(results.load())

    def reserve(self) -> None:
        """Make the store, or check that the one that is there can be resumed; nothing is patched yet.

        Raises:
            ValueError: The store is damaged, or of another sweep.
            OSError: Something else is there, or nothing can be written there.
            RuntimeError: Somebody else is writing to it.
        """
        if self.writer.is_parted:
            self.writer.gathered()
            return
        with self.writer.opened(self.chunks):
            pass

    def compute_batch(self, pairs: list[int], setting: Setting) -> Arrays:
        """Return the numbers of some pairs; of half of them at a time where their runs do not fit into memory."""
        return by_halves(lambda some: self._measured(some, setting), pairs)

    def _measured(self, pairs: list[int], setting: Setting) -> Arrays:
        prepared, controls, engine = self.prepared, self.prepared.options.controls, self.engine
        runs = engine.runs(pairs, setting, None if self.references is None else self.references.of(pairs))
        arrays = self.writer.empty(len(pairs))
        arrays |= {name: values for name, values in baselines(runs).items() if name in arrays}
        stacks = prepared.model.cfg.stacks
        rows = rows_of(runs, stacks, prepared.positions, pairs, self.grid.variants, controls, self._available)
        for measured in engine.measure(runs, rows, self.chunks.rows):
            self._enter(arrays, measured.rows, measured.numbers())
        return arrays

    @cached_property
    def _available(self) -> dict[str, np.ndarray]:
        """The pairs that have each source, for sources that some pairs lack."""
        available = {"donor": self.prepared.has_donor}
        if self.references is not None and self.references.resamples is not None:
            available["resample"] = np.array([number is not None for number in self.references.resamples.numbers])
        return available

    def _enter(self, arrays: Arrays, rows: "list[Any]", numbers: Arrays) -> None:
        """Write the numbers of some rows into the arrays of their batch."""
        for number, row in enumerate(rows):
            if row.role == SELF:
                change = abs(numbers["logit_diff_change"][number])
                arrays["noise_floor"][row.pair] = np.fmax(arrays["noise_floor"][row.pair], change)
        for role, ending in ((MATCHED, ""), (MISMATCHED, "_mismatched")):
            own = [number for number, row in enumerate(rows) if row.role == role]
            if own:
                index = tuple(np.array([(rows[number].pair, *rows[number].variant.at) for number in own]).T)
                for name in self.writer.metrics:
                    arrays[name + ending][index] = numbers[name][own]


def _references(prepared: Prepared, grid: Grid) -> "ReferenceValues":
    from notice_lens.patching.reference_values import ReferenceValues

    return ReferenceValues(prepared, grid.hooks)
