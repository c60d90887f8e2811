"""Arguments of one or several values, in the forms in which users have them. Imports nothing from the package."""

from collections.abc import Iterable, Mapping, Set
from typing import Any


def as_list(what: str, values: Any) -> list[Any]:
    """Return several values as a list: from a list, a tuple, an array, a Series, a column of a data set, a generator.

    Raises:
        TypeError: They are not several, or in no order, or a table, whose columns would be taken for values.
    """
    table = isinstance(values, Mapping | Set | bytes | str) or hasattr(values, "columns")
    if table or not isinstance(values, Iterable) or not getattr(values, "ndim", 1):
        raise TypeError(
            f"expected a list, an array or a Series of {what}, got a {type(values).__name__}"
            + ("; take one of its columns, as table['name']" if hasattr(values, "columns") else "")
        )
    return list(values)


def as_strings(what: str, texts: Any) -> list[str]:
    """Return one or several strings as a list. Raises TypeError for anything else."""
    several = [texts] if isinstance(texts, str) else as_list(what, () if texts is None else texts)
    wrong = [text for text in several if not isinstance(text, str)]
    if wrong or not several:
        raise TypeError(f"{what} have to be one or more strings, got {wrong[0]!r}" if wrong else f"no {what} given")
    return several
