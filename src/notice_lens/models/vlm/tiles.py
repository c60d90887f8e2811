"""Pictures in tiles: which part of the picture each image position stands for.

Two ways of laying tiles into a row are known, and both are checked against the number of positions:

- *One grid a tile* (Idefics3, SmolVLM, InternVL): as many squares as the processor made pictures, in their order. What
  part of the picture each of them shows is seen by sending a picture through the processor whose colours are its
  coordinates (`coordinates`), so no rule of a processor is repeated here.
- *A small picture, then lines* (LLaVA-NeXT, LLaVA-OneVision): the whole picture in one square; then the tiles put
  together again, without their padding, line by line, with a position for the line's end behind each.

Where neither fits, positions lie on no grid, and whoever asks for a region is told so.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from notice_lens.models.layout import WHOLE_PICTURE, Area

OFF = 0.02
"""How far an edge of a tile may be measured from the nearest even cut of the picture, as a share of the picture."""
RESIZED_ABOVE = 1.1
"""LLaVA-OneVision makes the put-together picture smaller where its side is this many times too long."""


class ImagePart(NamedTuple):
    """Neighbouring image positions.

    Attributes:
        length: How many.
        grid: Rows and columns; None for positions that are no picture, such as the end of a line.
        area: Which part of the picture the grid covers.
    """

    length: int
    grid: tuple[int, int] | None
    area: Area = WHOLE_PICTURE


def coordinates(height: int, width: int) -> Image.Image:
    """Return a picture whose red is the column, from left to right, and whose green is the row."""
    red = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    green = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    return Image.fromarray((255 * np.stack([red, green, np.full((height, width), 0.5)], -1)).round().astype(np.uint8))


def parts_of(config: Any, inputs: Mapping[str, Any], number: int, n: int, coded: bool) -> list[ImagePart] | None:
    """Return what the image positions of an example are, in their order; None where that is not known.

    Args:
        config: The model's.
        inputs: What `prepare` gives.
        number: The example.
        n: Image positions that it has.
        coded: Whether its picture is the one of `coordinates`.
    """
    pixels = inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim < 4:
        return None
    if "image_sizes" in inputs:
        size = inputs["image_sizes"][number].tolist()
        return _lines(config, (int(size[0]), int(size[1])), n) if len(inputs["image_sizes"]) > number else None
    tiles = pixels[number] if pixels.ndim == 5 else pixels
    side = round((n / len(tiles)) ** 0.5)
    if len(tiles) < 2 or not coded or side * side * len(tiles) != n:
        return None
    areas = _areas(tiles.float().cpu().numpy())
    return None if areas is None else [ImagePart(side * side, (side, side), area) for area in areas]


def _lines(config: Any, size: tuple[int, int], n: int) -> list[ImagePart] | None:
    """Return the small picture and the lines of the put-together tiles."""
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if not pinpoints:
        return None
    tower = config.vision_config
    side = tower.image_size // tower.patch_size
    small = ImagePart(side * side, (side, side))
    if n == side * side + 1:
        return [small, ImagePart(1, None)]
    height, width = select_best_resolution(size, [list(one) for one in pinpoints])
    rows, columns = _unpadded(size, height // tower.image_size * side, width // tower.image_size * side)
    most = str(getattr(config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
    if most.isdigit():
        ratio = (rows * columns / (int(most) * side**2)) ** 0.5
        if ratio > RESIZED_ABOVE:
            rows, columns = int(rows // ratio), int(columns // ratio)
    if side * side + rows * (columns + 1) != n:
        return None
    lines = [
        part
        for row in range(rows)
        for part in (ImagePart(columns, (1, columns), (row / rows, 0.0, (row + 1) / rows, 1.0)), ImagePart(1, None))
    ]
    return [small, *lines]


def _unpadded(size: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    """Return rows and columns of patches that are picture, of a canvas that the picture was padded to."""
    height, width = size
    if width / height > columns / rows:
        return rows - 2 * ((rows - int(round(height * columns / width, 7))) // 2), columns
    return rows, columns - 2 * ((columns - int(round(width * rows / height, 7))) // 2)


def _areas(tiles: Float[np.ndarray, "tile channel height width"]) -> list[Area] | None:
    """Return the part of the picture that each tile shows, by its colours; None where tiles are no even cuts."""
    across = np.array([_ends(tile[0].mean(0)) for tile in tiles])
    down = np.array([_ends(tile[1].mean(1)) for tile in tiles])
    left, right = _cuts(across)
    top, bottom = _cuts(down)
    if left is None or top is None or right is None or bottom is None:
        return None
    edges = np.stack([top, left, bottom, right], 1).tolist()
    return [(first, second, third, fourth) for first, second, third, fourth in edges]


def _ends(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return what a line through the values is at their outer edges; the values next to the edges are left out."""
    inner = np.arange(1, len(values) - 1)
    slope, start = np.polyfit(inner, values[inner], 1)
    return start - slope / 2, start + slope * (len(values) - 0.5)


def _cuts(ends: Float[np.ndarray, "tile 2"]) -> Sequence[np.ndarray | None]:
    """Return first and last edge of each tile as shares of the picture, at even cuts."""
    lowest, highest = ends.min(), ends.max()
    shares = (ends - lowest) / (highest - lowest)
    times = np.maximum(np.round(1 / (shares[:, 1] - shares[:, 0])), 1)[:, None]
    even = np.round(shares * times) / times
    return (None, None) if abs(even - shares).max() > OFF else (even[:, 0], even[:, 1])
