"""One pair as it is stored: the columns, their types, and how a row of any origin becomes a record.

A record is a row as plain values: images as `{"path", "bytes"}`, roles as spans of characters, regions as run lengths.
Problems of a row are collected, never raised, so that one bad row costs no good one.
"""

import io
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from notice_lens.errors import one_of
from notice_lens.images import digest, shown_path, to_rgb
from notice_lens.pairs.io.values import as_text, is_missing, shown, storable
from notice_lens.pairs.problems import IMAGE, KIND, MISSING, NOT_TEXT, REGION, ROLE, Problem
from notice_lens.pairs.regions import AS_IT_SAYS, RegionFormat, as_run_lengths
from notice_lens.pairs.roles import as_spans

if TYPE_CHECKING:
    from datasets import Features

PairKind = Literal["vqa", "caption", "match"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)
MATCH_ANSWERS = {"correct_answer": "match", "incorrect_answer": "no match"}
"""The default answers of a row of kind `match`."""
IMAGES = ("clean_image", "corrupt_image", "donor_image")
DIGESTS = {"clean_image": "clean_digest", "corrupt_image": "corrupt_digest", "donor_image": "donor_digest"}
"""The column that tells an image by its content, for finding pairs that share their images."""
OBLIGATORY = ("id", "task", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
TEXTS = ("id", "task", "group", "kind", "clean_prompt", "corrupt_prompt", "correct_answer", "incorrect_answer")
TEXTS += ("corrupt_answer", "donor_prompt")
REGIONS = {"clean_regions": "clean_image", "corrupt_regions": "corrupt_image"}
"""The columns of regions, each with the image that it divides."""
PAIR_COLUMNS = (*TEXTS, *IMAGES, "roles", *REGIONS, *DIGESTS.values())


class Refused(NamedTuple):
    """A path that is not followed, and why."""

    path: str
    why: str


class Stored(NamedTuple):
    """A row as a record, and its problems."""

    record: dict[str, Any]
    problems: list[Problem]


def features() -> "Features":
    """The types of the columns that every data set of pairs has; `datasets` decodes no image by itself."""
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    texts = {column: Value("string") for column in (*TEXTS, *DIGESTS.values())}
    images = {column: ImageFeature(decode=False) for column in IMAGES}
    span = {"role": Value("string"), "start": Value("int32"), "end": Value("int32")}
    region = {"region": Value("string"), "size": List(Value("int32")), "counts": List(Value("int32"))}
    return Features({**texts, **images, "roles": List(span), **{column: List(region) for column in REGIONS}})


class Seen(NamedTuple):
    """Digest of an image's content, and its height and width in pixels."""

    digest: str
    height: int
    width: int


def store(
    row: Mapping[str, Any],
    number: int,
    look: Callable[[Mapping[str, Any]], Seen] | None,
    region_format: RegionFormat = AS_IT_SAYS,
) -> Stored:
    """A row as a record.

    Args:
        row: Values by column; see `MinimalPairs`. Columns of other names are kept as they are.
        number: Which row, for rows without an id.
        look: Reads a stored image, or raises ValueError; None where the row's builder has read its images and gives
            their digests.
        region_format: How masks and boxes are read that do not say so themselves.
    """
    noted: list[tuple[str, str]] = []

    def note(reason: str, detail: str) -> None:
        noted.append((reason, detail))

    record = {column: value for column, value in row.items() if column not in PAIR_COLUMNS}
    record |= _texts(row, note)
    record["id"] = record["id"] or f"row {number}"
    sizes: dict[str, tuple[int, int]] = {}
    for column in IMAGES:
        try:
            record[column] = stored_image(row.get(column))
        except (ValueError, OSError) as error:
            record[column] = None
            note(IMAGE, f"{column}: {error}")
        record[DIGESTS[column]] = row.get(DIGESTS[column]) if look is None else None
        if record[column] is not None and look is not None:
            try:
                seen = look(record[column])
            except ValueError as error:
                note(IMAGE, f"{column}: {error}")
                continue
            sizes[column] = (seen.height, seen.width)
            record[DIGESTS[column]] = seen.digest
    record["roles"] = _roles(row.get("roles"), record["clean_prompt"], note)
    for column, image in REGIONS.items():
        record[column] = _regions(row.get(column), column, sizes.get(image), region_format, note)
    return Stored(record, [Problem(record["id"], *what) for what in noted])


def _texts(row: Mapping[str, Any], note: Any) -> dict[str, str | None]:
    """Return the columns of text, with defaults filled in; missing values and values that are not text are noted."""
    texts: dict[str, str | None] = {}
    refused = set()
    for column in TEXTS:
        try:
            texts[column] = as_text(row.get(column))
        except ValueError as error:
            texts[column] = None
            refused.add(column)
            note(NOT_TEXT, f"{column}: {error}")
    texts |= {column: texts[column] or None for column in TEXTS if column not in OBLIGATORY}
    texts["kind"] = texts["kind"] or "vqa"
    texts["group"] = texts["group"] or texts["task"]
    if texts["kind"] == "caption":
        texts["clean_prompt"] = texts["clean_prompt"] or ""
    if texts["kind"] not in PAIR_KINDS:
        note(KIND, one_of("kind of pair", texts["kind"], PAIR_KINDS))
    if texts["kind"] == "match":
        texts |= {column: texts[column] or answer for column, answer in MATCH_ANSWERS.items()}
    for column in OBLIGATORY:
        value = texts[column] if column in texts else row.get(column)
        # A caption may begin with its first word.
        may_be_empty = column == "clean_prompt" and texts["kind"] == "caption"
        if column not in refused and (is_missing(value) or (isinstance(value, str) and not value and not may_be_empty)):
            note(MISSING, f"{column} is missing")
    return texts


def stored_image(image: Any) -> dict[str, Any] | None:
    """Return an image as `datasets` stores it: a path as it is, anything else as the bytes of a PNG, no image as None.

    Raises:
        ValueError: It is nothing that can be read as an image.
    """
    if is_missing(image) or (isinstance(image, str) and not image):
        return None
    if isinstance(image, Mapping):  # as `datasets` has it
        path, content = image.get("path"), image.get("bytes")
        if isinstance(path, Refused):
            raise ValueError(path.why)
        # A path in the place of bytes would be opened, past all checks of paths.
        if not isinstance(content, bytes | None) or not isinstance(path, str | PathLike | None):
            kinds = f"{type(path).__name__} and {type(content).__name__}"
            raise ValueError(f"an image's 'path' and 'bytes' are text and bytes; got {kinds}")
        return {"path": None if path is None else str(path), "bytes": content}
    if isinstance(image, str | PathLike):
        # Absolute, so that it stays the same file when the working folder changes.
        path = str(Path(image).absolute())
        # Arrow cannot hold a name that is no text: then it holds the picture.
        content = None if storable(path) == path else Path(path).read_bytes()
        return {"path": storable(path), "bytes": content}
    if isinstance(image, bytes):
        return {"path": None, "bytes": image}
    if isinstance(image, Refused):
        raise ValueError(image.why)
    try:
        return {"path": None, "bytes": as_png(to_rgb(image))}
    except ValueError as error:
        raise ValueError(f"{type(image).__name__}: {error}") from error


def as_png(image: Image.Image) -> bytes:
    """The bytes of a PNG, which loses nothing; quick rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def open_image(stored: Mapping[str, Any]) -> Image.Image:
    """A stored image in RGB. Raises ValueError where it cannot be read."""
    source = stored["bytes"] if stored["bytes"] is not None else stored["path"]
    try:
        return to_rgb(source)
    except ValueError as error:
        name = shown_path(stored["path"]) if stored["path"] else "an image"
        raise ValueError(f"{name}: {error}") from error


def look(stored: Mapping[str, Any]) -> Seen:
    """Read a stored image. Raises ValueError if it cannot be read."""
    image = open_image(stored)
    return Seen(digest(image), image.height, image.width)


def _roles(roles: Any, prompt: str | None, note: Any) -> list[dict[str, Any]]:
    """Roles as a list of spans; a string is JSON, as tables hold it."""
    if is_missing(roles) or prompt is None:
        return []
    try:
        named = _named(roles, "role")
        spans = as_spans({role: _span(value) for role, value in named.items()}, prompt)
    except ValueError as error:
        note(ROLE, str(error))
        return []
    return [{"role": role, "start": start, "end": end} for role, (start, end) in spans.items()]


def _span(value: Any) -> Any:
    return (value["start"], value.get("end")) if isinstance(value, Mapping) and "start" in value else value


def _regions(
    regions: Any, column: str, size: tuple[int, int] | None, region_format: RegionFormat, note: Any
) -> list[dict[str, Any]]:
    """Return regions as a list of run lengths; regions that cannot be read, or fit no picture, are noted."""
    if is_missing(regions) or size is None:
        return []
    stored = []
    try:
        for region, value in _named(regions, "region").items():
            if isinstance(value, Refused):
                raise ValueError(value.why)
            if not is_missing(value):
                stored.append({"region": region, **as_run_lengths(value, size, region_format)})
    except (TypeError, ValueError, OverflowError) as error:
        note(REGION, f"{column}: {error}")
    return stored


def from_json(text: str) -> Any:
    """Return the value of JSON text, {} of blank text; text that was encoded twice, as by pandas, is decoded wholly.

    Raises:
        ValueError: It is no JSON, or its brackets are nested too deeply.
    """
    value: Any = text
    while isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except RecursionError:
            raise ValueError("brackets are nested too deeply") from None
    return value


def _named(value: Any, what: str) -> dict[str, Any]:
    """Return roles or regions by name, from a mapping, from JSON, or from a list of records as they are stored.

    Raises:
        ValueError: The value is not one of these, or a name is not text.
    """
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError as error:
            raise ValueError(f'{what}s are written as JSON, such as {{"{what}": ...}}; {error}') from error
    if isinstance(value, list | tuple | np.ndarray) and all(
        isinstance(item, Mapping) and what in item for item in value
    ):
        value = {item[what]: {key: part for key, part in item.items() if key != what} for item in value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{what}s are a mapping by name; got {type(value).__name__}")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the name of a {what} is text; got {shown(name)}")
    return dict(value)
