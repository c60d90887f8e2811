"""Regions: which pixels, and which patches, show what. Kept as COCO run lengths, whatever they came as."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image

from notice_lens.models.pictures import shown_path, to_rgb
from notice_lens.world.write import run_lengths

Mask = NDArray[np.bool_]
HALF = 0.5 - 1e-9
"""A patch belongs to a region where at least half of it is covered; a hair less, for rounding."""


def as_run_lengths(region: Any, size: tuple[int, int]) -> dict[str, list[int]]:
    """A region as uncompressed COCO run lengths: `size` (height, width) and `counts`.

    Args:
        region: A mask (array, PIL image or image file; what is brighter than half of its brightest belongs to it), COCO
            run lengths, compressed or not, or a COCO box (x, y, width, height in pixels).
        size: Height and width of the picture, in pixels.

    Raises:
        ValueError: It is none of these, or of another size than the picture.
    """
    mask = as_mask(region, size)
    if mask.shape != tuple(size):
        raise ValueError(f"it is {mask.shape[0]} x {mask.shape[1]} pixels, its picture {size[0]} x {size[1]}")
    return run_lengths(mask)


def as_mask(region: Any, size: tuple[int, int] | None = None) -> Mask:
    """A region as a mask, bool [height, width]; arguments and errors as of `as_run_lengths`.

    Without a size, run lengths may have any, and a box has to be given one.
    """
    if isinstance(region, Mapping):
        return _from_run_lengths(region, size)
    if isinstance(region, str | PathLike):
        try:
            return _brighter(np.asarray(to_rgb(region).convert("L")))
        except ValueError as error:
            raise ValueError(f"{shown_path(region)} cannot be read: {error}") from error
    if isinstance(region, Image.Image):
        return _brighter(np.asarray(to_rgb(region).convert("L")))
    array = np.asarray(region)
    if array.shape == (4,) and array.dtype.kind in "iuf":
        if size is None:
            raise ValueError("a box needs the size of its picture")
        return _from_box(array.astype(float), size)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return array if array.dtype == bool else _brighter(array)
    raise ValueError(
        f"a region is a mask [height, width], an image file, COCO run lengths or a box [x, y, width, height]; got "
        f"{type(region).__name__} of shape {list(array.shape)}"
    )


def _brighter(values: NDArray[Any]) -> Mask:
    return values > values.max(initial=0) / 2


def _from_box(box: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """A pixel belongs to a box where its centre lies inside."""
    x, y, width, height = box
    if not np.isfinite(box).all() or width <= 0 or height <= 0:
        raise ValueError(f"the box {box.tolist()} has no area; expected x, y, width, height in pixels")
    if x + width <= 0 or y + height <= 0 or x >= size[1] or y >= size[0]:
        raise ValueError(f"the box {box.tolist()} lies outside of the picture, {size[0]} x {size[1]} pixels")
    rows, columns = (np.arange(n) + 0.5 for n in size)
    return ((rows >= y) & (rows < y + height))[:, None] & ((columns >= x) & (columns < x + width))


def _from_run_lengths(region: Mapping[str, Any], expected: tuple[int, int] | None) -> Mask:
    if "size" not in region or "counts" not in region:
        raise ValueError(f"run lengths have 'size' and 'counts'; got {', '.join(map(str, region)) or 'nothing'}")
    height, width = (int(side) for side in region["size"])
    if expected is not None and (height, width) != tuple(expected):
        raise ValueError(f"it is {height} x {width} pixels, its picture {expected[0]} x {expected[1]}")
    counts = region["counts"]
    if isinstance(counts, str | bytes):
        counts = _uncompressed(counts.encode() if isinstance(counts, str) else counts)
    counts = np.asarray(counts, dtype=int)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"run lengths add up to {counts.sum()} pixels, not to {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def _uncompressed(counts: bytes) -> list[int]:
    """The run lengths of a compressed COCO string.

    Six bits of each character count, from "0" on: five bits of the number, lowest first, and whether it goes on. From
    the fourth run on it is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def coverage(mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """The share of each cell that a mask covers when it is stretched over a grid, 0 to 1, exact.

    Args:
        mask: bool [height, width].
        grid: Rows and columns of cells.
    """
    rows, columns = (_shares(n, cells) for n, cells in zip(mask.shape, grid, strict=True))
    return rows @ mask @ columns.T


def resample(mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Bool[np.ndarray, "rows columns"]:
    """Which cells of a grid belong to a region: those that it covers by half or more."""
    return coverage(mask, grid) >= HALF


def _shares(pixels: int, cells: int) -> Float[np.ndarray, "cells pixels"]:
    """How much of each cell each pixel makes up, along one axis."""
    edges = np.arange(cells + 1) * (pixels / cells)
    first, last = edges[:-1, None], edges[1:, None]
    places = np.arange(pixels)
    return np.clip(np.minimum(last, places + 1) - np.maximum(first, places), 0, None) * (cells / pixels)
