"""Reading the files of others: whatever a library raises becomes "X cannot be read: ..." here."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


@contextmanager
def reading(path: str | PathLike[str]) -> Iterator[None]:
    """Turn what is raised while a file or folder is read into an error that names it.

    Args:
        path: The file or folder, as the user knows it.

    Raises:
        OSError: The system cannot read it; FileNotFoundError where it is missing.
        ValueError: What it holds is not what was expected.
    """
    try:
        yield
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """Return an error's message in one line; of a missing key, which one it is."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else "it is not complete" if isinstance(error, EOFError) else ""
    if isinstance(error, ValueError):
        return said or type(error).__name__
    return f"{said} ({type(error).__name__})" if said else type(error).__name__
