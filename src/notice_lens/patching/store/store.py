"""A sweep's result on disk, written a few pairs at a time: a sweep that was killed resumes where it stopped.

    with Store.open("sweep.zarr", template, settings) as store:
        for pair in np.flatnonzero(~store.done):
            store.write([pair], sweep(pair))
        effects = store.load()

1. Every array is allocated first, chunked along `pair`, and takes no room until something is written.
2. A part is written region by region. A file is replaced as a whole, so the other pairs in it lose nothing.
3. The pairs' `done` flags are written last. A pair without its flag is computed again, and overwritten.

This holds for a process that dies, however it dies; not for a machine that loses its power with writes in its memory.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
import zarr

from notice_lens.errors import one_of
from notice_lens.patching.store import checks as store_checks
from notice_lens.patching.store import format as store_format
from notice_lens.patching.store.lock import Lock


class Store:
    """A sweep on disk that one process writes to; made by `Store.open`.

    A context manager: other writers are kept out until it is left or `close` is called.

    Attributes:
        path: Of the folder, a Zarr group.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], arrays: Mapping[str, zarr.Array], lock: Lock) -> None:
        self.path = path
        self._lock = lock
        self._arrays = arrays
        self._described: dict[str, dict[str, Any]] = record["described"]
        self._coordinates, self._done = store_format.read_coordinates(path, record, arrays)

    @classmethod
    def open(cls, path: str | PathLike[str], template: xr.Dataset, settings: Mapping[str, Any]) -> "Store":
        """Open the store at a path: a new one, or an existing one to resume.

        Args:
            path: Of a folder; a new one, an empty one, or a store of the same sweep.
            template: The result without its values: coordinates, attributes, and variables with `pair` first. The
                values of its variables are never read, so one value broadcast to the shape will do. The attributes are
                kept by a new store; one that is there has its own.
            settings: Everything that decides the numbers: text, numbers, booleans, None, mappings and lists of them.

        Raises:
            ValueError: The store is of another sweep (each difference is named), damaged, or of another version.
            FileExistsError: Something else is there. It is left as it is.
            RuntimeError: Somebody else is writing.
            TypeError: A setting, an attribute or a coordinate is nothing that can be stored.
        """
        path, template = Path(path), store_format.with_numpy_types(template)
        settings = store_checks.plain(settings, "settings")
        lock = Lock(path)
        try:
            store_format.tidy(path)
            if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                store_format.create(path, template, settings)
            record = store_format.read_record(path)
            arrays = store_format.open_arrays(path, record, "r+")
            store = cls(path, record, arrays, lock)
            store._compare(record, template, settings)
            # Damage is reported before anything is computed, not after.
            store_format.check_done(path, arrays, store._coordinates, store._done)
        except BaseException:
            lock.release()
            raise
        return store

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the result, those of the store's first call."""
        return dict(self._coordinates.attrs)

    @property
    def done(self) -> np.ndarray:
        """True for finished pairs. Boolean, [pair]."""
        return self._done.copy()

    def write(self, pairs: slice | Sequence[int] | np.ndarray, part: xr.Dataset) -> None:
        """Write the results of some pairs, and mark the pairs as done when all of it is on disk.

        Args:
            pairs: Their numbers.
            part: All variables for these pairs, in their order, with the store's types. Coordinates that it has are
                compared with the store's.

        Raises:
            ValueError: A pair is done already, or something in the part does not fit.
            IndexError: There is no such pair.
            RuntimeError: The store was closed.
        """
        if self._lock.released:
            raise RuntimeError(f"{self.path}: this store was closed; open it anew to write")
        rows = self._rows(pairs)
        part = store_format.with_numpy_types(part)
        values = self._checked(rows, part)
        places = np.arange(len(rows))
        neighbours = np.split(places, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
        done = self.done
        done[rows] = True
        try:
            for name, array in values.items():
                for run in neighbours:  # a region each
                    self._arrays[name][int(rows[run[0]]) : int(rows[run[-1]]) + 1] = array[run]
            self._arrays[store_format.DONE][...] = done
        except OSError as error:
            kept = "pairs that are done are kept, and the same call resumes from them"
            raise OSError(f"{self.path} cannot be written: {error.strerror or error}; {kept}") from error
        self._done = done

    def load(self) -> xr.Dataset:
        """The result in memory, attributes included; floats of pairs that are not done are NaN."""
        return store_format.read(self.path)

    def close(self) -> None:
        """Let others write. The store can still be loaded, and calling it twice does no harm."""
        self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {int(self._done.sum())} of {len(self._done)} pairs done)"

    def _compare(self, record: Mapping[str, Any], template: xr.Dataset, settings: Any) -> None:
        """Refuse a store of another sweep."""
        differences, coordinates = store_checks.differences, store_checks.plain_coordinates
        clauses = differences(record["settings"], settings)
        clauses += differences(coordinates(self._coordinates), coordinates(template))
        # Shapes follow from the labels.
        clauses = clauses or differences(self._described, store_format.described(template), "variables")
        if clauses:
            raise ValueError(
                f"{self.path} is the store of another sweep: {store_checks.clauses_joined(clauses)}; name another "
                "folder, or repeat the call that it was made with"
            )

    def _rows(self, pairs: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the numbers of pairs that may be written."""
        n_pairs = len(self._done)
        asked = range(n_pairs)[pairs] if isinstance(pairs, slice) else pairs
        rows = np.asarray(asked)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(f"pairs are a slice or a list of whole numbers; got {rows.dtype} of shape {rows.shape}")
        rows = rows.astype(np.int64)
        if (wrong := rows[(rows < 0) | (rows >= n_pairs)]).size:
            raise IndexError(f"pairs {store_checks.listed(wrong.tolist())}: the store has pairs 0 to {n_pairs - 1}")
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"pairs {store_checks.listed(rows.tolist())}: one is given twice")
        if (done := rows[self._done[rows]]).size:
            raise ValueError(f"pairs {store_checks.listed(done.tolist())} are done; finished pairs are kept")
        return rows

    def _checked(self, rows: np.ndarray, part: xr.Dataset) -> dict[str, np.ndarray]:
        """Return the checked values of a part, by variable, as they are stored."""
        for name in part.data_vars:
            if name not in self._described:
                raise ValueError(one_of("variable", str(name), self._described))
        if lost := [name for name in self._described if name not in part]:
            raise ValueError(f"the part lacks {store_checks.listed(lost)}")
        values = {}
        for name, expected in self._described.items():
            dims = expected["dims"]
            if set(part[name].dims) != set(dims):
                raise ValueError(f"{name!r} has the dims {part[name].dims}; the store's are {tuple(dims)}")
            part[name] = part[name].transpose(*dims)
            asked = {**expected, "shape": [len(rows), *expected["shape"][1:]]}
            found = store_format.described(part[[name]])[name]
            if found != asked:
                shapes = f"{found['dtype']} of shape {found['shape']}; expected {asked['dtype']} of {asked['shape']}"
                raise ValueError(f"{name!r} is {shapes}")
            values[name] = store_format.storable(part[name].variable, name)
        have = self._coordinates.isel(pair=rows) if "pair" in self._coordinates.dims else self._coordinates
        ours, theirs = map(store_checks.plain_coordinates, (have, part))
        both = [name for name in ours if name in theirs]
        if clauses := store_checks.differences(
            {name: ours[name] for name in both}, {name: theirs[name] for name in both}
        ):
            raise ValueError(f"the part is of other pairs or places: {store_checks.clauses_joined(clauses)}")
        return values
