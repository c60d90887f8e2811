"""What is in a folder of pictures: every file decoded once, to know that it can be read and what it holds."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from notice_lens.models.pictures import digest, to_rgb
from notice_lens.pairs.problems import DUPLICATE, IMAGE, Problem

EXTENSIONS = frozenset(".avif .bmp .gif .jfif .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
"""Endings of image files, in lower case."""

_NOT_CONTENT = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Picture:
    """A picture that can be read.

    Attributes:
        path: Its file.
        digest: Its content: the same RGB pixels, the same 32 hexadecimal digits.
        width: In pixels, the right way up.
        height: In pixels.
    """

    path: Path
    digest: str
    width: int
    height: int


@dataclass(frozen=True)
class Inventory:
    """What was found.

    Attributes:
        pictures: Those that can be read, by path, in the order asked for.
        problems: The others, and why.
    """

    pictures: Mapping[Path, Picture]
    problems: tuple[Problem, ...]


def read_pictures(
    paths: Iterable[str | PathLike[str]],
    *,
    root: str | PathLike[str] | None = None,
    progress: bool = True,
    workers: int | None = None,
) -> Inventory:
    """Decodes every file once; no pixels are kept.

    Args:
        paths: Image files; one that is named twice is read once.
        root: A folder above all of them: problems then name files from there.
        progress: Whether to show a progress bar.
        workers: How many files are decoded at a time; None takes as many as there are processors, eight at most.
            Memory grows with it: a picture of 12 megapixels takes about 150 MB while it is read.
    """
    from tqdm.auto import tqdm

    files = list(dict.fromkeys(Path(path) for path in paths))
    pictures: dict[Path, Picture] = {}
    problems: list[Problem] = []
    # One guard around all threads, since filters are global: oddities of a file's metadata do not matter to its pixels.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(os.cpu_count() or 1, _MOST_WORKERS)) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        reading = pool.map(_read, files)
        for path, found in tqdm(
            zip(files, reading, strict=True), "reading pictures", len(files), disable=not progress, unit="file"
        ):
            if isinstance(found, Picture):
                pictures[path] = found
            else:
                problems.append(Problem(relative_name(path, root), IMAGE, found))
    return Inventory(pictures, tuple(problems))


def _read(path: Path) -> Picture | str:
    """The record of one file, or why there is none."""
    try:
        rgb = to_rgb(path)
        return Picture(path, digest(rgb), rgb.width, rgb.height)
    except Exception as error:
        # Broken files raise whatever a decoder tripped over; one of them must not end the reading of all others.
        return str(error) or type(error).__name__


def relative_name(path: Path, root: str | PathLike[str] | None) -> str:
    """The path as others see it: from `root`, with forward slashes."""
    return (path if root is None else path.relative_to(root)).as_posix()


def is_image_name(path: Path) -> bool:
    """Whether a file's name says that it is an image: hidden files are not, nor what systems leave behind."""
    return is_content(path) and path.suffix.lower() in EXTENSIONS


def is_content(path: Path) -> bool:
    """Whether somebody put a file or folder there on purpose: not hidden, and not left behind by a system."""
    return not path.name.startswith(".") and path.name.lower() not in _NOT_CONTENT


def images_in(folder: Path) -> list[Path]:
    """The entries of a folder that are named like images, sorted; none where it is empty.

    A folder that is named like an image is one of them, for `read_pictures` to report.
    """
    return sorted(path for path in folder.iterdir() if is_image_name(path))


def image_files(folder: str | PathLike[str]) -> list[Path]:
    """As `images_in`, but a folder has to be there, and to hold some.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It holds no images; the message says what it holds.
    """
    folder = existing_folder(folder)
    found = images_in(folder)
    if not found:
        raise ValueError(
            f"{str(folder)!r} holds no images: expected files that end in {', '.join(sorted(EXTENSIONS))}; "
            f"it holds {contents(folder)}"
        )
    return found


def existing_folder(folder: str | PathLike[str]) -> Path:
    """The folder as a path.

    Raises:
        FileNotFoundError: There is none.
        NotADirectoryError: It is a file.
    """
    path = Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"no folder {str(path)!r}: expected one that holds images")
    if not path.is_dir():
        raise NotADirectoryError(
            f"{str(path)!r} is a file; expected a folder that holds images (unpack archives first)"
        )
    return path


def contents(folder: Path, shown: int = 5) -> str:
    """What is in a folder, for messages: the first few names and how many more there are."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more if names else "nothing"


def distinct(
    pictures: Iterable[Picture], root: str | PathLike[str] | None = None
) -> tuple[list[Picture], list[Problem]]:
    """The first picture of each content, and a problem for every other.

    Args:
        pictures: In the order that decides which one is first.
        root: As `read_pictures`.
    """
    first: dict[str, Picture] = {}
    problems = []
    for picture in pictures:
        known = first.setdefault(picture.digest, picture)
        if known is not picture:
            detail = f"the same picture as {relative_name(known.path, root)}"
            problems.append(Problem(relative_name(picture.path, root), DUPLICATE, detail))
    return list(first.values()), problems


def checksum(folder: str | PathLike[str], pictures: Iterable[Picture]) -> str:
    """SHA-256 of a folder's pictures, hexadecimal: of their sorted names from that folder, and their contents.

    Other files, and how a picture is compressed, do not change it.
    """
    lines = sorted(f"{relative_name(picture.path, folder)}\0{picture.digest}\n" for picture in pictures)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
