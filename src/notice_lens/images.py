"""Pictures of any kind as RGB: the only place that reads image files and modes other than RGB.

- Transparency is laid over white: the colours under transparent pixels mean nothing.
- 16 bits are scaled to 8; palettes, greys and CMYK are converted; of an animation the first frame counts.
- A file's EXIF orientation is applied, so that the picture stands as viewers show it.
- Only the formats in `FORMATS` are decoded, whatever a file is called: Pillow knows others, and for some of them, such
  as PostScript, it starts other programs.
- A file that is cut off, no image, or larger than Pillow's limit for decompression bombs is an error that says so.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageLike = Any
"""A PIL image, a path, bytes, a NumPy array or a tensor; see `to_rgb`."""

FORMATS: Mapping[str, tuple[str, ...]] = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2",),
    "MPO": (".jpg",),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The formats that are read, by Pillow's names, and the endings of their files in lower case, the usual one first.

Every door to image files uses this list. Pillow reads HEIF where `pillow_heif` has registered its opener."""

_FORMATS_READ = ", ".join(name for name in FORMATS if name not in ("HEIF", "MPO"))
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_HEIC = (
    "it is a HEIC picture, as telephones take them, which Pillow cannot read by itself: convert it to JPEG or PNG, or "
    "install pillow-heif and call pillow_heif.register_heif_opener() first"
)
_BEHIND = (255, 255, 255, 255)
_FILTERS = Lock()
"""Held while the filters of warnings are changed, which all threads share."""


def to_rgb(image: ImageLike) -> Image.Image:
    """Return the image in RGB.

    Args:
        image: A PIL image; a path or the bytes of an image file; a NumPy array (height x width x 3 or 4, or
            height x width; uint8, uint16, or floats from 0 to 1); or such a tensor, channels first.

    Raises:
        ValueError: It cannot be read; the message says why.
    """
    with _value_errors():
        stored = isinstance(image, Image.Image | str | PathLike | bytes)
        return _convert(as_stored(image)) if stored else _from_array(image)


def as_stored(image: Image.Image | str | PathLike[str] | bytes) -> Image.Image:
    """Return a picture in the mode that its file has, palette indices and alpha untouched; files stand upright.

    Raises:
        ValueError: It cannot be read; the message says why.
    """
    with _value_errors():
        if isinstance(image, Image.Image):
            _check_format(image)
            image.load()
            return image
        with _opened(image) as opened:
            # A copy where nothing is turned, so it outlives the file.
            return ImageOps.exif_transpose(opened)


def file_format(source: str | PathLike[str] | bytes) -> str:
    """Return the format of an image file, or of its bytes, in Pillow's words: JPEG, PNG, ... Only the header is read.

    Raises:
        ValueError: It is not an image; the message says why.
    """
    with _value_errors(), _opened(source) as opened:
        return opened.format or "unknown"


def check_pixels(height: int, width: int) -> None:
    """Raise ValueError if a picture or mask of that size is larger than Pillow's limit for decompression bombs."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise _bomb()


def _bomb() -> ValueError:
    return ValueError(
        f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as decompression bombs do "
        "(the limit is Pillow's: PIL.Image.MAX_IMAGE_PIXELS)"
    )


@contextmanager
def _value_errors() -> Iterator[None]:
    """Turn every exception into a ValueError: Pillow's decoders meet damaged bytes with almost any."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and error.__cause__ is not None:
            raise  # it is ours already
        raise ValueError(str(error) or type(error).__name__) from error


def _check_format(image: Image.Image) -> None:
    """Raise ValueError if Pillow has opened a file of a format not read here: decoding it is still to come."""
    if image.format is not None and image.format not in FORMATS:
        raise ValueError(
            f"it is an image of the format {image.format}; expected one of {_FORMATS_READ}. If you trust its file, "
            "give the pixels: image.convert('RGB')"
        )
    check_pixels(image.height, image.width)


def digest(image: Image.Image) -> str:
    """Return 32 hexadecimal digits of the pixels: equal for pictures of equal content."""
    rgb = image.convert("RGB")
    return hashlib.blake2b(f"{rgb.size}".encode() + rgb.tobytes(), digest_size=16).hexdigest()


def shown_path(path: str | PathLike[str]) -> str:
    """A file's path for messages: relative to the working folder if the file is in it."""
    found = Path(path)
    return str(found.relative_to(Path.cwd())) if found.is_relative_to(Path.cwd()) else str(found)


@contextmanager
def _opened(source: str | PathLike[str] | bytes) -> Iterator[Image.Image]:
    """The picture in a file or in bytes; Pillow has read its header only."""
    with ExitStack() as stack:
        # Opened here and not by Pillow, which leaves the file open where it meets a bomb.
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(_file(Path(source)))
        if isinstance(source, bytes) and not source:
            raise ValueError("it is empty (0 bytes)")
        try:
            with _FILTERS, warnings.catch_warnings():
                # Pillow warns from its limit on; `check_pixels` raises.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                Image.init()
                opened = stack.enter_context(Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]))
        except UnidentifiedImageError:
            file.seek(0)
            raise ValueError(_unidentified(file.read(12))) from None
        except Image.DecompressionBombError:
            raise _bomb() from None
        check_pixels(opened.height, opened.width)
        yield opened


def _unidentified(head: bytes) -> str:
    """Return why a file is not read, from its first twelve bytes."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return _HEIC
    return f"the bytes are not an image in a format that is read here: {_FORMATS_READ}"


def _file(path: Path) -> BinaryIO:
    """Return the file, open, with something in it."""
    if not path.exists():
        raise ValueError("no such file")
    if path.is_dir():
        raise ValueError("it is a folder, not an image file")
    if not path.stat().st_size:
        raise ValueError("the file is empty (0 bytes)")
    return path.open("rb")


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
    if not array.size:
        raise ValueError(f"an array of shape {list(array.shape)}: it is empty")
    return _convert(Image.fromarray(_eight_bits(array)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Brightness from 0 to 255: of floats from 0 to 1, and of whole numbers of 8 or 16 bits."""
    if array.dtype.kind not in "uif":
        raise ValueError(f"an array of {array.dtype}; expected uint8, uint16, or floats from 0 to 1")
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if not (low >= 0 and high <= 1):
            raise ValueError(f"floats have to lie between 0 and 1, not {low:.3g} and {high:.3g}")
        array = np.rint(array * 255)
    elif low < 0 or high > 65535:
        raise ValueError(f"whole numbers have to lie between 0 and 255 or 65,535, not {low:,} and {high:,}")
    elif array.dtype == np.uint16 or high > 255:
        array = np.rint(array / 257)
    return array.astype(np.uint8)
