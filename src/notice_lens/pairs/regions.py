"""Regions: the pixels, and the patches, that show a thing; kept as COCO run lengths, whatever their source.

A mask says by its content which pixels are meant (`masks.py`). Boxes and polygons are read in pixels, from the upper
left corner of the picture; a pixel belongs to them where its centre lies inside. Numbers that could mean two things are
refused, with what settles it; sizes that come from files are checked before anything of that size is made.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from notice_lens.coco import run_lengths
from notice_lens.errors import one_of
from notice_lens.images import as_stored, check_pixels, shown_path
from notice_lens.pairs.masks import object_of_picture, object_of_values
from notice_lens.pairs.problems import PROBLEMS_SHOWN
from notice_lens.plain_text import printable

Mask = Bool[np.ndarray, "height width"]
BoxFormat = Literal["xywh", "xyxy", "cxcywh", "xywhn", "xyxyn", "cxcywhn"]
"""The meaning of a box's four numbers, in torchvision's words: x and y of the upper left corner with width and height,
two corners, or the centre with width and height. With an n they are shares of the picture's width and height."""
_SLACK = 1.0
"""How far boxes and polygons may reach over the edge of their picture, in pixels: rounding."""
_MOST_PIXELS = 2**31 - 1
"""As many pixels as run lengths of 32 bits can count."""
_FORMS = (
    "a region is a mask [height, width], an image file, COCO run lengths, a box of four numbers, COCO's polygons, or "
    'a mapping: {"mask": ..., "label": 1} or {"box": [...], "box_format": "xyxy"}'
)


class SmallRegion(UserWarning):
    """A region covers half of no patch, so that it has no image positions.

    Attributes:
        regions: The pair and the name of each such region.
    """

    def __init__(self, message: str, regions: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.regions = list(regions)

    def in_short(self) -> str:
        """Return how many regions these are, of how many pairs, in one sentence."""
        pairs, names = (list(dict.fromkeys(each)) for each in zip(*self.regions, strict=True))
        what = "1 region" if len(self.regions) == 1 else f"{len(self.regions)} regions"
        of, verb = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs", "covers" if what == "1 region" else "cover"
        return printable(
            f"{what} of {of} ({', '.join(names)}) {verb} half of no patch, so no attention counts as inside and "
            "effects there are NaN"
        )


@dataclass(frozen=True)
class LostRegions:
    """Regions that cover half of no position of a grid.

    Attributes:
        regions: Of each the pair's id, its name, and the largest share of a position that it covers.
        grids: Rows and columns, of each grid of a picture.
    """

    regions: Sequence[tuple[str, str, float]]
    grids: Sequence[tuple[int, int]]

    def named(self, names: Iterable[str]) -> "LostRegions":
        """Return those of some names."""
        kept = set(names)
        return LostRegions([one for one in self.regions if one[1] in kept], self.grids)

    def warn(self, stacklevel: int = 2) -> None:
        """Warn that these objects are too small, or too thin, if there are any."""
        if not self.regions:
            return
        shown = [
            f"{pair!r}, region {region!r} ({largest:.0%} of a patch)"
            for pair, region, largest in self.regions[:PROBLEMS_SHOWN]
        ]
        more = [f"and {len(self.regions) - PROBLEMS_SHOWN} more"] if len(self.regions) > PROBLEMS_SHOWN else []
        sizes = " and ".join(f"{rows} x {columns}" for rows, columns in dict.fromkeys(self.grids))
        message = printable(
            f"regions that cover half of no patch have no image positions on this grid of {sizes}, so "
            f"effects there are NaN and no attention counts as inside: {'; '.join(shown + more)}"
        )
        warnings.warn(SmallRegion(message, [(pair, region) for pair, region, _ in self.regions]), stacklevel=stacklevel)


@dataclass(frozen=True)
class RegionFormat:
    """Options for reading regions whose content is ambiguous.

    Attributes:
        label: The value, or values, of a mask that are the object, for masks that hold indices.
        box_format: The meaning of a box's four numbers; None for "xywh" unless something contradicts it.

    Raises:
        ValueError: There is no such format of boxes.
    """

    # Cells of tables hold anything.
    label: Any = None
    box_format: Any = None

    def __post_init__(self) -> None:
        if self.box_format is not None and self.box_format not in get_args(BoxFormat):
            raise ValueError(one_of("box_format", str(self.box_format), get_args(BoxFormat)))

    def options(self) -> dict[str, Any]:
        """Return the settings that are given, for a manifest."""
        return {name: value for name, value in vars(self).items() if value is not None}


AS_IT_SAYS = RegionFormat()


def as_run_lengths(
    region: Any, size: tuple[int, int], region_format: RegionFormat = AS_IT_SAYS
) -> dict[str, list[int]]:
    """Return a region as uncompressed COCO run lengths: `size` (height, width) and `counts`.

    Args:
        region: A mask (array, PIL image or image file; see `masks.py`), COCO run lengths, compressed or not, a box,
            COCO's polygons (lists x, y, x, y, ...), or a mapping {"mask": ..., "label": ...} or {"box": ...,
            "box_format": ...}.
        size: Height and width of the picture, in pixels.
        region_format: How it is to be read, where it does not say so itself.

    Raises:
        ValueError: It is not one of these, can be read in two ways, or is of another size than the picture; or it is
            empty, which only run lengths and boolean arrays may be.
    """
    mask = as_mask(region, size, region_format)
    if mask.shape != tuple(size):
        raise ValueError(f"it is {mask.shape[0]} x {mask.shape[1]} pixels, its picture {size[0]} x {size[1]}")
    return run_lengths(mask)


def as_mask(
    region: Any, size: tuple[int, int] | None = None, region_format: RegionFormat = AS_IT_SAYS
) -> Bool[np.ndarray, "height width"]:
    """Return a region as a mask, bool [height, width]; arguments and errors as of `as_run_lengths`.

    Without a size, run lengths may have any, and boxes and polygons are refused.
    """
    if isinstance(region, Mapping):
        return _from_mapping(region, size, region_format)
    if isinstance(region, str | PathLike):
        try:
            return object_of_picture(as_stored(region), region_format.label)
        except ValueError as error:
            raise ValueError(f"{shown_path(region)} cannot be read: {error}") from error
    if isinstance(region, Image.Image):
        return object_of_picture(as_stored(region), region_format.label)
    if isinstance(region, Tensor):
        region = region.detach().cpu().numpy()
    if _is_polygons(region, size):
        return _from_polygons(region, _needed(size, "polygons need"))
    try:
        array = np.asarray(region)
    except ValueError:
        raise ValueError(f"{_FORMS}; got a {type(region).__name__} of parts of unequal length") from None
    if array.shape == (4,) and array.dtype.kind in "iuf":
        return _from_box(array.astype(float), _needed(size, "a box needs"), region_format.box_format)
    if array.ndim == 2 and array.size and array.dtype.kind in "biuf":
        return object_of_values(array, f"a {array.dtype} array", region_format.label)
    raise ValueError(f"{_FORMS}; got {type(region).__name__} of shape {list(array.shape)}")


def _needed(size: tuple[int, int] | None, what: str) -> tuple[int, int]:
    if size is None:
        raise ValueError(f"{what} the size of its picture")
    return size


def _from_mapping(region: Mapping[str, Any], size: tuple[int, int] | None, region_format: RegionFormat) -> Mask:
    """Return the mask of run lengths, or of a mask or box that says how it is to be read."""
    # Tables have None in columns that other rows fill.
    given = {name: value for name, value in region.items() if value is not None}
    if {"size", "counts"} <= given.keys():
        return _from_run_lengths(given["size"], given["counts"], size)
    for form, option in (("mask", "label"), ("box", "box_format")):
        if form in given and given.keys() <= {form, option} and not isinstance(given[form], Mapping):
            options = {"label": region_format.label, "box_format": region_format.box_format, **given}
            return as_mask(given[form], size, RegionFormat(options["label"], options["box_format"]))
    got = ", ".join(map(str, region)) or "nothing"
    raise ValueError(f"run lengths have 'size' and 'counts'; got {got}. {_FORMS[0].upper()}{_FORMS[1:]}")


def _from_box(box: Float[np.ndarray, "4"], size: tuple[int, int], box_format: BoxFormat | None) -> Mask:
    """Return the mask of a box whose numbers are unambiguous, or are read in the given format."""
    height, width = size
    if not np.isfinite(box).all():
        raise ValueError(f"the box {box.tolist()} is not finite; expected four numbers")
    if box_format is None:
        box_format = "xywh"
        _check_unambiguous(box, size)
    left, top, right, bottom = _corners(box, size, box_format)
    said = f"the box {box.tolist()}, read as {box_format},"
    if right <= left or bottom <= top:
        raise ValueError(f"{said} has no area")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ValueError(f"{said} lies outside of the picture, {height} x {width} pixels")
    if not _inside(np.array([left, right]), np.array([top, bottom]), size):
        raise ValueError(
            f"{said} runs over the edge of the picture, {height} x {width} pixels; is it of another format?"
        )
    rows, columns = (np.arange(n) + 0.5 for n in size)
    mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return _not_empty(said, mask)


def _check_unambiguous(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> None:
    """Raise ValueError if a box without a format may be something other than x, y, width, height in pixels."""
    question = f"box_format= says which of {', '.join(get_args(BoxFormat))} it is"
    if (box >= 0).all() and (box <= 1).all():
        raise ValueError(f"the box {box.tolist()} lies between 0 and 1: are these shares of the picture? {question}")
    left, top, right, bottom = box
    # From the upper left corner of the picture on both are the same.
    if right > left and bottom > top and (left or top) and _inside(box[::2], box[1::2], size):
        raise ValueError(f"the box {box.tolist()} may be two corners as well as x, y, width, height: {question}")
    left, top, right, bottom = _corners(box, size, "xywh")
    if box[2] > 0 and box[3] > 0 and not _inside(np.array([left, right]), np.array([top, bottom]), size):
        raise ValueError(
            f"the box {box.tolist()} as x, y, width, height runs over the edge of the picture or lies outside, "
            f"{size[0]} x {size[1]} pixels: {question}"
        )


def _corners(box: Float[np.ndarray, "4"], size: tuple[int, int], box_format: BoxFormat) -> Float[np.ndarray, "4"]:
    """Return left, top, right and bottom of a box, in pixels."""
    if box_format.endswith("n"):
        box = box * [size[1], size[0], size[1], size[0]]
    first, second = box[:2], box[2:]
    match box_format.removesuffix("n"):
        case "xyxy":
            return box
        case "cxcywh":
            return np.concatenate([first - second / 2, first + second / 2])
        case _:
            return np.concatenate([first, first + second])


def _inside(xs: Float[np.ndarray, " point"], ys: Float[np.ndarray, " point"], size: tuple[int, int]) -> bool:
    """Return whether points lie in a picture, up to rounding."""
    return all(
        values.min() >= -_SLACK and values.max() <= side + _SLACK for values, side in zip((ys, xs), size, strict=True)
    )


def _is_polygons(region: Any, size: tuple[int, int] | None) -> bool:
    """Return whether a region is lists of coordinates: lists in a list that are not the rows of a mask."""
    if not isinstance(region, list | tuple) or not region:
        return False
    if not all(isinstance(part, list | tuple) or (isinstance(part, np.ndarray) and part.ndim) for part in region):
        return False
    return size is None or {(len(region), len(part)) for part in region} != {tuple(size)}


def _from_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> Mask:
    """Return the mask of COCO's polygons, which are parts of one object."""
    mask = np.zeros(size, bool)
    for polygon in polygons:
        try:
            numbers = np.asarray(polygon, dtype=float)
            points = numbers.reshape(-1, 2) if numbers.ndim == 1 else numbers[:0]
        except (TypeError, ValueError, OverflowError):
            points = np.empty(0)
        if len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"a polygon is a list x, y, x, y, ... of three points or more; got {_short(polygon)}")
        if not _inside(points[:, 0], points[:, 1], size):
            raise ValueError(
                f"the polygon {_short(polygon)} runs over the edge of the picture, {size[0]} x {size[1]} pixels"
            )
        if (points >= 0).all() and (points <= 1).all():
            raise ValueError(f"the polygon {_short(polygon)} lies between 0 and 1; expected x and y in pixels")
        mask |= _filled(points, size)
    return _not_empty("the polygons", mask)


def _not_empty(what: str, mask: Mask) -> Mask:
    if not mask.any():
        raise ValueError(f"no pixel has its centre within {what.removesuffix(',')}")
    return mask


def _filled(points: Float[np.ndarray, "point 2"], size: tuple[int, int]) -> Mask:
    """Return the pixels whose centres lie inside a polygon: an odd number of edges lies to their left."""
    height, width = size
    turns = np.zeros((height, width + 1), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        first, last = np.clip(np.ceil(np.sort([y0, y1]) - 0.5).astype(int), 0, height)
        rows = np.arange(first, last)
        crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0) if y1 != y0 else 0)
        turns[rows, np.clip(np.ceil(crossings - 0.5).astype(int), 0, width)] ^= True
    return np.logical_xor.accumulate(turns, axis=1)[:, :width]


def _short(values: Any) -> str:
    """Return values for a message, cut after some sixty characters."""
    said = str(values[:60] if isinstance(values, str | bytes | list | tuple) else values)
    return said if len(said) <= 60 else said[:57] + "..."


def _from_run_lengths(size: Any, counts: Any, expected: tuple[int, int] | None) -> Mask:
    """Return the mask of run lengths; every number is checked before anything of its size is made."""
    sides = _whole_numbers("size", size, _MOST_PIXELS).tolist()
    if len(sides) != 2 or not all(sides):
        raise ValueError(f"the size of run lengths is [height, width]; got {_short(size)}")
    height, width = sides
    if expected is not None and (height, width) != tuple(expected):
        raise ValueError(f"it is {height} x {width} pixels, its picture {expected[0]} x {expected[1]}")
    check_pixels(height, width)
    pixels = height * width
    if isinstance(counts, str | bytes):
        counts = _uncompressed(counts if isinstance(counts, bytes) else counts.encode("utf-8", "surrogatepass"))
    runs = _whole_numbers("counts", counts, min(pixels, _MOST_PIXELS))
    # No run is longer than the picture, so that their sum cannot wrap.
    if runs.sum() != pixels:
        raise ValueError(f"run lengths add up to {runs.sum()} pixels, not to {height} x {width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def _whole_numbers(name: str, values: Any, most: int) -> Int[np.ndarray, " n"]:
    """Return whole numbers from 0 to `most`. Raises ValueError if they are not."""
    try:
        array = np.asarray(values)
    except ValueError:  # of unequal depth
        array = np.empty(0)
    numbers = array.ndim == 1 and array.size and array.dtype.kind in "iuf"
    # NaN fails every comparison.
    if numbers and bool(((array >= 0) & (array <= most) & (array == np.floor(array))).all()):
        return array.astype(np.int64)
    raise ValueError(f"the {name} of run lengths are whole numbers from 0 to {most:,}; got {_short(values)}")


def _uncompressed(counts: bytes) -> list[int]:
    """Return the run lengths of a compressed COCO string.

    Six bits of each character count, from "0" on: five bits of the number, lowest first, and a flag that more follow.
    From the fourth run on, the number is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"the counts are not compressed run lengths of COCO: {_short(counts)}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"the counts are cut off within a number: {_short(counts)}")
    return runs
