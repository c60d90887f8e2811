"""The format of a sweep on disk: one Zarr group (format 3), an array for each coordinate and variable, and `done`.

`xarray.open_zarr(path, consolidated=False)` reads it too. The group's attributes are the data set's, and under
`notice_lens` the record: the format, the settings, and of what type everything was in memory. A store is built beside
its place and moved there when it is complete, so whatever is there is either a complete store or not one of ours.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from notice_lens import __version__
from notice_lens.errors import extra
from notice_lens.files import check_files, check_seal, read_json, sealed, sha256
from notice_lens.patching.store.checks import listed, missing, plain

STORE_FORMAT = 2
"""Goes up when the layout changes."""
RECORD = "notice_lens"
DONE = "done"
CREATING = "a notice-lens store in the making"
"""The file that says that a folder with half a store is ours."""
FILLS = {"f": math.nan, "b": False, "i": 0, "u": 0, "U": "", "O": "", "T": ""}
"""What is in an array before it is written, by the kind of its type."""
CHUNK_BYTES, CHUNK_PAIRS = 1_000_000, 64
"""A chunk holds as many pairs as fit into both, at least one: a write of one pair rewrites its whole chunk."""
BLOCK_BYTES = 32_000_000
"""What a lazy read takes at a time, about."""


def create(path: Path, template: xr.Dataset, settings: Mapping[str, Any]) -> None:
    """Create a store in which no pair is done.

    Args:
        path: Of its folder; an empty one may be there.
        template: Coordinates, attributes, and for each variable its dims, shape and dtype; its values are not read.
        settings: Plain values.

    Raises:
        FileExistsError: A folder that is not ours is where the store is to be built.
        TypeError: An attribute is nothing that JSON can hold, or a type nothing that a store can.
        ValueError: A variable does not begin with `pair`, or is called as ours is.
    """
    attributes, record = _description(template, settings)
    beside = _beside(path)
    if beside.exists():
        raise FileExistsError(
            f"{beside} is in the way: a store is built there, and this was not written by notice-lens"
        )
    beside.mkdir()
    (beside / CREATING).touch()
    try:
        _build(beside / "store", template, attributes, record)
        if path.exists():
            path.rmdir()  # empty, or it stays
        (beside / "store").rename(path)
    finally:
        tidy(path)


def tidy(path: Path) -> None:
    """Remove what a killed creation left beside a store, and nothing else."""
    beside = _beside(path)
    if (beside / CREATING).is_file():
        if (beside / "store").exists():
            shutil.rmtree(beside / "store")
        (beside / CREATING).unlink()  # last, or the rest of a removal that is killed would be nobody's
    if beside.is_dir() and not any(beside.iterdir()):
        beside.rmdir()


def read_record(path: Path) -> dict[str, Any]:
    """Return a store's record of itself.

    Raises:
        FileExistsError: There is no store of ours.
        ValueError: It is damaged, or from another version.
    """
    left = "it is left as it is; name another folder"
    if not (path / "zarr.json").is_file():
        raise FileExistsError(f"{path} exists and is not a store of a sweep (no zarr.json in it); {left}")
    try:
        found = read_json(path / "zarr.json")
    except ValueError as error:
        raise ValueError(f"{error}; {left}") from error
    attributes = found.get("attributes") if isinstance(found, dict) else None
    record = attributes.get(RECORD) if isinstance(attributes, dict) else None
    if not isinstance(record, dict):
        raise FileExistsError(f"{path} is a Zarr folder, but not a store of a sweep; {left}")
    if record.get("format") != STORE_FORMAT or found.get("zarr_format") != 3:
        formats = f"format {record.get('format')!r} in Zarr format {found.get('zarr_format')!r}"
        raise ValueError(
            f"{path} has {formats}, written by notice-lens {record.get('version')}; notice-lens {__version__} reads "
            f"format {STORE_FORMAT} in Zarr format 3; name another folder to patch anew, or continue with that version "
            "(its numbers can be read with xarray.open_zarr(path, consolidated=False))"
        )
    check_seal(record, path / "zarr.json")
    return record


def open_arrays(path: Path, record: Mapping[str, Any], mode: str) -> dict[str, zarr.Array]:
    """Return the arrays of a store by name, `done` with them. Raises ValueError if one is missing or unreadable.

    Args:
        path: Of the store.
        record: Its record.
        mode: `r` or `r+`.
    """
    check_files(path, record["files"])
    try:
        group = zarr.open_group(path, mode=cast(Any, mode), zarr_format=3)
        found = {name: cast("zarr.Array", group[name]) for name in [*record["coordinates"], *record["variables"], DONE]}
    except Exception as error:
        # What Zarr raises for an unknown codec or type differs between its versions.
        versions = f"written with Zarr {record.get('zarr')}, read with {version('zarr')}"
        raise ValueError(f"{path}: Zarr cannot read it ({versions}): {error}") from error
    # A chunk that is not there is damage, and never a chunk of nothing but NaN.
    return {name: array.with_config({"write_empty_chunks": True}) for name, array in found.items()}


def read(path: str | Path) -> xr.Dataset:
    """Return the data set of a store, as it was in memory, attributes included: pairs that are not done are NaN.

    Nobody is kept from writing meanwhile.

    Raises:
        FileNotFoundError: There is nothing.
        FileExistsError: There is something else.
        ValueError: It is damaged (the array and the pairs are named), or from another version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no store of a sweep in {path}: nothing is there")
    record = read_record(path)
    arrays = open_arrays(path, record, "r")
    coordinates, done = read_coordinates(path, record, arrays)
    names = _names(coordinates, done)
    variables = {
        name: _in_memory(arrays[name], _values(path, arrays[name], done, names), dtype)
        for name, dtype in record["variables"].items()
    }
    return coordinates.assign(variables)


def read_lazily(path: Path) -> xr.Dataset:
    """Return the data set of a complete store with dask arrays, which are read from the disk when they are computed.

    Every checksum is compared here, chunk by chunk, so that damage is found now; Zarr compares them again at each later
    read. No more than a chunk is in memory.

    Args:
        path: Of a store in which all pairs are done.

    Raises:
        ValueError: It is damaged (the array and the pairs are named), or from another version.
        ImportError: dask is not installed.
    """
    record = read_record(path)
    arrays = open_arrays(path, record, "r")
    coordinates, done = read_coordinates(path, record, arrays)
    check_done(path, arrays, coordinates, done)
    return coordinates.assign(
        {
            name: _in_memory(arrays[name], _values(path, arrays[name]), dtype)
            if dtype == "O" or dtype[1] == "U"
            else _lazy(arrays[name], dtype)
            for name, dtype in record["variables"].items()
        }
    )


def read_coordinates(
    path: Path, record: Mapping[str, Any], arrays: Mapping[str, zarr.Array]
) -> tuple[xr.Dataset, np.ndarray]:
    """Return the coordinates and attributes of a store, and which pairs are done, [pair].

    Raises:
        ValueError: Some of it is missing or damaged.
    """
    coordinates = {
        name: _in_memory(arrays[name], _values(path, arrays[name]), dtype, record["missing"].get(name))
        for name, dtype in record["coordinates"].items()
    }
    return xr.Dataset(coords=coordinates, attrs=record["attributes"]), _values(path, arrays[DONE])


def check_done(path: Path, arrays: Mapping[str, zarr.Array], coordinates: xr.Dataset, done: np.ndarray) -> None:
    """Read the numbers of finished pairs. Raises ValueError if some are missing or damaged."""
    for name in arrays.keys() - {*map(str, coordinates.coords), DONE}:
        for _ in _chunks_of(path, arrays[name], done, _names(coordinates, done)):
            pass


def _names(coordinates: xr.Dataset, done: np.ndarray) -> np.ndarray:
    """Return the pairs' names, or numbers for pairs without names."""
    return coordinates["pair"].values if "pair" in coordinates.coords else np.arange(len(done))


def _chunks_of(
    path: Path, array: zarr.Array, done: np.ndarray | None = None, names: np.ndarray | None = None
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield where a chunk of an array is, and its numbers. Raises ValueError if they are missing or damaged.

    Args:
        path: Of the store.
        array: Which.
        done: Which pairs are finished: chunks without any are left out; None where the array is whole.
        names: Of the pairs.
    """
    step, whole = (array.chunks[0], array.shape[0]) if array.ndim else (1, 1)
    for number in range(-(-whole // step)) if done is None else np.unique(np.flatnonzero(done) // step).tolist():
        rows = slice(number * step, (number + 1) * step) if array.ndim else ...
        key = cast(Any, array.metadata).encode_chunk_key((number, *[0] * (array.ndim - 1))[: array.ndim])
        try:
            if array.size and not (path / array.basename / key).is_file():
                raise FileNotFoundError(f"{array.basename}/{key} is missing")
            values = np.asarray(array[rows])
        except Exception as error:  # of the operating system, of the checksum, or of whatever decodes
            at = "" if done is None or names is None else f" at pairs {listed(names[rows][done[rows]].tolist())}"
            raise ValueError(
                f"{path}: {array.basename!r} cannot be read{at}: {error}; restore a copy, or name another folder"
            ) from error
        yield rows, values


def _values(
    path: Path, array: zarr.Array, done: np.ndarray | None = None, names: np.ndarray | None = None
) -> np.ndarray:
    """Return an array's numbers, those of pairs that are not done empty; arguments as `_chunks_of`."""
    values = np.full(array.shape, array.fill_value, array.dtype)
    for rows, chunk in _chunks_of(path, array, done, names):
        values[rows] = chunk
    if done is not None:
        values[~done] = array.fill_value
    return values


def with_numpy_types(data: xr.Dataset) -> xr.Dataset:
    """A shallow copy with NumPy's types only: columns of pandas may have others."""
    odd = [name for name, values in data.variables.items() if not isinstance(values.dtype, np.dtype)]
    return data.assign({name: data[name].variable.copy(data=np.asarray(data[name].values)) for name in odd})


def described(template: xr.Dataset) -> dict[str, Any]:
    """Each variable's dims, shape and dtype, as a store keeps them. `string` is text of any length."""
    return {
        str(name): {
            "dims": [str(dim) for dim in variable.dims],
            "shape": [int(size) for size in variable.shape],
            "dtype": "string" if variable.dtype.kind in "UOT" else str(variable.dtype),
        }
        for name, variable in template.data_vars.items()
    }


def _description(template: xr.Dataset, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The group's attributes and its record; raise where one cannot be stored."""
    for name, variable in template.variables.items():
        is_variable = name in template.data_vars
        if is_variable and (not variable.dims or variable.dims[0] != "pair"):
            raise ValueError(f"variable {name!r} has the dims {variable.dims}; `pair` must be the first")
        if name == DONE or variable.dtype.kind not in FILLS:
            reason = "a store has one of its own" if name == DONE else f"a store cannot hold {variable.dtype}"
            raise (ValueError if name == DONE else TypeError)(f"{name!r}: {reason}")
    if "pair" not in template.sizes:
        raise ValueError(f"a sweep has a dimension `pair`; this template has {', '.join(map(str, template.sizes))}")
    gone = {str(name): missing(np.asarray(values.values)) for name, values in template.coords.items()}
    texts = [str(name) for name, values in template.coords.items() if values.dtype.kind in "UOT"]
    record = {
        "format": STORE_FORMAT,
        "version": __version__,
        "zarr": version("zarr"),
        "settings": plain(settings, "settings"),
        "coordinates": {str(name): _type(values) for name, values in template.coords.items()},
        "variables": {str(name): _type(values) for name, values in template.data_vars.items()},
        "described": described(template),
        "attributes": plain(template.attrs, "attribute"),
        "missing": {name: np.flatnonzero(gone[name]).tolist() for name in texts if gone[name].any()},
    }
    others = " ".join(str(name) for name in template.coords if name not in template.dims)
    # `coordinates` is what xarray tells them by.
    return {**record["attributes"], **({"coordinates": others} if others else {})}, record


def _build(path: Path, template: xr.Dataset, attributes: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Allocate everything, write the coordinates, and last the record with the digests of what describes the arrays."""
    group = zarr.create_group(path, zarr_format=3, attributes=dict(attributes))
    for name, coordinate in template.coords.items():
        array = _allocate(group, str(name), coordinate.variable, coordinate.shape)
        array[...] = storable(coordinate.variable, str(name))
    for name, variable in template.data_vars.items():
        _allocate(group, str(name), variable.variable, _chunks(variable.variable))
    n_pairs = template.sizes["pair"]
    flags = xr.Variable(("pair",), np.zeros(n_pairs, bool))
    _allocate(group, DONE, flags, flags.shape)[...] = flags.values
    files = [f"{name}/zarr.json" for name in (*template.variables, DONE)]
    described = {**record, "files": {file: sha256(path / file) for file in files}}
    group.update_attributes({RECORD: sealed(described)})


def _beside(path: Path) -> Path:
    """Return the folder in which a store is built."""
    return path.with_name(path.name + ".creating")


def _type(values: xr.DataArray) -> str:
    """The type of an array in memory: `O` for any text that is not of fixed width."""
    return "O" if values.dtype.kind in "OT" else values.dtype.str


def _allocate(group: zarr.Group, name: str, values: xr.Variable, chunks: tuple[int, ...]) -> zarr.Array:
    """An array that takes no room until it is written."""
    return group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(max(1, size) for size in chunks),
        dtype=str if values.dtype.kind in "UOT" else values.dtype,
        fill_value=FILLS[values.dtype.kind],
        compressors=(ZstdCodec(level=0), Crc32cCodec()),
        config={"write_empty_chunks": True},
        dimension_names=[str(dim) for dim in values.dims],
        attributes=plain(values.attrs, f"attribute of {name!r}"),
    )


def _chunks(values: xr.Variable) -> tuple[int, ...]:
    """Whole rows of pairs."""
    row = values.dtype.itemsize * math.prod(values.shape[1:])
    return (min(values.shape[0], CHUNK_PAIRS, max(1, CHUNK_BYTES // max(1, row))), *values.shape[1:])


def storable(values: xr.Variable, name: str) -> np.ndarray:
    """Values as Zarr takes them: missing text is empty, and told apart by the record."""
    array = np.asarray(values.values)
    if array.dtype.kind not in "UOT":
        return array
    array = np.where(missing(array), "", array.astype(object))
    if wrong := [item for item in array.ravel().tolist() if not isinstance(item, str)]:
        raise TypeError(f"{name!r} holds {wrong[0]!r}, a {type(wrong[0]).__name__}; a store holds text or numbers")
    return array


def _lazy(array: zarr.Array, dtype: str) -> xr.Variable:
    """Return an array of numbers as a dask array of blocks of several chunks: a task for each chunk would be slow."""
    with extra("dask", "dask", "a lazy read"):
        import dask.array

    chunk = array.dtype.itemsize * math.prod(array.chunks)
    pairs = array.chunks[0] * max(1, BLOCK_BYTES // max(1, chunk))
    found = dask.array.from_array(array, chunks=cast(Any, (pairs, *array.shape[1:]))).astype(dtype)
    return xr.Variable(cast(Any, array.metadata).dimension_names or (), found, dict(array.attrs))


def _in_memory(array: zarr.Array, values: np.ndarray, dtype: str, gone: list[int] | None = None) -> xr.Variable:
    """Return an array's values with the type that they had."""
    if dtype == "O" or dtype[1] == "U":
        values = values.astype(object)
        values.ravel()[gone or []] = math.nan
        values = values if dtype == "O" else values.astype(str)
    return xr.Variable(cast(Any, array.metadata).dimension_names or (), values.astype(dtype), dict(array.attrs))
