"""Rows of any origin on their way to records: tables, data sets, builders, other sizes."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from notice_lens.models.pictures import digest
from notice_lens.pairs.built import Built
from notice_lens.pairs.inventory import read_pictures
from notice_lens.pairs.problems import Problem
from notice_lens.pairs.records import (
    COLUMNS,
    DIGESTS,
    IMAGES,
    MATCH_ANSWERS,
    OBLIGATORY,
    REGIONS,
    Refused,
    Seen,
    as_png,
    look,
    open_image,
    store,
)
from notice_lens.pairs.regions import as_mask, resample, run_lengths

if TYPE_CHECKING:
    from datasets import Dataset

MANY = 500
"""From so many images on a progress bar is worth its line."""


class StoredRows(NamedTuple):
    """Rows as records, and what is wrong with them."""

    records: list[dict[str, Any]]
    problems: list[Problem]


def store_all(rows: Iterable[Any], progress: bool = True) -> StoredRows:
    """Rows as records; files are read once each, several at a time.

    Raises:
        ValueError: No row has an obligatory column.
        TypeError: A row is no mapping.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"a row is a mapping by column; row {number} is a {type(row).__name__}")
    check_columns({column for row in rows for column in row}, rows)
    paths = {str(row[column]) for row in rows for column in IMAGES if _is_path(row.get(column))}
    inventory = read_pictures(sorted(paths), progress=progress and len(paths) >= MANY)
    unreadable = {problem.id: problem.detail for problem in inventory.problems}

    def seen(stored: Mapping[str, Any]) -> Seen:
        if stored["bytes"] is not None or not stored["path"]:
            return look(stored)
        path = Path(stored["path"])
        if path not in inventory.pictures:
            raise ValueError(f"{stored['path']}: {unreadable.get(path.as_posix(), 'it was not read')}")
        picture = inventory.pictures[path]
        return Seen(picture.digest, picture.height, picture.width)

    stored = [store(row, number, seen) for number, row in enumerate(rows)]
    return StoredRows([one.record for one in stored], [problem for one in stored for problem in one.problems])


def _is_path(image: Any) -> bool:
    return isinstance(image, str | PathLike) and bool(str(image))


def store_built(built: Built) -> StoredRows:
    """Rows of a builder as records. Their images were read by it, and are not read again."""
    stored = [store(row, number, None) for number, row in enumerate(built.rows)]
    return StoredRows([one.record for one in stored], [problem for one in stored for problem in one.problems])


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
    """The rows under our column names."""
    ours = {theirs: name for name, theirs in columns.items()}
    return [{ours.get(name, name): value for name, value in row.items()} for row in rows]


def resolve(
    rows: Iterable[Mapping[str, Any]], path: Path, folder: Path, columns: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The rows of a file under our column names, paths of images and masks starting from a folder.

    A path that leads out of the folder is refused: one problem of its row, which costs no other.
    """
    resolved = renamed(rows, columns)
    have = {column for row in resolved for column in row}
    absent = [theirs for ours, theirs in columns.items() if ours not in have]
    if absent:
        raise ValueError(f"{path} has no column {absent[0]!r}; it has {', '.join(sorted(have))}")
    check_columns(have, resolved)
    for row in resolved:
        for column in IMAGES:
            if _is_path(row.get(column)):
                row[column] = within(folder, str(row[column]))
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
        except json.JSONDecodeError:
            return regions
    if not isinstance(regions, Mapping):
        return regions
    return {name: within(folder, value) if isinstance(value, str) else value for name, value in regions.items()}


def rows_of_dataset(dataset: "Dataset", columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a data set under our column names, images not decoded.

    Raises:
        ValueError: A column is missing.
    """
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    absent = [theirs for theirs in columns.values() if theirs not in dataset.column_names]
    if absent:
        raise ValueError(f"the data set has no column {absent[0]!r}; it has {', '.join(dataset.column_names)}")
    ours = {theirs: name for name, theirs in columns.items()}
    check_columns({ours.get(name, name) for name in dataset.column_names}, [{}] if not len(dataset) else [dataset[0]])
    return renamed(cast("Iterable[Mapping[str, Any]]", dataset), columns)


def resized(dataset: "Dataset", size: tuple[int, int]) -> "Dataset":
    """A data set of pairs with images of another size (height, width), and regions that fit them."""
    return dataset.map(_resize, fn_kwargs={"size": size}, features=dataset.features, desc="resizing")


def _resize(row: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for column in IMAGES:
        if row[column] is None:
            continue
        image = open_image(row[column]).resize((size[1], size[0]))
        changed[column] = {"path": None, "bytes": as_png(image)}
        if column in DIGESTS:
            changed[DIGESTS[column]] = digest(image)
    for column in REGIONS:
        masks = {item["region"]: as_mask(item, (0, 0)) for item in row[column]}
        changed[column] = [{"region": name, **run_lengths(resample(mask, size))} for name, mask in masks.items()]
    return changed
