"""Results as plain values, for JSON: read back as they were, without code in them.

Of a number that JSON has none for, not-a-number is null and infinities are words.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

PLAIN_DTYPES = "biufOUT"
"""Kinds of NumPy's types that are written: yes and no, numbers, text."""


def as_plain(dataset: xr.Dataset) -> dict[str, Any]:
    """A data set's variables, coordinates and attributes as dictionaries, lists, numbers and text.

    Raises:
        ValueError: A variable holds something else.
    """
    return {
        "variables": {str(name): _variable(name, values) for name, values in dataset.data_vars.items()},
        "coords": {str(name): _variable(name, values) for name, values in dataset.coords.items()},
        "attrs": plain(dataset.attrs),
    }


def from_plain(stored: Mapping[str, Any]) -> xr.Dataset:
    """The data set of `as_plain`."""
    return xr.Dataset(_read(stored["variables"]), _read(stored["coords"]), stored["attrs"])


def plain(value: Any) -> Any:
    """A value as JSON has it; what it has nothing for becomes its text."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _variable(name: Any, values: xr.DataArray) -> dict[str, Any]:
    if values.dtype.kind not in PLAIN_DTYPES:
        raise ValueError(f"{name!r} has the type {values.dtype}; expected numbers, yes and no, or text")
    dtype = values.dtype.str if values.dtype.kind in "biuf" else "O"
    return {
        "dims": [str(dim) for dim in values.dims],
        "dtype": dtype,
        "shape": list(values.shape),
        "data": plain(values.values.ravel()),
        "attrs": plain(values.attrs),
    }


def _read(stored: Mapping[str, Any]) -> dict[str, xr.Variable]:
    return {name: _read_one(one) for name, one in stored.items()}


def _read_one(stored: Mapping[str, Any]) -> xr.Variable:
    values = np.array(stored["data"], np.dtype(stored["dtype"])).reshape(stored["shape"])
    return xr.Variable(stored["dims"], values, stored["attrs"])
