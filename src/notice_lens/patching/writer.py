"""The result of a sweep or of an attribution: laid out by its grid, labelled, and kept in memory or in a store.

    writer = ResultWriter(prepared, grid, {"sites": ...})
    with writer.opened(chunks) as (results, chunks):
        for batch in prepared.batches(chunks.pairs):
            arrays = writer.empty(len(batch)) | numbers
            results.write(batch, writer.labelled(batch, arrays))
        effects = with_effects(results.load())

A writer knows no model runs and no edits: it gets arrays by name. What a store needs to be resumed (everything that
decides the numbers) is in its settings; what a reader needs to repeat the run is in `attrs`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.patching.engine.memory import Arrays
from notice_lens.patching.engine.metrics import BUILT_IN_METRICS
from notice_lens.patching.engine.protocol import Chunks
from notice_lens.patching.grid import Grid
from notice_lens.patching.identity import metric_codes, model_settings
from notice_lens.patching.prepare import Prepared
from notice_lens.patching.results import CARRIED, carried
from notice_lens.patching.store.parts import ALL_PAIRS, PART_SETTING, has_parts, joined, store_of

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.patching.store.store import Store

BASELINES = ("logit_diff_clean", "logit_diff_corrupt", "answer_prob_clean", "answer_prob_corrupt", "noise_floor")
DONOR_BASELINES = ("logit_diff_donor", "answer_prob_donor")
"""Baselines of a sweep with the control `mismatched`: the read-out of the donor's own run."""
ACCURACIES = ("accuracy_clean", "accuracy_corrupt")
"""Baselines of a sweep with the metric `accuracy`."""


class ResultWriter:
    """Lays out, labels and keeps the result of one grid.

    Args:
        prepared: The pairs.
        grid: The dimensions and coordinates of the result.
        patched: What is patched, by name, in plain values.
        store: The folder of the store; None for memory.
        columns: Columns along `pair`, beside those of the pairs.
        method: Attributes that say more than those of a sweep do.
    """

    def __init__(
        self,
        prepared: Prepared,
        grid: Grid,
        patched: Mapping[str, Any],
        store: str | PathLike[str] | None = None,
        columns: Mapping[str, list[Any]] | None = None,
        method: Mapping[str, Any] | None = None,
    ) -> None:
        self.prepared, self.grid, self.patched = prepared, grid, patched
        self.part = prepared.options.part
        self.store = None if store is None else store_of(store, self.part)
        self.columns, self.method = {**prepared.columns, **(columns or {})}, dict(method or {})
        metrics = set(prepared.metrics) | ({"logit_diff_change"} if "patching_effect" in prepared.metrics else set())
        built_in = [name for name in BUILT_IN_METRICS if name in metrics and name != "patching_effect"]
        self.metrics = [*built_in, *prepared.custom]
        """Metrics that are measured; others follow from them."""
        self.mismatched = "mismatched" in prepared.options.controls

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array, the pair left out."""
        endings = ["", "_mismatched"] if self.mismatched else [""]
        shapes = {name + ending: self.grid.shape for name in self.metrics for ending in endings}
        donors = DONOR_BASELINES if self.mismatched else ()
        accuracies = ACCURACIES if "accuracy" in self.prepared.metrics else ()
        return {**shapes, **dict.fromkeys((*BASELINES, *donors, *accuracies), ())}

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Return everything needed to repeat the run, in plain values."""
        patched = {name: json.dumps(value, default=str) for name, value in self.patched.items()}
        part = {} if self.part is None else {PART_SETTING: list(self.part)}
        return {**self.prepared.provenance, **patched, **self.method, **part}

    def empty(self, n_pairs: int) -> Arrays:
        """Return arrays for some pairs, NaN for what is not measured yet."""
        return {name: np.full((n_pairs, *shape), np.nan) for name, shape in self.shapes.items()}

    def labelled(self, pairs: Sequence[int], arrays: Arrays | None, chunks: Chunks | None = None) -> "xr.Dataset":
        """Return arrays of some pairs with their names.

        Args:
            pairs: Their numbers.
            arrays: Their values; None for a template without any, which takes no room.
            chunks: For a template, how the sweep is cut up.
        """
        import xarray as xr

        dtype = self.prepared.dtype
        coords: dict[str, Any] = {}
        for dim, labels in self.grid.coords.items():
            coords[dim] = np.array(labels, dtype=object if any(isinstance(one, str) for one in labels) else int)
        for column, values in self.columns.items():
            own = np.array([values[number] for number in pairs], dtype=object)
            coords["pair" if column == "id" else column] = ("pair", own)
        variables = {}
        for name, shape in self.shapes.items():
            nothing = np.broadcast_to(np.array(np.nan, dtype), (len(pairs), *shape))
            values = nothing if arrays is None else arrays[name].astype(dtype)
            baseline = name in BASELINES + DONOR_BASELINES + ACCURACIES
            variables[name] = (("pair",) if baseline else ("pair", *self.grid.dims), values)
        plan = {} if chunks is None else {"rows_at_a_time": chunks.rows, "pairs_at_a_time": chunks.pairs}
        return xr.Dataset(variables, coords=coords, attrs={**self.attrs, **plan})

    @contextmanager
    def opened(self, chunks: Chunks) -> Iterator[tuple["Results", Chunks]]:
        """Open the place where results go, and yield it with the chunks to compute in.

        Args:
            chunks: How a new sweep is cut up; a store that was begun with others keeps these.

        Raises:
            ValueError: The store is damaged, or of another sweep.
            OSError: Something else is there, or nothing can be written there.
            RuntimeError: Somebody else is writing to it.
        """
        own = self.prepared.own
        template = self.labelled(own, None, chunks)
        if self.store is None:
            yield Results(InMemory(template), own.start), chunks
            return
        from notice_lens.patching.store.store import Store

        with Store.open(self.store, template, {**self.attrs, **self._identity(self.store)}) as store:
            plan = Chunks(int(store.attrs["rows_at_a_time"]), int(store.attrs["pairs_at_a_time"]))
            yield Results(store, own.start), plan

    @property
    def is_parted(self) -> bool:
        """Whether the store's folder holds parts, which this call would gather."""
        return self.part is None and self.store is not None and has_parts(self.store)

    def gathered(self) -> "xr.Dataset":
        """Return the result of parts that were computed apart.

        Raises:
            FileNotFoundError: Parts are missing.
            ValueError: They are not complete, or of another sweep than this one.
        """
        from notice_lens.patching.store.checks import clauses_joined, differences, plain

        assert self.store is not None
        effects, settings = joined(self.store)
        if clauses := differences(settings, plain({**self.attrs, **self._identity(self.store)}, "settings")):
            raise ValueError(f"{self.store} has the parts of another sweep: {clauses_joined(clauses)}")
        return with_effects(effects)

    def _identity(self, folder: str | PathLike[str]) -> dict[str, Any]:
        """Return what decides the numbers apart from `attrs`: settings of the model, and code of the caller's metrics.

        Raises:
            ValueError: A store is there, and a metric cannot be told from another one.
        """
        model = self.prepared.model
        codes = metric_codes(self.prepared.custom, model)
        if untold := [name for name, code in codes.items() if not code]:
            why = (
                f"metric {untold[0]!r} is or refers to something whose code or state cannot be read (compiled code, an "
                "open file, ...), so it cannot be told from another one"
            )
            if Path(folder).is_dir() and any(Path(folder).iterdir()):
                raise ValueError(f"{why}: {folder} cannot be resumed; name another folder")
            warnings.warn(f"{why}: {folder} cannot be resumed if this sweep is stopped", stacklevel=6)
        sites = {name: json.loads(json.dumps(value, default=str)) for name, value in self.patched.items()}
        whole = {} if self.part is None else {ALL_PAIRS: self.prepared.pairs["id"]}
        model_parts = {"model_settings": model_settings(model), "device": model.device.type, "metric_code": codes}
        return {**sites, **model_parts, **whole}


def gather(store: str | PathLike[str], *, lazy: bool = False) -> "xr.Dataset":
    """Join the parts of a sweep that were computed apart.

    Args:
        store: The folder that all parts were given as `store`.
        lazy: Whether numbers stay on disk, as dask arrays, for a result that is larger than memory: `aggregate` reads
            a block at a time. Every checksum is compared before this returns, a chunk at a time. It needs
            `pip install 'notice-lens[dask]'`.

    Returns:
        What one call without parts returns, pairs in their order.

    Raises:
        FileNotFoundError: There is no such folder, or parts are missing.
        ValueError: A part is not complete, is of another sweep or damaged; or there are parts of several divisions.
        ImportError: `lazy`, and dask is not installed.
    """
    return with_effects(joined(Path(store), lazy)[0])


def with_effects(effects: "xr.Dataset") -> "xr.Dataset":
    """Return a sweep's numbers with what follows from them: normalised effects, and what is below the noise."""
    attrs = dict(effects.attrs)
    mismatched, metrics = "mismatched" in attrs["controls"], attrs["metrics"]
    attrs["pairs_without_donor"] = int(effects["logit_diff_donor"].isnull().sum()) if mismatched else 0
    sign = 1 if attrs["direction"] == "denoise" else -1
    gap = sign * (effects.logit_diff_clean - effects.logit_diff_corrupt)
    usable = gap.where((abs(gap) >= attrs["min_gap"]) & (gap != 0))
    if "patching_effect" in metrics:
        effects["patching_effect"] = effects.logit_diff_change / usable
        if mismatched:
            effects["patching_effect_mismatched"] = effects.logit_diff_change_mismatched / usable
            effects[CARRIED] = carried(effects)[CARRIED]
    if "logit_diff_change" in effects and "self" in attrs["controls"]:
        effects["below_floor"] = abs(effects.logit_diff_change) <= effects.noise_floor
    attrs["pairs_below_min_gap"] = int(usable.isnull().sum())
    # A new variable may give a data set another mapping of attributes.
    effects.attrs = attrs
    return effects


def averaged(draws: Sequence[Arrays]) -> Arrays:
    """Return the mean over draws of noise; of the noise floor the largest."""
    if len(draws) == 1:
        return draws[0]
    mean = {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}
    return {**mean, "noise_floor": np.max([draw["noise_floor"] for draw in draws], axis=0)}


class Results:
    """Where the results of a sweep's pairs go, by the numbers that the pairs have among all.

    Args:
        kept: In memory or on disk, a row a pair.
        first: The number of the pair of the first row: that of a part's first pair.
    """

    def __init__(self, kept: "InMemory | Store", first: int) -> None:
        self.kept, self.first = kept, first

    def is_done(self, pairs: Sequence[int]) -> np.ndarray:
        """Return which of some pairs are finished. Boolean, [pair]."""
        return self.kept.done[self._rows(pairs)]

    def write(self, pairs: Sequence[int], part: "xr.Dataset") -> None:
        """Take the numbers of some pairs."""
        self.kept.write(self._rows(pairs), part)

    def load(self) -> "xr.Dataset":
        """Return all of them."""
        return self.kept.load()

    def _rows(self, pairs: Sequence[int]) -> np.ndarray:
        return np.asarray(pairs, int) - self.first


class InMemory:
    """Results that are kept in memory, with the methods of a `Store`."""

    def __init__(self, template: "xr.Dataset") -> None:
        self.result = template.copy(data={name: np.array(values) for name, values in template.data_vars.items()})
        self.done = np.zeros(template.sizes["pair"], bool)

    def write(self, pairs: np.ndarray, part: "xr.Dataset") -> None:
        """Take the numbers of some pairs."""
        for name, values in part.data_vars.items():
            self.result[name].values[pairs] = values.values

    def load(self) -> "xr.Dataset":
        """Return all of them."""
        return self.result
