"""What keeps a store and a request apart: differences in words, and plain values that can be compared at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

SHOWN = 5
"""How many of many differences a message lists."""
LONGEST = 80
"""Characters of a value in a message."""


def plain(value: Any, where: str) -> Any:
    """A value as JSON keeps it: numbers of NumPy become Python's, tuples lists.

    Args:
        value: Nested mappings, sequences, strings, numbers, booleans, None.
        where: What it is, for the message.

    Raises:
        TypeError: Something in it is none of those.
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


def settings_differences(stored: Any, asked: Any, where: str = "") -> list[str]:
    """Where two plain values differ, a line each, by dotted name."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        lines = []
        for key in dict.fromkeys([*stored, *asked]):
            name = f"{where}.{key}" if where else key
            if key in stored and key in asked:
                lines += settings_differences(stored[key], asked[key], name)
            else:
                has, asks = (_short(side[key]) if key in side else "nothing" for side in (stored, asked))
                lines.append(f"{name}: {has} in the store, {asks} asked for")
        return lines
    if isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        pairs = enumerate(zip(stored, asked, strict=True))
        return [line for index, (has, asks) in pairs for line in settings_differences(has, asks, f"{where}[{index}]")]
    if json.dumps(stored) == json.dumps(asked):  # NaN equals itself here, and 1 is neither 1.0 nor True
        return []
    return [f"{where}: {_short(stored)} in the store, {_short(asked)} asked for"]


def coordinate_differences(stored: xr.Dataset, asked: xr.Dataset) -> list[str]:
    """Where the coordinates of two data sets differ, a line each; pairs are named."""
    lines = []
    for name in dict.fromkeys([*stored.coords, *asked.coords]):
        if name not in stored.coords or name not in asked.coords:
            where = "the store has none" if name in asked.coords else "only the store has it"
            lines.append(f"coordinate {name!r}: {where}")
            continue
        has, asks = stored.coords[name], asked.coords[name]
        if has.dims != asks.dims:
            lines.append(f"coordinate {name!r}: dims {has.dims} in the store, {asks.dims} asked for")
        elif has.shape != asks.shape:
            lines.append(f"coordinate {name!r}: {_sizes(has)} in the store, {_sizes(asks)} asked for{_sets(has, asks)}")
        else:
            lines += _value_differences(str(name), has, asks)
    return lines


def variable_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Where two tables of variables (by name: dims, shape, dtype) differ, a line each."""
    if lines := settings_differences(dict(stored), dict(asked)):
        return [f"variable {line}" for line in lines]
    return []


def missing(values: np.ndarray) -> np.ndarray:
    """Where an array has no value: None, NaN. Of the same shape."""
    if values.dtype.kind in "OTf":
        return np.array([item is None or item != item for item in values.ravel().tolist()], bool).reshape(values.shape)
    return np.zeros(values.shape, bool)


def equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two arrays of one shape are equal; missing values are."""
    gone = missing(one), missing(other)
    same = np.asarray(one, object) == np.asarray(other, object)
    return np.where(gone[0] | gone[1], gone[0] & gone[1], same)


def listed(items: Iterable[Any]) -> str:
    """The first of some values, and how many there are beyond those."""
    items = list(items)
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(_short, items[:SHOWN])) + more


def _value_differences(name: str, has: xr.DataArray, asks: xr.DataArray) -> list[str]:
    """At most one line on the values of two coordinates of one shape."""
    wrong = np.flatnonzero(~equal(np.asarray(has.values), np.asarray(asks.values)))
    if not len(wrong):
        return []
    ours, theirs = (_flat(side) for side in (has, asks))
    first = int(wrong[0])
    at = f"{len(wrong)} of {has.size} differ, first number {first}: " if has.ndim else ""
    both = f"{_short(ours[first])} in the store, {_short(theirs[first])} asked for"
    return [f"coordinate {name!r}: {at}{both}{_sets(has, asks)}"]


def _sets(has: xr.DataArray, asks: xr.DataArray) -> str:
    """Which values only one of two coordinates has, or that the order differs."""
    if not has.ndim:
        return ""
    ours, theirs = (list(dict.fromkeys(_flat(side))) for side in (has, asks))
    only = {"in the store": [item for item in ours if item not in set(theirs)]}
    only["asked for"] = [item for item in theirs if item not in set(ours)]
    said = "".join(f"; only {where}: {listed(items)}" for where, items in only.items() if items)
    return said or "; the same values in another order"


def _flat(values: xr.DataArray) -> Sequence[Any]:
    return [None if item != item else item for item in np.asarray(values.values).ravel().tolist()]


def _sizes(values: xr.DataArray) -> str:
    return ", ".join(f"{size} along {dim!r}" for dim, size in values.sizes.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
