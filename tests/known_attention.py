"""Attention that is known: what each head looks at is written down."""

import numpy as np
import xarray as xr

SIDE, LAYERS, HEADS = 6, 2, 8
DIMS = ("pair", "role", "layer", "head", "patch")


def boxes(n: int, seed: int = 0, size: int = 2) -> np.ndarray:
    """A square somewhere in each image, bool [pair, patch]."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, SIDE, SIDE), bool)
    for mask, (row, column) in zip(masks, rng.integers(0, SIDE - size + 1, (n, 2)), strict=True):
        mask[row : row + size, column : column + size] = True
    return masks.reshape(n, -1)


def attention(n: int, seed: int = 0, roles: int = 1) -> xr.DataArray:
    """Random maps of all heads."""
    rng = np.random.default_rng(seed + 100)
    weight = rng.dirichlet(np.full(SIDE * SIDE, 0.3), (n, roles, LAYERS, HEADS))
    coords = {"role": [f"role{number}" for number in range(roles)], "layer": range(LAYERS), "head": range(HEADS)}
    return xr.DataArray(weight, dims=DIMS, coords=coords)


def found(scores: xr.Dataset, label: str, alpha: float = 0.05) -> set[tuple[int, int]]:
    """Which heads are called that, for any role or region."""
    q = scores[f"q_{label}"]
    called = (q <= alpha).any([dim for dim in q.dims if dim not in ("layer", "head")])
    return {(int(layer), int(head)) for layer, head in zip(*np.nonzero(called.values), strict=True)}
