"""Scores of all heads, filled in place by place."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


class Table:
    """Scores by name, filled place by place: with heads along the end, and a count and a reason for each place.

    Args:
        names: Of the scores.
        dims: Of the places, of `role` and `region`.
        weight: The maps, for their labels.
        masks: The regions, by name.
    """

    def __init__(self, names: Sequence[str], dims: tuple[str, ...], weight: "xr.DataArray", masks: Any) -> None:
        self.dims, self.names = dims, names
        heads = {dim: weight[dim].values for dim in ("layer", "head")}
        self.coords = {
            "role": weight["role"].values,
            **({"region": np.array(list(masks), object)} if "region" in dims else {}),
            **heads,
        }
        self.shape = tuple(len(self.coords[dim]) for dim in dims)
        self.heads = tuple(map(len, heads.values()))
        self.values = {name: np.full((*self.shape, *self.heads), np.nan) for name in names}
        self.count, self.reason = np.zeros(self.shape, int), np.full(self.shape, "", object)

    def put(self, place: tuple[int, ...], numbers: Mapping[str, Any], count: int, reason: str) -> None:
        """Fills one place."""
        for name, own in numbers.items():
            self.values[name][place] = own.reshape(self.heads)
        self.count[place], self.reason[place] = count, reason

    def variables(self, count: str, reason: str) -> dict[str, Any]:
        """All of them, as a data set takes them."""
        found = {name: ((*self.dims, "layer", "head"), own) for name, own in self.values.items()}
        return {**found, count: (self.dims, self.count), reason: (self.dims, self.reason)}
