"""Rows of any origin on their way to records: mappings, data sets, builders, other columns and sizes."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from notice_lens.coco import run_lengths
from notice_lens.errors import one_of
from notice_lens.files import inside, sha256
from notice_lens.images import digest, shown_path
from notice_lens.models.layout import resample
from notice_lens.pairs.image_folder import read_pictures
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.io.records import (
    DIGESTS,
    IMAGES,
    MATCH_ANSWERS,
    OBLIGATORY,
    PAIR_COLUMNS,
    REGIONS,
    Refused,
    Seen,
    Stored,
    as_png,
    from_json,
    look,
    open_image,
    store,
)
from notice_lens.pairs.io.storage import scratch_file
from notice_lens.pairs.io.values import shown, storable, unstorable, unstorable_name
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.problems import ROW, TEXT, Problem
from notice_lens.pairs.regions import AS_IT_SAYS, RegionFormat, as_mask

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


MANY_PICTURES = 500
"""From so many images on a progress bar is worth its line."""
LONGEST_NAME = 500
"""Ids, tasks and groups may have so many characters."""
ALIKE = 0.6
"""A column that is missing is guessed to be one whose name is so much like its own, from 0 to 1."""
MAY_LACK = ("id", "task")
"""Columns that a table may lack as a whole: rows are numbered then, and are of one task."""
TASK = "pairs"
"""The task of pairs that name none, and are in no file whose name could stand for one."""


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
    rows, problems = _as_mappings(rows)
    check_columns({column for row in rows for column in row}, rows)
    rows = named(rows)
    paths = {path for row in rows for column in IMAGES if (path := _path_of(row.get(column))) is not None}
    inventory = read_pictures(sorted(paths), progress=progress and len(paths) >= MANY_PICTURES)
    broken = {problem.id: problem.detail for problem in inventory.problems}

    def seen(stored: Mapping[str, Any]) -> Seen:
        if stored["bytes"] is not None or not stored["path"]:
            return look(stored)
        path = Path(stored["path"])
        if path not in inventory.pictures:
            raise ValueError(f"{shown_path(path)}: {broken.get(path.as_posix(), 'it was not read')}")
        picture = inventory.pictures[path]
        return Seen(picture.digest, picture.height, picture.width)

    stored = [_stored(row, number, seen, region_format) for number, row in enumerate(rows)]
    return stored + [unreadable(problem) for problem in problems]


def _as_mappings(rows: Any) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    """Return the rows of a DataFrame or an iterable as mappings, and the problems that stand in place of rows.

    Raises:
        TypeError: It is something else.
    """
    if type(rows).__name__ == "DataFrame" and hasattr(rows, "to_dict"):
        names = [name for name in rows.columns if list(rows.columns).count(name) > 1]
        if names:
            raise ValueError(f"the DataFrame has the column {names[0]!r} more than once; expected each once")
        rows = rows.to_dict("records")
    if isinstance(rows, Mapping | str) or hasattr(rows, "to_dict") or not isinstance(rows, Iterable):
        hint = "; from_dataset reads data sets" if hasattr(rows, "features") else ""
        raise TypeError(f"rows are an iterable of mappings, one a pair; got one {type(rows).__name__}{hint}")
    rows = list(rows)
    problems = [row for row in rows if isinstance(row, Problem)]
    rows = [row for row in rows if not isinstance(row, Problem)]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"a row is a mapping by column; row {number} is a {type(row).__name__}")
        unnamed = [column for column in row if not isinstance(column, str)]
        if unnamed:
            raise TypeError(f"a row is a mapping by column; row {number} has a column of the name {shown(unnamed[0])}")
    return rows, problems


def _stored(
    row: Mapping[str, Any],
    number: int,
    seen: Callable[[Mapping[str, Any]], Seen] | None,
    region_format: RegionFormat = AS_IT_SAYS,
) -> Stored:
    """Return a row as a record that Arrow can hold; whatever is wrong with it is a problem of this row alone."""
    try:
        record, problems = store(row, number, seen, region_format)
    except (ValueError, TypeError, ArithmeticError, RecursionError, OSError) as error:
        return unreadable(Problem(f"row {number}", ROW, f"{type(error).__name__}: {error}"))
    for column in list(record):
        value = record[column]
        why = unstorable_name(column) or unstorable(value)
        if not why and column in ("id", "task", "group") and len(value or "") > LONGEST_NAME:
            why = f"{len(value):,} characters; expected {LONGEST_NAME} or fewer"
        if why:
            problems.append(Problem(record["id"][:LONGEST_NAME], TEXT, f"{column:.{LONGEST_NAME}}: {why}"))
            record[column] = storable(value[:LONGEST_NAME]) if isinstance(value, str) else type(value)()
        if unstorable_name(column):
            del record[column]
    return Stored(record, problems)


def unreadable(problem: Problem) -> Stored:
    """Return a record for something that cannot be read as a row."""
    lists = {column: [] for column in ("roles", *REGIONS)}
    return Stored({**dict.fromkeys(PAIR_COLUMNS), **lists, "id": problem.id}, [problem])


def _path_of(image: Any) -> Path | None:
    """Return the file that an image is in; None where its bytes are given, or it is something else."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None
    return Path(image).absolute() if isinstance(image, str | PathLike) and str(image) else None


def store_built(built: Built) -> list[Stored]:
    """Return the rows of a builder as records. Their images were read by it, and are not read again."""
    return [_stored(row, number, None) for number, row in enumerate(built.rows)]


def check_columns(have: Iterable[str], rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raise ValueError if a required column is missing altogether."""
    have = set(have)
    needed = [column for column in OBLIGATORY if column not in have and column not in MAY_LACK]
    if rows and all(row.get("kind") == "match" for row in rows):
        needed = [column for column in needed if column not in MATCH_ANSWERS]
    if rows and all(row.get("kind") == "caption" for row in rows):
        needed = [column for column in needed if column != "clean_prompt"]
    if not needed or not (have or rows):
        return
    guesses = _guesses(needed, have - set(PAIR_COLUMNS))
    hint = f"; perhaps columns={guesses}" if guesses else ""
    raise ValueError(f"columns are missing: {', '.join(needed)}; there are {', '.join(sorted(have))}{hint}")


def _guesses(needed: Sequence[str], have: Iterable[str]) -> dict[str, str]:
    """Return likely columns for missing ones: those that are most alike together, each guessed for one alone."""
    from scipy.optimize import linear_sum_assignment

    theirs = sorted(have)
    alike = np.array([[difflib.SequenceMatcher(None, one, ours).ratio() for one in theirs] for ours in needed])
    alike[alike < ALIKE] = 0
    rows, columns = map(list[int], linear_sum_assignment(-alike.reshape(len(needed), len(theirs))))
    return {needed[i]: theirs[j] for i, j in zip(rows, columns, strict=True) if alike[i, j]}


def named(rows: Sequence[Mapping[str, Any]], task: str = TASK) -> list[dict[str, Any]]:
    """Return rows with an id and a task: without a column `id` rows are numbered from 1, and without `task` share one.

    A row that alone has no id stays as it is: one is missing there.

    Args:
        rows: By column.
        task: Where no row names one.
    """
    lacking = {*MAY_LACK} - {column for row in rows for column in row}
    width = len(str(len(rows)))
    names = {"id": lambda number: f"{number:0{width}}", "task": lambda number: task}
    return [{**row, **{column: names[column](number) for column in lacking}} for number, row in enumerate(rows, 1)]


def renamed(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], given: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the rows under our column names; one of their columns may stand for several of ours.

    Args:
        rows: With their names.
        columns: Their name by ours.
        given: Values by column, for rows without a value of their own.
    """
    taken = set(columns.values())
    found = []
    for row in rows:
        own = {name: value for name, value in row.items() if name not in taken and name not in columns}
        own |= {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        found.append({**own, **{column: value for column, value in given.items() if own.get(column) in (None, "")}})
    return found


def resolve(
    rows: Iterable[Mapping[str, Any]],
    path: Path,
    folder: Path,
    columns: Mapping[str, str],
    given: Mapping[str, str],
    confine: bool,
) -> list[dict[str, Any]]:
    """Return the rows of a file under our column names, paths of images and masks starting from a folder.

    A path that leads out of the folder is refused: one problem of its row, which costs no other.
    """
    rows = list(rows)
    if rows:
        _check_names(columns, {column for row in rows for column in row}, str(path))
    resolved = renamed(rows, columns, given)
    check_columns({column for row in resolved for column in row}, resolved)
    resolved = named(resolved, path.stem or TASK)
    for row in resolved:
        for column in IMAGES:
            image = row.get(column)
            if isinstance(image, Mapping):
                row[column] = {**image, "path": _within(folder, image.get("path"), confine)}
            else:
                row[column] = _within(folder, image, confine)
        for column in REGIONS:
            row[column] = _masks_within(folder, row.get(column), confine)
    return resolved


def _within(folder: Path, path: Any, confine: bool) -> Any:
    """Return where a path that stands in a table leads; refused where that is out of its folder. Others stay."""
    if not isinstance(path, str | PathLike) or not str(path):
        return path
    try:
        return str(inside(folder, path, confine=confine))
    except ValueError as error:
        return Refused(str(path), f"{error}; images= names the folder that paths start from and stay in")


def _masks_within(folder: Path, regions: Any, confine: bool) -> Any:
    """Return regions with the paths of mask files resolved; no JSON is left in them that could hide a path."""
    if isinstance(regions, str):
        try:
            regions = from_json(regions)
        except ValueError:
            return regions
    if not isinstance(regions, Mapping):
        return regions
    return {name: _mask_within(folder, region, confine) for name, region in regions.items()}


def _mask_within(folder: Path, region: Any, confine: bool) -> Any:
    """Return a region whose mask file's path, given alone or beside a label, starts from a folder."""
    if isinstance(region, Mapping) and isinstance(region.get("mask"), str):
        mask = _within(folder, region["mask"], confine)
        return mask if isinstance(mask, Refused) else {**region, "mask": mask}
    return _within(folder, region, confine)


def _check_names(columns: Mapping[str, str], have: Iterable[str], what: str) -> None:
    """Raise ValueError for renamed columns that are missing, or whose new name is unknown."""
    have = list(have)
    for ours, theirs in columns.items():
        if ours not in PAIR_COLUMNS:
            raise ValueError(f"columns={dict(columns)} gives our names first: " + one_of("column", ours, PAIR_COLUMNS))
        if theirs not in have:
            raise ValueError(f"{what} has no column {theirs!r}; it has {', '.join(sorted(have))}")


def read_file(
    builder: str,
    read: Callable[[Path], list[Any]],
    path: str | PathLike[str],
    images: str | PathLike[str] | None,
    columns: Mapping[str, str] | None,
    given: Mapping[str, str],
    confine: bool,
) -> tuple[list[Any], Manifest]:
    """Return the rows of a file under our column names, their paths resolved, and where they come from.

    Args:
        builder: For the manifest.
        read: Reads the file: mappings, and problems in place of rows that cannot be read.
        path: The file.
        images: The folder that paths start from and stay in; None for the file's own.
        columns: The file's names of our columns.
        given: Values by column, for rows without a value of their own.
        confine: Whether links that lead out of the folder of images are refused.

    Raises:
        FileNotFoundError: There is no such file, or folder of images.
        ValueError: As `read`, or columns are missing.
    """
    path = Path(path)
    folder = path.parent if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"images={str(folder)!r}: there is no such folder")
    found = read(path)
    rows = [row for row in found if not isinstance(row, Problem)]
    problems = [row for row in found if isinstance(row, Problem)]
    if rows or not problems:
        rows = resolve(rows, path, folder, columns or {}, given, confine)
    return [*rows, *problems], Manifest(builder, path.name, sha256(path))


def rows_of_dataset(
    dataset: "Dataset | IterableDataset", columns: Mapping[str, str], given: Mapping[str, str]
) -> list[dict[str, Any]]:
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
    rows = renamed(found, columns, given)
    check_columns((set(have) - set(columns.values())) | set(columns) | set(given), rows)
    return named(rows)


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
