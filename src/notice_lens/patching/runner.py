"""Carries out a sweep: batches of pairs, their rows, and one labelled result."""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from notice_lens.models.hook_names import HookName
from notice_lens.pairs.noise import Noise
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.engine.measure import (
    MATCHED,
    MISMATCHED,
    SELF,
    Row,
    bytes_per_row,
    measure,
    numbers,
    rows_that_fit,
)
from notice_lens.patching.engine.metrics import BUILT_IN, check_metrics
from notice_lens.patching.engine.pair_batch import Batch, Context, Setting, contrasted, contrasts
from notice_lens.patching.grid import Grid
from notice_lens.patching.identity import metric_codes, model_settings
from notice_lens.patching.options import Options, check_pairs, refuse_hooks
from notice_lens.patching.paths import walk_hooks
from notice_lens.patching.positions import Places
from notice_lens.patching.provenance import (
    ACCURACIES,
    BASELINES,
    COLUMNS,
    DONORS,
    Arrays,
    InMemory,
    completed,
    provenance,
)
from notice_lens.patching.reference_values import Made

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.store.store import Store

MOST_PAIRS = 64
"""Pairs that are encoded together, at most."""


class Sweep:
    """One sweep over pairs.

    Args:
        model: The model.
        pairs: The pairs.
        options: Everything but what is patched.
        make_grid: The grid, from places and the length of the longest answer.
        described: What is patched, by name, in plain values.

    Raises:
        ValueError: There are hooks on the model, or pairs lack what the corruption needs.
    """

    def __init__(
        self,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        options: Options,
        make_grid: Callable[[Places, int], Grid],
        described: Mapping[str, Any],
    ) -> None:
        refuse_hooks(model)
        self.model, self.options = model, options
        self.names, self.custom = check_metrics(options.metrics)
        check_pairs(pairs, options)
        self.pairs = pairs.validate(model)
        self.places = Places(model, self.pairs)
        self.contrast = contrasts(model, self.pairs, options.corruption, options.contrast)
        self.grid = make_grid(self.places, self.answer_length)
        self.described = described
        self.mismatched = "mismatched" in options.controls
        self.with_donors = self.mismatched or "donor" in self.grid.sources
        metrics = [name for name in BUILT_IN if name in self._needed() and name != "patching_effect"]
        self.metrics = [*metrics, *self.custom]
        self.rows_at_a_time = self._fit(max(self.places.tokens))
        rows = max(1, len(self.grid.cells) * (1 + self.mismatched))
        self.pairs_at_a_time = int(np.clip(self.rows_at_a_time // rows, 1, MOST_PAIRS))

    def _needed(self) -> set[str]:
        needed = set(self.names)
        return needed | {"logit_diff_change"} if "patching_effect" in needed else needed

    @cached_property
    def answer_length(self) -> int:
        """Positions of the longest answer."""
        if self.model.cfg.kind == "match":
            return 1
        lengths = {
            len(pieces(self.model.tokenizer, answer)) for answer in {*self.pairs["correct_answer"], *self.contrast}
        }
        return 1 if lengths <= {1} and self.model.cfg.kind == "vqa" else max(lengths, default=0) + 1

    @torch.no_grad()
    def run(self) -> "xr.Dataset":
        """The result."""
        from tqdm.auto import tqdm

        size, quiet = len(self.grid.cells), not self.options.progress
        with (
            self.kept() as kept,
            tqdm(total=len(self.pairs) * size, desc="patching", unit=" patches", disable=quiet) as bar,
        ):
            for several in self.batches():
                if not kept.done[several].all():
                    arrays = [self._batch(several, setting) for setting in self.settings]
                    kept.write(several, self.labelled(several, self.averaged(arrays)))
                bar.update(len(several) * size)
            return self.completed(kept.load())

    def kept(self) -> "InMemory | Store":
        """Where results go: a store on disk, which goes on where it stopped, or memory."""
        from notice_lens.patching.store.store import Store

        template = self.labelled(list(range(len(self.pairs))), None)
        if self.options.store is None:
            return InMemory(template)
        store = Store.open(self.options.store, template, {**self.attrs(), **self._identity()})
        # The plan of a store that is gone on with: other batches would round otherwise.
        plan = store.attrs
        self.rows_at_a_time, self.pairs_at_a_time = int(plan["rows_at_a_time"]), int(plan["pairs_at_a_time"])
        return store

    def reserve(self) -> None:
        """Make the store, or check that the one that is there can be gone on with; nothing is patched yet.

        Raises:
            ValueError: The store is damaged, or of another sweep.
            OSError: Something else is there, or nothing can be written there.
            RuntimeError: Somebody else is writing to it.
        """
        with self.kept():
            pass

    def _identity(self) -> dict[str, Any]:
        """Return what decides the numbers beside `attrs`: settings of the model, and the code of the caller's metrics.

        Raises:
            ValueError: A store is there, and a metric cannot be told from another one.
        """
        codes, folder = metric_codes(self.custom, self.model), self.options.store
        if untold := [name for name, code in codes.items() if not code]:
            why = (
                f"metric {untold[0]!r} is or refers to something whose code or state cannot be read (compiled code, an "
                "open file, ...), so it cannot be told from another one"
            )
            if Path(folder).is_dir() and any(Path(folder).iterdir()):
                raise ValueError(f"{why}: {folder} is not gone on with; name another folder")
            warnings.warn(f"{why}: {folder} cannot be gone on with if this sweep is stopped", stacklevel=4)
        sites = {name: json.loads(json.dumps(value, default=str)) for name, value in self.described.items()}
        settings = {"model_settings": model_settings(self.model), "device": self.model.device.type}
        return {**sites, **settings, "metric_code": codes}

    @cached_property
    def settings(self) -> list[Setting]:
        """What is done: once, or once for each draw of the noise."""
        noise = self.options.corruption
        if not isinstance(noise, Noise):
            return [Setting(noise, self.options.direction, self.custom)]
        std = noise.std(self.model, self.pairs)
        return [Setting(noise, self.options.direction, self.custom, sample, std) for sample in range(noise.samples)]

    @cached_property
    def _made(self) -> Made:
        """Sources of edits that are no runs of their pair."""
        hooks = {source: self.grid.hooks_from(source) for source in ("mean", "resample")}
        return Made(self.model, self.pairs, self.places, hooks, self.options)

    def batches(self) -> Iterator[list[int]]:
        """Pairs that are run together: of one length of question, as many as their variants fit into the budget."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, length in enumerate(self.places.tokens):
            by_length[length].append(number)
        for several in by_length.values():
            for start in range(0, len(several), self.pairs_at_a_time):
                yield several[start : start + self.pairs_at_a_time]

    def streams(self) -> list[str]:
        """The stacks that variants pass through: from the first that is edited on."""
        edited = [HookName.parse(hook).stack for hook in self.grid.hooks]
        stacks = self.model.cfg.stacks
        return list(stacks[min(stacks.index(stack) for stack in edited if stack) :])

    def _fit(self, tokens: int) -> int:
        """How many variants fit into the budget."""
        answer = self.answer_length
        lengths = {"vision": self.places.patches, "text": tokens, "decoder": answer}
        if self.model.cfg.kind == "caption":
            lengths["decoder"] = tokens + answer
        passed = {stack: lengths[stack] for stack in self.streams()}
        d_vocab = 2 if self.model.cfg.kind == "match" else self.model.decoder.cfg.d_vocab or 0
        return rows_that_fit(self.model, self.options.memory, bytes_per_row(self.model, passed, d_vocab))

    def _batch(self, several: list[int], setting: Setting) -> Arrays:
        """The numbers of some pairs."""
        batch = Batch(
            self.model,
            self.pairs.select(several),
            [self.contrast[number] for number in several],
            setting,
            self.grid.recorded,
            self.streams(),
            walk_hooks(self.model, self.grid.receivers),
            self.with_donors,
        )
        contexts = list(batch.runs(self._made.of(several)))
        arrays = self.baselines(contexts)
        rows = list(self._rows(batch, contexts, several))
        for measured in measure(contexts, rows, self.rows_at_a_time):
            found = numbers(measured)
            for number, row in enumerate(measured.rows):
                if row.role == SELF:
                    change = abs(found["logit_diff_change"][number])
                    arrays["noise_floor"][row.pair] = np.fmax(arrays["noise_floor"][row.pair], change)
                    continue
                behind = "" if row.role == MATCHED else "_mismatched"
                for name in self.metrics:
                    arrays[name + behind][(row.pair, *row.cell.place)] = found[name][number]
        return arrays

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every array of a result, the pair left out."""
        behind = ["", "_mismatched"] if self.mismatched else [""]
        shapes = {name + ending: self.grid.shape for name in self.metrics for ending in behind}
        donors = DONORS if self.mismatched else ()
        accuracies = ACCURACIES if "accuracy" in self.names else ()
        return {**shapes, **dict.fromkeys((*BASELINES, *donors, *accuracies), ())}

    def _rows(self, batch: Batch, contexts: Sequence[Context], several: Sequence[int]) -> Iterator[Row]:
        """Every row of a batch: each cell of each pair that has it, and its donor, with its controls."""
        for pair in range(len(several)):
            tested: set[Any] = set()
            for cell in self.grid.cells:
                row = Row.of(contexts, self.places, several[pair], pair, cell)
                sources = {edit.source for edit in cell.edits}
                if row is None or ("donor" in sources and not batch.has_donor[pair]):
                    continue
                if "resample" in sources and not self._made.has_partner(several[pair]):
                    continue
                yield row
                if self.mismatched and batch.has_donor[pair] and "other" in sources:
                    yield row.control(MISMATCHED)
                hooks = (*(edit.hook for edit in cell.edits), cell.receiver and cell.receiver.hook)
                if "self" in self.options.controls and hooks not in tested:
                    tested.add(hooks)
                    yield row.control(SELF)

    def baselines(self, contexts: Sequence[Context]) -> Arrays:
        """What the unpatched runs of some pairs say, and arrays of NaN for what is not measured yet."""
        everyone = np.arange(len(contexts[0].batch.pairs))
        arrays = {name: np.full((len(everyone), *shape), np.nan) for name, shape in self.shapes().items()}
        has_donor = contexts[0].batch.has_donor
        for which in contexts[0].unpatched:
            said = contrasted([context.say_logits(context.unpatched[which].logits, everyone) for context in contexts])
            there = has_donor if which == "donor" else np.ones_like(has_donor)
            for name in ("logit_diff", "answer_prob", "accuracy"):
                if f"{name}_{which}" in arrays:
                    arrays[f"{name}_{which}"][there] = getattr(said, name).cpu().numpy()[there]
        return arrays

    @staticmethod
    def averaged(draws: Sequence[Arrays]) -> Arrays:
        """The mean over draws of noise; of the noise floor the largest."""
        if len(draws) == 1:
            return draws[0]
        mean = {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}
        return {**mean, "noise_floor": np.max([draw["noise_floor"] for draw in draws], axis=0)}

    # The result

    def labelled(self, several: list[int], arrays: Arrays | None) -> "xr.Dataset":
        """Arrays of some pairs with their names.

        Args:
            several: Which pairs.
            arrays: Their numbers; None for a template without any, which takes no room.
        """
        import xarray as xr

        dtype = np.dtype(self.options.dtype or ("float64" if self.model.dtype == torch.float64 else "float32"))
        labels = self.grid.coords.items()
        coords: dict[str, Any] = {dim: np.array(own, dtype=_dtype(own)) for dim, own in labels}
        for column, values in self.columns.items():
            own = np.array([values[number] for number in several], dtype=object)
            coords["pair" if column == "id" else column] = ("pair", own)
        variables = {}
        for name, shape in self.shapes().items():
            full = (len(several), *shape)
            values = np.broadcast_to(np.array(np.nan, dtype), full) if arrays is None else arrays[name].astype(dtype)
            baseline = name in BASELINES + DONORS + ACCURACIES
            variables[name] = (("pair",) if baseline else ("pair", *self.grid.dims), values)
        plan = {"rows_at_a_time": self.rows_at_a_time, "pairs_at_a_time": self.pairs_at_a_time}
        return xr.Dataset(variables, coords=coords, attrs={**self.attrs(), **plan})

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Columns of the pairs that a result has as coordinates."""
        partners = {"resampled_from": self._made.partners} if "resample" in self.grid.sources else {}
        columns = {column: self.pairs[column] for column in ("id", *COLUMNS)}
        # A column of nothing at all is no column: readers of a store would make numbers of it.
        empty = [name for name in ("donor_digest", "donor_prompt") if all(value is None for value in columns[name])]
        columns = {name: values for name, values in columns.items() if name not in empty}
        return {**columns, "contrast_answer": self.contrast, **partners}

    def completed(self, effects: "xr.Dataset") -> "xr.Dataset":
        """The result with what follows from its numbers."""
        effects.attrs["pairs_without_donor"] = self._without_donor() if self.mismatched else 0
        return completed(effects, self.options, self.names)

    def _without_donor(self) -> int:
        column = "donor_prompt" if Setting(self.options.corruption).by_text else "donor_digest"
        return sum(value is None for value in self.pairs[column])

    def attrs(self) -> dict[str, Any]:
        """Everything needed to repeat the run, in plain values."""
        return dict(self._attrs)

    @cached_property
    def _attrs(self) -> dict[str, Any]:
        return provenance(self.model, self.pairs, self.options, [*self.names, *self.custom], self.described)


def _dtype(labels: Sequence[Any]) -> Any:
    return object if any(isinstance(label, str) for label in labels) else int
