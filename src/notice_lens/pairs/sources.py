"""Rows of any origin on their way to records: tables, data sets, builders, other sizes."""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from notice_lens.files import sha256
from notice_lens.models.names import one_of
from notice_lens.models.pictures import digest, shown_path
from notice_lens.pairs.built import Built
from notice_lens.pairs.inventory import read_pictures
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.records import (
    COLUMNS,
    DIGESTS,
    IMAGES,
    MATCH_ANSWERS,
    OBLIGATORY,
    REGIONS,
    Refused,
    Seen,
    Stored,
    as_png,
    look,
    open_image,
    store,
)
from notice_lens.pairs.regions import AS_IT_SAYS, RegionFormat, as_mask, resample, run_lengths
from notice_lens.pairs.storage import scratch_file
from notice_lens.pairs.values import shown

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

MANY = 500
"""From so many images on a progress bar is worth its line."""


def store_all(rows: Iterable[Any], progress: bool = True, region_format: RegionFormat = AS_IT_SAYS) -> list[Stored]:
    """Return rows as records; files are read once each, several at a time.

    Args:
        rows: Mappings by column, or a DataFrame.
        progress: Whether to show a progress bar while many images are read.
        region_format: How masks and boxes are read that do not say so themselves.

    Raises:
        ValueError: No row has an obligatory column.
        TypeError: A row is no mapping by name.
    """
    rows = _as_mappings(rows)
    check_columns({column for row in rows for column in row}, rows)
    paths = {path for row in rows for column in IMAGES if (path := _path_of(row.get(column))) is not None}
    inventory = read_pictures(sorted(paths), progress=progress and len(paths) >= MANY)
    unreadable = {problem.id: problem.detail for problem in inventory.problems}

    def seen(stored: Mapping[str, Any]) -> Seen:
        if stored["bytes"] is not None or not stored["path"]:
            return look(stored)
        path = Path(stored["path"])
        if path not in inventory.pictures:
            raise ValueError(f"{shown_path(path)}: {unreadable.get(path.as_posix(), 'it was not read')}")
        picture = inventory.pictures[path]
        return Seen(picture.digest, picture.height, picture.width)

    return [store(row, number, seen, region_format) for number, row in enumerate(rows)]


def _as_mappings(rows: Any) -> list[Mapping[str, Any]]:
    """Return the rows of a DataFrame or an iterable as a list of mappings. Raises TypeError for anything else."""
    if type(rows).__name__ == "DataFrame" and hasattr(rows, "to_dict"):
        names = [name for name in rows.columns if list(rows.columns).count(name) > 1]
        if names:
            raise ValueError(f"the DataFrame has the column {names[0]!r} more than once; expected each once")
        rows = rows.to_dict("records")
    if isinstance(rows, Mapping | str) or hasattr(rows, "to_dict") or not isinstance(rows, Iterable):
        hint = "; from_dataset reads data sets" if hasattr(rows, "features") else ""
        raise TypeError(f"rows are an iterable of mappings, one a pair; got one {type(rows).__name__}{hint}")
    rows = list(rows)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"a row is a mapping by column; row {number} is a {type(row).__name__}")
        unnamed = [column for column in row if not isinstance(column, str)]
        if unnamed:
            raise TypeError(f"a row is a mapping by column; row {number} has a column of the name {shown(unnamed[0])}")
    return rows


def _path_of(image: Any) -> Path | None:
    """The file that an image is in; None where its bytes are given, or it is something else."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None
    return Path(image).absolute() if isinstance(image, str | PathLike) and str(image) else None


def store_built(built: Built) -> list[Stored]:
    """Rows of a builder as records. Their images were read by it, and are not read again."""
    return [store(row, number, None) for number, row in enumerate(built.rows)]


def check_columns(have: Iterable[str], rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raises ValueError where an obligatory column is missing altogether."""
    have = set(have)
    needed = [column for column in OBLIGATORY if column not in have]
    if rows and all(row.get("kind") == "match" for row in rows):
        needed = [column for column in needed if column not in MATCH_ANSWERS]
    if not needed or not (have or rows):
        return
    hints = [difflib.get_close_matches(column, sorted(have - set(COLUMNS)), 1) for column in needed]
    guesses = {column: hint[0] for column, hint in zip(needed, hints, strict=True) if hint}
    hint = f"; perhaps columns={guesses}" if guesses else ""
    raise ValueError(f"columns are missing: {', '.join(needed)}; there are {', '.join(sorted(have))}{hint}")


def renamed(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows under our column names; one of their columns may stand for several of ours."""
    taken = set(columns.values())
    return [
        {
            **{name: value for name, value in row.items() if name not in taken and name not in columns},
            **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row},
        }
        for row in rows
    ]


def resolve(
    rows: Iterable[Mapping[str, Any]], path: Path, folder: Path, columns: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The rows of a file under our column names, paths of images and masks starting from a folder.

    A path that leads out of the folder is refused: one problem of its row, which costs no other.
    """
    rows = list(rows)
    _check_names(columns, {column for row in rows for column in row}, str(path))
    resolved = renamed(rows, columns)
    check_columns({column for row in resolved for column in row}, resolved)
    for row in resolved:
        for column in IMAGES:
            image = row.get(column)
            if isinstance(image, Mapping):
                image = image.get("path") if image.get("bytes") is None else None
            if isinstance(image, str | PathLike) and str(image):
                row[column] = within(folder, str(image))
        for column in REGIONS:
            row[column] = _masks_within(folder, row.get(column))
    return resolved


def within(folder: Path, path: str) -> str | Refused:
    """The path of a file in a folder; refused where it leads out of it."""
    found = (folder / path).resolve()
    if found.is_relative_to(folder.resolve()):
        return str(found)
    return Refused(path, f"the path {path!r} leads out of {folder}; images= names the folder that holds all of them")


def _masks_within(folder: Path, regions: Any) -> Any:
    """Regions with the paths of mask files resolved."""
    if isinstance(regions, str):
        try:
            regions = json.loads(regions) if regions.strip() else None
        except (ValueError, RecursionError):
            return regions
    if not isinstance(regions, Mapping):
        return regions
    return {name: _mask_within(folder, region) for name, region in regions.items()}


def _mask_within(folder: Path, region: Any) -> Any:
    """A region whose mask file's path, given alone or beside a label, starts from a folder."""
    if isinstance(region, str):
        return within(folder, region)
    if isinstance(region, Mapping) and isinstance(region.get("mask"), str):
        mask = within(folder, region["mask"])
        return mask if isinstance(mask, Refused) else {**region, "mask": mask}
    return region


def _check_names(columns: Mapping[str, str], have: Iterable[str], what: str) -> None:
    """Raises ValueError where renamed columns are not there, or are none of ours."""
    have = list(have)
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise ValueError(f"columns={dict(columns)} gives our names first: " + one_of("column", ours, COLUMNS))
        if theirs not in have:
            raise ValueError(f"{what} has no column {theirs!r}; it has {', '.join(sorted(have))}")


def read_file(
    builder: str,
    read: Callable[[Path], list[dict[str, Any]]],
    path: str | PathLike[str],
    images: str | PathLike[str] | None,
    columns: Mapping[str, str] | None,
) -> tuple[list[dict[str, Any]], Manifest]:
    """The rows of a file under our column names, their paths resolved, and where they come from.

    Args:
        builder: For the manifest.
        read: Reads the file.
        path: The file.
        images: The folder that paths start from and stay in; None for the file's own.
        columns: What the file calls our columns.

    Raises:
        FileNotFoundError: There is no such file, or folder of images.
        ValueError: As `read`, or columns are missing.
    """
    path = Path(path)
    folder = path.parent if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"images={str(folder)!r}: there is no such folder")
    rows = resolve(read(path), path, folder, columns or {})
    return rows, Manifest(builder, path.name, sha256(path))


def rows_of_dataset(dataset: "Dataset | IterableDataset", columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a data set under our column names, images not decoded, class labels by their names.

    Raises:
        ValueError: A column is missing.
    """
    from datasets import Image

    # A stream may not know its features before it is read.
    features = dataset.features or {}
    dataset = dataset.with_format(None)
    for name, feature in features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    found = [
        {name: _with_names(value, features.get(name)) for name, value in row.items()}
        for row in cast("Iterable[Mapping[str, Any]]", dataset)
    ]
    have = list(features) or list(dict.fromkeys(column for row in found for column in row))
    _check_names(columns, have, "the data set")
    rows = renamed(found, columns)
    check_columns((set(have) - set(columns.values())) | set(columns), rows)
    return rows


def _with_names(value: Any, feature: Any) -> Any:
    """Return a value with the names of its class labels, at any depth; -1, no label, becomes None."""
    from datasets import ClassLabel

    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        return feature.int2str(value) if value >= 0 else None
    if isinstance(feature, Mapping):
        return {name: _with_names(value.get(name), own) for name, own in feature.items()}
    # Of lists of any kind; a Features object has no such attribute.
    if isinstance(value, list):
        return [_with_names(item, getattr(feature, "feature", None)) for item in value]
    return value


def one_dataset(dataset: Any) -> "Dataset | IterableDataset":
    """Return a data set, or the only split of several.

    Raises:
        TypeError: There are several splits, or it is no data set; the message says the way.
        ValueError: Its rows are changed by a transform as they are read.
    """
    from datasets import Dataset, IterableDataset

    if (
        isinstance(dataset, Mapping)
        and dataset
        and all(isinstance(d, Dataset | IterableDataset) for d in dataset.values())
    ):
        if len(dataset) > 1:
            splits = ", ".join(map(repr, dataset))
            raise TypeError(f"there are several splits, {splits}; take one, as dataset[{next(iter(dataset))!r}]")
        dataset = next(iter(dataset.values()))
    if not isinstance(dataset, Dataset | IterableDataset):
        raise TypeError(
            f"expected a datasets.Dataset, got a {type(dataset).__name__}; from_rows reads rows and DataFrames"
        )
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise ValueError(
            "the data set has a transform, which changes rows as they are read; dataset.map(...) changes them for "
            "good, and dataset.with_format(None) leaves them as they are stored"
        )
    return dataset


def resized(dataset: "Dataset", size: tuple[int, int]) -> "Dataset":
    """A data set of pairs with images of another size (height, width), and regions that fit them."""
    # Never from a cache: that of a saved folder would lie in it, and answer for code that has changed.
    return dataset.map(
        _resize,
        fn_kwargs={"size": size},
        features=dataset.features,
        desc="resizing",
        load_from_cache_file=False,
        cache_file_name=scratch_file(),
    )


def _resize(row: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for column in IMAGES:
        if row[column] is None:
            continue
        image = open_image(row[column]).resize((size[1], size[0]))
        changed[column] = {"path": None, "bytes": as_png(image)}
        changed[DIGESTS[column]] = digest(image)
    for column in REGIONS:
        masks = {item["region"]: as_mask(item) for item in row[column]}
        changed[column] = [{"region": name, **run_lengths(resample(mask, size))} for name, mask in masks.items()]
    return changed
