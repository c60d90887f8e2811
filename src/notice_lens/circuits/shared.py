"""What circuits of several conditions have in common, against circuits that lie in the same layers by chance."""

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.errors import whole_number

if TYPE_CHECKING:
    import xarray as xr


def shared_nodes(circuits: Mapping[str, "xr.Dataset"], *, n_random: int = 9_999, seed: int = 0) -> "xr.Dataset":
    """Compare circuits of several conditions: how many nodes each two share, and how many are in all of them.

    The null keeps each circuit's number of nodes in each layer and draws which they are; so what circuits share because
    they lie in the same layers is expected, and not counted as a finding.

    Args:
        circuits: Results of `minimal_circuit` over the same nodes, by a name for each; two or more.
        n_random: Draws of the null.
        seed: Of the draws.

    Returns:
        Along `one, other` (the names): `jaccard` (shared over all, 0 to 1), `jaccard_expected` by the null, and
        `jaccard_p`, the share of draws, what was found counted among them, that share at least as many (1 on the
        diagonal). Along `node`: `count`, in how many circuits it is. Scalars `in_all`, `in_all_expected`, `in_all_p`.
        The attribute `shared` names the nodes that are in all.

    Raises:
        TypeError: Something is not a result of `minimal_circuit`.
        ValueError: There are fewer than two circuits, or they are over other nodes.
    """
    import xarray as xr

    whole_number("n_random", n_random, 1)
    names, inside, alike = _read(circuits)
    rng = np.random.default_rng(seed)
    draws = np.array([_redrawn(own, alike, n_random, rng) for own in inside])  # circuit, draw, node
    n = len(names)
    jaccard, expected, p = np.eye(n), np.eye(n), np.ones((n, n))
    for one, other in combinations(range(n), 2):
        seen, by_chance = _jaccard(inside[one], inside[other]), _jaccard(draws[one], draws[other])
        for matrix, value in ((jaccard, seen), (expected, by_chance.mean()), (p, _p(seen, by_chance))):
            matrix[one, other] = matrix[other, one] = value
    in_all, all_drawn = inside.all(0).sum(), draws.all(0).sum(-1)
    first = next(iter(circuits.values()))
    both = ("one", "other")
    return xr.Dataset(
        {
            "jaccard": (both, jaccard), "jaccard_expected": (both, expected), "jaccard_p": (both, p),
            "count": ("node", inside.sum(0)), "in_all": ((), int(in_all)),
            "in_all_expected": ((), float(all_drawn.mean())), "in_all_p": ((), _p(in_all, all_drawn)),
        },
        coords={"one": np.array(names, object), "other": np.array(names, object), "node": first["node"]},
        attrs={
            "shared": first["node"].values[inside.all(0)].tolist(), "n_random": n_random, "seed": seed,
            "null": "as many nodes of each layer, drawn at random",
        },
    )  # fmt: skip


def _read(circuits: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names, membership [circuit, node], and the number of each node's layer, [node]."""
    if not isinstance(circuits, Mapping) or len(circuits) < 2:
        raise ValueError("circuits: expected a mapping of names to two or more results of minimal_circuit")
    first = next(iter(circuits.values()))
    for name, one in circuits.items():
        if not hasattr(one, "data_vars") or "in_circuit" not in one:
            raise TypeError(f"circuit {name!r} is of type {type(one).__name__}; expected a result of minimal_circuit")
        if list(one["node"].values) != list(first["node"].values):
            raise ValueError(
                f"circuit {name!r} is over other nodes than {next(iter(circuits))!r}; search over the same"
            )
    inside = np.array([one.in_circuit.values.astype(bool) for one in circuits.values()])
    return (
        [str(name) for name in circuits],
        inside,
        np.unique(first["alike"].values.astype(str), return_inverse=True)[1],
    )


def _redrawn(inside: np.ndarray, alike: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return random sets with as many nodes of each layer, [draw, node]."""
    drawn = np.zeros((n, len(inside)), bool)
    for kind in np.unique(alike):
        own = np.flatnonzero(alike == kind)
        drawn[:, own] = rng.permuted(np.tile(inside[own], (n, 1)), axis=1)
    return drawn


def _jaccard(one: np.ndarray, other: np.ndarray) -> Any:
    """Return how many of the nodes that either has both have, [...]."""
    return (one & other).sum(-1) / np.maximum((one | other).sum(-1), 1)


def _p(seen: Any, by_chance: np.ndarray) -> float:
    """Return the share of draws that reach the observed value, which is counted among them."""
    return float((1 + (by_chance >= seen - 1e-12).sum()) / (1 + len(by_chance)))
