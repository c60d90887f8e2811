"""Pairs on disk: one folder that needs nothing beside it.

    pairs.arrow     the rows, with the bytes of their images; `datasets.Dataset.from_file` reads it
    dropped.arrow   what was dropped, with the reason
    manifest.json   where the pairs come from

A folder is written beside its place and moved there when it is complete.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from pyarrow.lib import ArrowInvalid, ArrowTypeError

from notice_lens.errors import reading
from notice_lens.files import check_files, sha256
from notice_lens.pairs.io.records import features
from notice_lens.pairs.io.values import is_missing
from notice_lens.pairs.manifest import Manifest

if TYPE_CHECKING:
    from datasets import Dataset

TABLE_FILES, MANIFEST = ("pairs.arrow", "dropped.arrow"), "manifest.json"
ROWS_AT_ONCE = 64
"""Rows whose images are in memory together while they are written."""


_SCRATCH: list[tempfile.TemporaryDirectory[str]] = []


def scratch_file() -> str:
    """Return a file for data that do not fit into memory: removed when Python ends, and never in a saved folder."""
    if not _SCRATCH:
        _SCRATCH.append(tempfile.TemporaryDirectory(prefix="notice-lens-"))
    return str(Path(_SCRATCH[0].name) / f"{uuid4().hex}.arrow")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep datasets' own progress bars away: what is done has a line of ours."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def replace_column(dataset: "Dataset", name: str, values: Sequence[Any]) -> "Dataset":
    """The data set with a column replaced or added."""
    feature = dataset.features.get(name)
    if feature is not None:
        dataset = dataset.remove_columns(name)
    if dataset._indices is not None:
        with without_bars():
            dataset = dataset.flatten_indices(cache_file_name=scratch_file())
    return dataset.add_column(name, list(values), feature=feature)


def to_dataset(records: Sequence[Mapping[str, Any]], dropped: bool = False) -> "Dataset":
    """Records as a data set.

    Args:
        records: Values by column; columns that not all have are None elsewhere.
        dropped: Whether they are dropped rows, with a reason.
    """
    import pyarrow as pa
    from datasets import Dataset, Value
    from datasets.table import InMemoryTable

    known = features()
    if dropped:
        known = type(known)({**known, "reason": Value("string"), "detail": Value("string")})
    others = list(dict.fromkeys(column for record in records for column in record if column not in known))
    columns = {column: [record.get(column) for record in records] for column in (*known, *others)}
    # By Arrow: `datasets` would take the bytes of an image away where a file of its name lies around.
    tables = [pa.table({column: columns[column] for column in known}, schema=known.arrow_schema)]
    for column in others:
        columns[column] = [None if is_missing(value) else value for value in columns[column]]
        try:
            found = Dataset.from_dict({column: columns[column]})
        except (ArrowInvalid, ArrowTypeError, OverflowError):
            # Values of several types: as text, rather than not at all.
            texts = [None if value is None else str(value) for value in columns[column]]
            found = Dataset.from_dict({column: texts})
        known = type(known)({**known, **found.features})
        tables.append(found.data.table)
    arrays = [array for table in tables for array in table.columns]
    table = pa.Table.from_arrays(arrays, schema=known.arrow_schema)
    return Dataset(InMemoryTable(table), fingerprint=_digest(table))


def _digest(table: Any) -> str:
    """Return a fingerprint of a table's columns and values; that of `datasets` pickles it all, which takes longer."""
    digest = blake2b(str(table.schema).encode(), digest_size=8)
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                digest.update(buffer)
    return digest.hexdigest()


def refuse_taken(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError where something is at a path that saved pairs may not replace."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    ours = _is_ours(path)
    if not (overwrite and ours):
        never = "it is no folder of pairs alone, so it is never replaced"
        raise FileExistsError(
            f"{path} is there already; {'overwrite=True (--overwrite) replaces it' if ours else never}"
        )


def write_folder(path: Path, dataset: "Dataset", dropped: "Dataset", manifest: Manifest, overwrite: bool) -> Path:
    """Write pairs into a folder and return its path.

    Raises:
        FileExistsError: Something is there that may not be replaced.
    """
    path = path.resolve()
    refuse_taken(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(dataset, beside / "pairs.arrow")
        _write(dropped, beside / "dropped.arrow", broken_images=True)
        manifest.write(beside / MANIFEST, {name: sha256(beside / name) for name in TABLE_FILES})
        beside.chmod(0o755)
        if path.exists():
            # The old pairs go last: whatever fails, one of the two is there.
            path.rename(old := Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent)) / path.name)
            beside.rename(path)
            shutil.rmtree(old.parent, ignore_errors=True)
        else:
            beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def read_folder(path: Path) -> tuple["Dataset", Manifest, "Dataset"]:
    """Return the pairs of a folder, their manifest, and the dropped rows.

    Raises:
        FileNotFoundError: The folder holds no pairs.
        ValueError: A file is missing, damaged or not written by `save`, or a pair names a picture that is not there.
    """
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"no pairs in {path}: expected a folder that MinimalPairs.save wrote")
    manifest, files = Manifest.read(path / MANIFEST)
    # Before anything is read: Arrow does not survive every damaged file.
    check_files(path, files)
    rows, dropped = (_read(path / name) for name in TABLE_FILES)
    for column, numbers in _paths_alone(rows).items():
        raise ValueError(
            f"{path / 'pairs.arrow'}: {column} of pair {rows['id'][numbers[0]]!r} is a path without the picture; "
            "MinimalPairs.save writes the pictures themselves, and a path in a saved file is never followed"
        )
    for column in _paths_alone(dropped):
        dropped = replace_column(dropped, column, [_without_path(image) for image in dropped[column]])
    return rows, manifest, dropped


def _read(path: Path) -> "Dataset":
    """Return the rows of a file, which has all columns of pairs."""
    from datasets import Dataset

    with reading(path):
        rows = Dataset.from_file(str(path))
        # Of version 0.1 there are no checksums, and values that lie outside of their buffers end the process.
        rows.data.table.validate(full=True)
        for name, feature in features().items():
            if name not in rows.column_names:
                raise ValueError(f"it has no column {name!r}")
            if rows.features[name] != feature:
                raise ValueError(f"its column {name!r} is of another type than {feature}")
    return rows


def _is_ours(path: Path) -> bool:
    """Return whether a folder holds what `write_folder` writes, and nothing else."""
    try:
        Manifest.read(path / MANIFEST)
        return {file.name for file in path.iterdir()} == {MANIFEST, *TABLE_FILES}
    except (OSError, ValueError):
        return False


def _write(dataset: "Dataset", path: Path, broken_images: bool = False) -> None:
    """Write a data set as Arrow, a few rows at a time, with the bytes of the files that it names."""
    import pyarrow as pa

    schema, images = dataset.features.arrow_schema, _image_columns(dataset)
    # As Arrow has them: `datasets` would take the bytes of an image away where a file of its name lies around.
    rows = dataset.with_format("arrow")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(dataset), ROWS_AT_ONCE):
            part = cast("pa.Table", rows[start : start + ROWS_AT_ONCE])
            columns = {name: part[name] for name in schema.names}
            for name in images:
                embedded = [_embedded(image, broken_images) for image in part[name].to_pylist()]
                columns[name] = pa.chunked_array([pa.array(embedded, type=schema.field(name).type)])
            writer.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema))


def _image_columns(dataset: "Dataset") -> list[str]:
    """Return the columns of images, those of the user's own included."""
    from datasets import Image

    return [column for column, feature in dataset.features.items() if isinstance(feature, Image)]


def _paths_alone(dataset: "Dataset") -> dict[str, list[int]]:
    """Return the rows, by column, whose images are paths without bytes."""
    found = {}
    for column in _image_columns(dataset):
        number = 0
        for chunk in dataset.data.column(column).chunks:
            fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
            alone = zip(fields["path"].is_valid(), fields["bytes"].is_null(), strict=True)
            for path, no_bytes in alone:
                if path.as_py() and no_bytes.as_py():
                    found.setdefault(column, []).append(number)
                number += 1
    return found


def _without_path(image: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an image that is held as a path as one of 0 bytes, which cannot be opened any more."""
    if image is None or image["bytes"] is not None:
        return image
    return {"path": Path(image["path"]).name, "bytes": b""}


def _embedded(image: dict[str, Any] | None, may_be_broken: bool) -> dict[str, Any] | None:
    """Return an image with its bytes, and its file's name alone: other machines have other folders."""
    if image is None or image["bytes"] is not None:
        return image
    path = Path(image["path"])
    try:
        return {"path": path.name, "bytes": path.read_bytes()}
    except (OSError, ValueError):
        if may_be_broken:
            return _without_path(image)
        raise
