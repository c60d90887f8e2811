"""Folders of pictures: every file is decoded once, so that unreadable ones are known before any work starts."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from notice_lens.files import inside
from notice_lens.images import FORMATS, digest, file_format, to_rgb
from notice_lens.pairs.io.values import storable
from notice_lens.pairs.problems import DUPLICATE, IMAGE, Problem

EXTENSIONS = frozenset(ending for endings in FORMATS.values() for ending in endings)
"""Endings of image files, in lower case; those that cannot be read here are named, not passed over."""

_NOT_CONTENT = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_MOST_WORKERS = 8
NO_ENDING, NO_ACCESS = "no ending", "unreadable folder"
"""The entry, in counts of skipped files, for files without an ending and folders that may not be listed."""


@dataclass(frozen=True)
class ReadablePicture:
    """A picture that can be read.

    Attributes:
        path: Its file, or a name in place of one.
        digest: Its content: the same RGB pixels, the same 32 hexadecimal digits.
        width: In pixels, the right way up.
        height: In pixels.
        content: The bytes of a picture that is not a file itself, such as a row of a table.
    """

    path: Path
    digest: str
    width: int
    height: int
    content: bytes | None = None

    @property
    def source(self) -> Path | bytes:
        """The file, or the bytes of a picture without a file."""
        return self.path if self.content is None else self.content


@dataclass(frozen=True)
class Inventory:
    """The pictures of some files.

    Attributes:
        pictures: Those that can be read, by path, in the requested order.
        problems: Why the others cannot.
    """

    pictures: Mapping[Path, ReadablePicture]
    problems: tuple[Problem, ...]


def read_pictures(
    paths: Iterable[str | PathLike[str]],
    *,
    root: str | PathLike[str] | None = None,
    contents: Mapping[Path, bytes] | None = None,
    confine: bool = False,
    progress: bool = True,
    workers: int | None = None,
) -> Inventory:
    """Decode every file once; no pixels are kept.

    Args:
        paths: Image files; one that is named twice is read once.
        root: A folder above all of them: problems then name files from there.
        contents: The bytes of pictures that are not files themselves.
        confine: Whether a file that is a link out of `root` counts as unreadable.
        progress: Whether to show a progress bar.
        workers: How many files are decoded at a time; None takes as many as there are processors, eight at most.
            Memory grows with it: a picture of 12 megapixels takes about 150 MB while it is read.
    """
    from tqdm.auto import tqdm

    def read(path: Path) -> ReadablePicture | str:
        return _read(path, (contents or {}).get(path), root if confine else None)

    files = list(dict.fromkeys(Path(path) for path in paths))
    pictures: dict[Path, ReadablePicture] = {}
    problems: list[Problem] = []
    # One guard around all threads, since filters are global: oddities of a file's metadata do not matter to its pixels.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(os.cpu_count() or 1, _MOST_WORKERS)) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        reading = pool.map(read, files)
        for path, found in tqdm(
            zip(files, reading, strict=True), "reading pictures", len(files), disable=not progress, unit="file"
        ):
            if isinstance(found, ReadablePicture):
                pictures[path] = found
            else:
                problems.append(Problem(relative_name(path, root), IMAGE, found))
    return Inventory(pictures, tuple(problems))


def _read(path: Path, content: bytes | None, root: str | PathLike[str] | None) -> ReadablePicture | str:
    """Return the record of one file, or the reason for having none; with a root, links out of it are not followed."""
    try:
        if root is not None and content is None:
            inside(root, path.relative_to(root), confine=True)
        rgb = to_rgb(path if content is None else content)
        return ReadablePicture(path, digest(rgb), rgb.width, rgb.height, content)
    except Exception as error:
        # Broken files raise whatever a decoder tripped over; one of them must not end the reading of all others.
        return str(error) or type(error).__name__


def relative_name(path: Path, root: str | PathLike[str] | None) -> str:
    """Return the path as others see it: from `root`, with forward slashes; bytes that are not text are escaped."""
    return storable((path if root is None else path.relative_to(root)).as_posix())


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, or "": `12.0` is the id of a picture."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if any(letter.isalpha() for letter in suffix) else ""


def is_content(path: Path) -> bool:
    """Return whether a file or folder was put there on purpose: not hidden, and not left behind by a system."""
    return not path.name.startswith(".") and path.name.lower() not in _NOT_CONTENT


def _is_image(path: Path) -> bool:
    """Return whether a file is an image by its ending or, without an ending, by its first bytes."""
    kind = ending(path.name)
    if kind:
        return kind in EXTENSIONS
    try:
        return bool(file_format(path))
    except ValueError:
        return False


def sort_out(paths: Iterable[Path], skipped: Counter[str]) -> list[Path]:
    """Return the images among files; the others are counted by their endings.

    Args:
        paths: Files.
        skipped: Where to count; hidden files, and those that systems leave behind, do not count.
    """
    images = []
    for path in paths:
        if not is_content(path):
            continue
        if _is_image(path):
            images.append(path)
        else:
            skipped[ending(path.name) or NO_ENDING] += 1
    return images


def walk(folder: Path, skipped: Counter[str]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder and all folders in it, each with its images, sorted by name.

    Links are followed, but no folder is entered twice, so that links in a circle come to an end. A folder that is named
    like an image is one of the images, for `read_pictures` to report.

    Args:
        folder: Where to begin.
        skipped: Counts of files that are not images, by ending; added to.
    """
    seen = set()

    def unreadable(_: OSError) -> None:
        skipped[NO_ACCESS] += 1

    for here, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        odd = [name for name in folders if ending(name) in EXTENSIONS]
        folders[:] = sorted(name for name in folders if is_content(Path(name)) and name not in odd)
        yield Path(here), sort_out((Path(here, name) for name in sorted([*files, *odd])), skipped)


def image_files(folder: str | PathLike[str], skipped: Counter[str] | None = None) -> list[Path]:
    """Return the images of a folder, sorted by name; those in folders of it are left out.

    Args:
        folder: It has to be there, and to hold some.
        skipped: Counts of files that are not images, by ending; added to.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It holds no images; the message says what it holds.
    """
    folder = existing_folder(folder)
    _, images = next(walk(folder, Counter() if skipped is None else skipped), (folder, []))
    if not images:
        raise ValueError(
            f"{str(folder)!r} holds no images: expected files that end in {', '.join(sorted(EXTENSIONS))}; "
            f"it holds {contents(folder)}"
        )
    return images


def existing_folder(folder: str | PathLike[str]) -> Path:
    """Return the folder as a path.

    Raises:
        FileNotFoundError: It does not exist.
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
    """Describe a folder's content for messages: the first few names, and how many more there are."""
    names = sorted(storable(path.name) + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more if names else "nothing"


def distinct(
    pictures: Iterable[ReadablePicture], root: str | PathLike[str] | None = None
) -> tuple[list[ReadablePicture], list[Problem]]:
    """Return the first picture of each content, and a problem for each duplicate.

    Args:
        pictures: In the order that decides which one is first.
        root: As `read_pictures`.
    """
    first: dict[str, ReadablePicture] = {}
    problems = []
    for picture in pictures:
        known = first.setdefault(picture.digest, picture)
        if known is not picture:
            detail = f"the same picture as {relative_name(known.path, root)}"
            problems.append(Problem(relative_name(picture.path, root), DUPLICATE, detail))
    return list(first.values()), problems


def checksum(folder: str | PathLike[str], pictures: Iterable[ReadablePicture]) -> str:
    """Return the SHA-256 of a folder's pictures, hexadecimal: of their sorted names from there, and their contents.

    Other files, and how a picture is compressed, do not change it.
    """
    lines = sorted(f"{relative_name(picture.path, folder)}\0{picture.digest}\n" for picture in pictures)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
