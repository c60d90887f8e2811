"""Pictures as people have them, as RGB: the only place that reads image files and other modes than RGB.

- Transparency is laid over white: the colours under transparent pixels mean nothing.
- 16 bits are scaled to 8; palettes, greys and CMYK are converted; of an animation the first frame counts.
- A file's EXIF orientation is applied, so that the picture stands as viewers show it.
- A file that is cut off, no image, or larger than Pillow's limit for decompression bombs is an error that names it.
"""

import hashlib
import io
import os
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageLike = Any
"""A PIL image, a path, bytes, a NumPy array or a tensor; see `to_rgb`."""

_BEHIND = (255, 255, 255, 255)


def to_rgb(image: ImageLike) -> Image.Image:
    """The image in RGB.

    Args:
        image: A PIL image; a path or the bytes of an image file; a NumPy array (height x width x 3 or 4, or
            height x width; uint8, uint16, or floats from 0 to 1); or such a tensor, channels first.

    Raises:
        ValueError: It cannot be read; the message says why.
    """
    try:
        if isinstance(image, str | PathLike | bytes):
            return _read(image)
        if isinstance(image, Image.Image):
            return _convert(image)
        return _from_array(image)
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def digest(image: Image.Image) -> str:
    """What tells pictures apart by content: the same pixels, the same 32 hexadecimal digits."""
    rgb = image.convert("RGB")
    return hashlib.blake2b(f"{rgb.size}".encode() + rgb.tobytes(), digest_size=16).hexdigest()


def _read(source: str | PathLike[str] | bytes) -> Image.Image:
    """The picture of a file or of its bytes, the right way up."""
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.exists():
            raise ValueError("no such file")
        if path.is_dir():
            raise ValueError("it is a folder, not an image file")
        if not os.stat(path).st_size:
            raise ValueError("the file is empty (0 bytes)")
    elif not source:
        raise ValueError("there are 0 bytes of it")
    try:
        with warnings.catch_warnings():
            # Pillow warns from its limit on and raises from twice that; here the limit is one.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        with opened:
            return _convert(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise ValueError("the bytes are not an image in a format that Pillow knows") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as decompression bombs do "
            "(the limit is Pillow's: PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None


def _convert(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("I;16", "I;16L", "I;16B", "I", "F"):
        return _from_array(np.asarray(image))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, _BEHIND), over).convert("RGB")
    return image.convert("RGB")


def _from_array(image: Any) -> Image.Image:
    """An array or tensor as a picture."""
    if isinstance(image, Tensor):
        image = image.movedim(0, -1).cpu().numpy() if image.ndim == 3 else image.cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise ValueError(f"an array of shape {list(array.shape)}; expected height x width x 3, or height x width")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"floats have to lie between 0 and 1, not {array.min():.3g} and {array.max():.3g}")
        array = np.rint(array * 255)
    elif array.dtype == np.uint16 or (array.dtype != np.uint8 and array.max(initial=0) > 255):
        array = np.rint(array / 257)
    return _convert(Image.fromarray(array.astype(np.uint8)))
