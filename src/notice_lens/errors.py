"""Errors in words: the nearest valid name for a wrong one, and what a library raised while it read a file.

It imports nothing from the package.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from os import PathLike
from typing import Any


@contextmanager
def reading(path: str | PathLike[str]) -> Iterator[None]:
    """Turn what is raised while a file or folder is read into an error that names it.

    Args:
        path: The file or folder, as the user knows it.

    Raises:
        OSError: The system cannot read it; FileNotFoundError where it is missing.
        ValueError: Its content is not as expected.
    """
    try:
        yield
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {in_words(error)}") from error


@contextmanager
def extra(package: str, name: str, what: str) -> Iterator[None]:
    """Import a library that only an extra installs.

    Args:
        package: The library's import name.
        name: Of the extra that installs it.
        what: What needs it, for the message.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(f"{what} needs {package}: pip install 'notice-lens[{name}]'", name=package) from error


def in_words(error: BaseException) -> str:
    """Return an error's message in one line; of a missing key, which one it is."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else "it is not complete" if isinstance(error, EOFError) else ""
    if isinstance(error, ValueError):
        return said or type(error).__name__
    return f"{said} ({type(error).__name__})" if said else type(error).__name__


def one_of(what: str, name: object, valid: Iterable[str]) -> str:
    """Return a message that `name` is not a valid `what`, with the nearest valid one first."""
    valid = list(valid)
    close = difflib.get_close_matches(str(name), valid, 1, cutoff=0.4)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"no {what} {name!r}; {guess}valid: {', '.join(map(repr, valid))}"


def check_choice(what: str, chosen: object, valid: Collection[object]) -> None:
    """Raise ValueError for an option that is not among its choices, with the nearest one."""
    if chosen not in valid:
        raise ValueError(one_of(what, chosen, map(str, valid)))


def names_among(what: str, names: str | Iterable[str], valid: Iterable[str]) -> list[str]:
    """Return one name or several as a list.

    Args:
        what: The kind of name, for the message.
        names: The names.
        valid: Those that there are.

    Raises:
        ValueError: There is no such name.
    """
    listed, valid = [names] if isinstance(names, str) else list(names), list(valid)
    for name in listed:
        if name not in valid:
            raise ValueError(one_of(what, name, valid))
    return listed


def whole_number(what: str, value: Any, least: int = 0) -> int:
    """Return a whole number, Python's or NumPy's, as an int.

    Args:
        what: The argument's name, for the message.
        value: The value given for it.
        least: The smallest number that is valid.

    Raises:
        ValueError: It is below `least` or not a whole number; bools and floats are not accepted.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{what}={value!r}: expected a whole number, {least} or more")
    return int(value)
