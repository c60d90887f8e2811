"""Paths that are written in files: the pictures of a table, the weights of an index, the images of saved pairs.

Whoever wrote the file may have written any path. One rule holds for all of them: as it is written, a path stays in its
folder. Where a link in that folder leads is up to whoever made the link: hub caches are made of links, and data sets
lie on other disks. `confine=True` is for folders that came from somebody else as well.
"""

import os
from os import PathLike
from pathlib import Path


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
