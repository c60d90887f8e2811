"""Files: written whole or not at all, with records that show damage, and paths that stay in their folder.

A record is a JSON object that carries the SHA-256 of its own content, so a changed or cut-off one is told from one that
is as it was written. Files beside it are covered by listing their SHA-256 in it.

Paths are also written *in* files: the pictures of a table, the weights of an index, the images of saved pairs. Whoever
wrote the file may have written any path. One rule holds for all of them: as it is written, a path stays in its folder.
Where a link in that folder leads is up to whoever made the link: hub caches are made of links, and data sets lie on
other disks. `confine=True` is for folders from someone else as well.
"""

import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

from notice_lens.errors import reading

SEAL = "sha256"


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a fresh path beside a file; what is written there takes the file's place when the block ends well.

    Args:
        path: The file, which may exist or not. A link stays a link, and the file that it leads to is replaced.

    Raises:
        OSError: It cannot be written, for instance because the disk is full. An earlier file is left as it was.
    """
    target = Path(path).resolve()
    beside = target.with_name(f".{uuid4().hex}.part")
    try:
        yield beside
        beside.replace(target)
    except OSError as error:
        raise OSError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def inside(folder: str | PathLike[str], written: object, *, confine: bool = False) -> Path:
    """Return the path of a file in a folder; neither the folder nor the file has to exist.

    Args:
        folder: Where the path starts, and what it must not leave.
        written: The path as a file has it: relative, or absolute and in the folder.
        confine: Whether links that lead out of the folder are refused as well.

    Raises:
        ValueError: The path leads out of the folder, or no file can have it; the message says which.
    """
    if not isinstance(written, str | PathLike):
        raise ValueError(f"expected a path as text, got {type(written).__name__}")
    text = os.fspath(written)
    try:
        if b"\0" in os.fsencode(text):
            raise ValueError(f"the path {text!r} has a NUL character in it, which no file name can have")
    except UnicodeEncodeError:
        raise ValueError(f"the path {text!r} is not valid Unicode (half of a surrogate pair stands alone)") from None
    root = os.path.abspath(folder)
    name = os.path.basename(root) or root
    # `normpath` takes `..` out by the text alone, so the path that is returned passes through no link on its way up.
    path = Path(os.path.normpath(os.path.join(root, text)))
    real_root = os.path.realpath(root)
    if not (path.is_relative_to(root) or path.is_relative_to(real_root)):
        raise ValueError(f"the path {text!r} leads out of the folder {name!r}; expected one in it")
    if confine and not Path(os.path.realpath(path)).is_relative_to(real_root):
        raise ValueError(f"{text!r} is a link that leads out of {name!r}, and confine=True follows none")
    return path


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the digest of its content under `sha256`."""
    return {**record, SEAL: _digest(record)}


def check_seal(record: Any, where: str | PathLike[str]) -> None:
    """Raise ValueError for a record that `sealed` did not return in this form.

    Args:
        record: As it was read.
        where: The file, for the message.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is damaged: expected a JSON object, got a {type(record).__name__}")
    if record.get(SEAL) != _digest({name: value for name, value in record.items() if name != SEAL}):
        raise ValueError(f"{where} is damaged or was edited: its checksum does not fit its content")


def read_json(path: str | PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or not in UTF-8.
    """
    with reading(path):
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is cut off or not JSON ({error})") from error


def check_kinds(record: Any, kinds: Mapping[str, tuple[Any, str]]) -> None:
    """Raise ValueError unless a record is a JSON object whose values all have the right types.

    Args:
        record: As it was read.
        kinds: By the names of its values, the class or classes, and what a message calls them.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    for name, (kind, expected) in kinds.items():
        if name not in record:
            raise ValueError(f"it has no {name!r}")
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise ValueError(f"{name!r} is {reprlib.repr(record[name])}; expected {expected}")


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise ValueError if a file of a folder is missing, or not the one whose SHA-256 is given by its name."""
    for name, expected in digests.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; was all of the folder copied?")
        if sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is damaged: its checksum does not fit its content")


def sha256(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
