"""Single values as tables hold them: missing, text, a whole number, or a value that cannot be stored.

`str()` and `int()` read anything: they make the word "True" of a bool, "nan" of a missing cell, and 3 of 3.7. Here a
value is read only where one reading of it is possible, and refused otherwise.
"""

from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral
from typing import Any

import numpy as np

LARGEST_DECIMAL = 10**38
"""What Arrow's decimals stay below."""
DEEPEST = 32
"""Values of other columns may be nested so deeply."""


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, a NaN of any type, NaT, `pandas.NA`, or a masked value."""
    if isinstance(value, str):
        return False
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    import pandas as pd

    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def as_text(value: Any) -> str | None:
    """Return the text of a cell without the spaces around it; None where nothing is there.

    A whole number becomes its digits, also where a table holds it as a float: pandas turns a column of ids with one gap
    into floats, and 3 into 3.0.

    Raises:
        ValueError: The value is neither text nor a whole number. `unstorable` says which text cannot be stored.
    """
    if isinstance(value, str):
        return str.strip(value)
    if is_missing(value):
        return None
    number = as_whole_number(value)
    if number is None:
        hint = "; write the word that is meant, such as 'yes'" if isinstance(value, bool | np.bool_) else ""
        raise ValueError(f"expected text or a whole number, got {shown(value)}{hint}")
    return str(number)


def as_whole_number(value: Any) -> int | None:
    """Return a whole number as an int, 3.0 as 3; None for anything else.

    A float that is too large to hold its last digits is no whole number, since another one was rounded to it.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float | np.floating):
        # A float holds every whole number below this one.
        limit = 2.0 ** (np.finfo(type(value)).nmant + 1)
    elif isinstance(value, Decimal) and value.is_finite():
        limit = LARGEST_DECIMAL
    else:
        return None
    return int(value) if -limit < value < limit and value == int(value) else None


def storable(text: str) -> str:
    """Return the text with halves of surrogate pairs, which Arrow cannot hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def unstorable(value: Any, depth: int = 0) -> str:
    """Return why Arrow cannot hold a value: text that is no Unicode, or too many levels; "" where it can."""
    if isinstance(value, str):
        return "" if value == storable(value) else f"half of a surrogate pair stands alone in {value!r:.80}"
    if depth > DEEPEST:
        return f"nested more than {DEEPEST} levels deep"
    if isinstance(value, Mapping):
        found = (why for name, item in value.items() for why in (unstorable_name(name), unstorable(item, depth + 1)))
        return next(filter(None, found), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (unstorable(item, depth + 1) for item in value)), "")
    return ""


def unstorable_name(name: Any) -> str:
    """Return why Arrow cannot hold something under a name, which it cuts at NUL; "" where it can."""
    if isinstance(name, str) and "\0" in name:
        return f"the name {name!r:.80} has a NUL in it"
    return unstorable(name)


def shown(value: Any) -> str:
    """Return a value and its type for messages, in few words."""
    return f"{' '.join(repr(value).split()):.60} ({type(value).__name__})"
