"""Pictures in bytes: as addresses for pages, and small enough to send along."""

import base64
import io
from typing import Any

from PIL import Image

CRISP, LARGEST = 128, 320
"""Pixels along the longest side: up to the first a picture shows its pixels, beyond the second it is shrunk."""


def data_uri(image: Image.Image, kind: str = "png", **options: Any) -> str:
    """The image itself as an address.

    Args:
        image: The picture to write.
        kind: `png`, which loses nothing, or `jpeg`.
        **options: Of the writer, such as `quality`.
    """
    return address(encoded(image, kind, **options), kind)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """The image as a file's bytes; arguments as of `data_uri`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def address(content: bytes, kind: str) -> str:
    """A picture file's bytes as an address."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def shrunk(image: Image.Image, largest: int = LARGEST) -> Image.Image:
    """The image, or a smaller one of the same shape, of at most so many pixels along its longest side."""
    share = largest / max(image.size)
    if share >= 1:
        return image
    width, height = (max(1, round(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def thumbnail(image: Image.Image, largest: int = LARGEST) -> tuple[bytes, str]:
    """The image, shrunk where it is large, as a file's bytes and their kind: small ones lose nothing."""
    small = shrunk(image, largest)
    if max(small.size) <= CRISP:
        return encoded(small, "png", optimize=True), "png"
    return encoded(small, "jpeg", quality=80, optimize=True), "jpeg"
