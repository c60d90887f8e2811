"""Differences between a store and a call, in words, and the plain values that can be compared."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

ITEMS_SHOWN = 5
"""How many of many values a message lists."""
CLAUSES = 2
"""How many differences a message spells out."""
OPAQUE = ("model_fingerprint", "pairs")
"""Settings that are digests: they tell a reader least, so they are named last."""
LONGEST = 80
"""Characters of a value in a message."""


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON keeps it: numbers of NumPy become Python's, tuples lists.

    Args:
        value: Nested mappings, sequences, strings, numbers, booleans, None.
        where: What it is, for the message.

    Raises:
        TypeError: Something in it is of another type.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is a {type(key).__name__}; keys are strings")
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold; give text, numbers or lists of them")


def differences(stored: Any, asked: Any, where: str = "") -> list[str]:
    """Return where two plain values differ, a clause each, such as `seed is 0 there and 1 here`."""
    if json.dumps(stored) == json.dumps(asked):  # NaN equals itself here, and 1 is neither 1.0 nor True
        return []
    if isinstance(stored, dict) and isinstance(asked, dict):
        clauses = []
        for key in dict.fromkeys([*stored, *asked]):
            name = f"{where}.{key}" if where else key
            if key in stored and key in asked:
                clauses += differences(stored[key], asked[key], name)
            else:
                clauses.append(f"{name} is {'there, and not here' if key in stored else 'here, and not there'}")
        return clauses
    if isinstance(stored, list) and isinstance(asked, list):
        if len(stored) == len(asked):
            entries = enumerate(zip(stored, asked, strict=True))
            wrong = [found for number, both in entries if (found := differences(*both, f"{where}[{number}]"))]
            return [f"{wrong[0][0]} (the first of {len(wrong)})" if len(wrong) > 1 else wrong[0][0]]
        if max(len(repr(stored)), len(repr(asked))) > LONGEST:
            return [f"{where} has {len(stored)} entries there and {len(asked)} here"]
    return [f"{where} is {_short(stored)} there and {_short(asked)} here"]


def clauses_joined(clauses: Iterable[str]) -> str:
    """Return the most telling of some differences as part of a sentence, and the names of the others."""
    first, *rest = sorted(clauses, key=lambda clause: clause.partition(" ")[0] in OPAQUE)
    shown, more = [first, *rest[: CLAUSES - 1]], [clause.partition(" ")[0] for clause in rest[CLAUSES - 1 :]]
    return ", ".join(shown) + (f", and so on for {listed(more, str)}" if more else "")


def plain_coordinates(data: xr.Dataset) -> dict[str, Any]:
    """Return the dims and labels of a data set's coordinates as plain values; missing ones are None."""
    return {
        str(name): {
            "dims": [str(dim) for dim in values.dims],
            "labels": [None if item != item else item for item in np.asarray(values.values).ravel().tolist()],
        }
        for name, values in data.coords.items()
    }


def missing(values: np.ndarray) -> np.ndarray:
    """Return where an array has no value (None or NaN), in its shape."""
    if values.dtype.kind in "OTf":
        return np.array([item is None or item != item for item in values.ravel().tolist()], bool).reshape(values.shape)
    return np.zeros(values.shape, bool)


def listed(items: Iterable[Any], shown: Callable[[Any], str] | None = None) -> str:
    """Return the first of some values, and how many there are beyond those.

    Args:
        items: The values.
        shown: Makes text of one; None takes its `repr`, shortened.
    """
    items = list(items)
    more = f" and {len(items) - ITEMS_SHOWN} more" if len(items) > ITEMS_SHOWN else ""
    return ", ".join(map(shown or _short, items[:ITEMS_SHOWN])) + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
