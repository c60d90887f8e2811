"""Clusters of pairs: which pairs belong together, their sums, and how clusters are flipped and resampled.

Pairs that share an image are not independent evidence, and must not be split between two halves of a data set. So they
are flipped, resampled and split together, as one cluster.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

ENOUGH_CLUSTERS = 15
"""Clusters of one size below which there is no p-value: sign flips of 14 have 16,384 patterns, and their tails are the
sample's."""
IMAGE_COLUMNS = ("clean_digest", "corrupt_digest")
"""Columns of pairs, and coordinates of results, that name the two images of a pair."""


@runtime_checkable
class HasColumns(Protocol):
    """Pairs, or a result by pair: a column of values for a name."""

    def __getitem__(self, name: str, /) -> Any: ...


def cluster_numbers(shared: Iterable[Sequence[Any]], together: Literal["image", "pair"] = "image") -> np.ndarray:
    """Return the number of each pair's cluster, [pair], counted in the order in which clusters first come.

    Args:
        shared: What each pair shares with others, such as its two images; one thing or more.
        together: `pair` joins pairs whose things are all the same, `image` those that share any, in any number of
            steps.
    """
    # scipy takes longer to import than pairs do.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = [[frozenset(things)] if together == "pair" else list(things) for things in shared]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for things in names for name in things))}
    firsts = np.array([known[things[0]] for things in names], int)
    starts = np.repeat(firsts, [len(things) for things in names])
    ends = np.array([known[name] for things in names for name in things], int)
    links = coo_array((np.ones(len(ends)), (starts, ends)), shape=(len(known), len(known)))
    _, component = connected_components(links, directed=False)
    return first_seen(component[firsts])[1]


def clusters_of(pairs: HasColumns, together: Literal["image", "pair"] = "image") -> np.ndarray:
    """Return the cluster of each pair, [pair], by its two images.

    Args:
        pairs: The pairs, or a result with their images as coordinates.
        together: `image` joins pairs that are linked by any shared image, `pair` those of the same two.
    """
    columns = (np.asarray(pairs[name], object).tolist() for name in IMAGE_COLUMNS)
    return cluster_numbers(zip(*columns, strict=True), together)


def first_seen(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that there are, in the order in which they come, and the number of each pair's among them.

    That order is the same whatever clusters are called, so a seed gives a condition the same resamples in any company.
    """
    known, first, rows = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return known[order], np.argsort(order)[rows.reshape(-1)]


def members(labels: Any) -> list[np.ndarray]:
    """Return the numbers of the pairs of each cluster, in the order in which clusters first come."""
    known, rows = first_seen(labels)
    return np.split(np.argsort(rows, kind="stable"), np.cumsum(np.bincount(rows))[:-1]) if len(known) else []


def crossed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return labels of what two partitions have in common, [pair]."""
    return np.unique(np.column_stack([one, other]), axis=0, return_inverse=True)[1].reshape(-1)


def effective(labels: np.ndarray) -> float:
    """Return how many clusters of equal size say as much as these: (sum of sizes)² / sum of squared sizes."""
    sizes = np.unique(labels, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def cluster_sums(values: np.ndarray, rows: np.ndarray, clusters: int) -> np.ndarray:
    """Return sums over the pairs of each cluster, [cluster, ...].

    Args:
        values: By pair, [pair, ...].
        rows: The number of each pair's cluster, [pair].
        clusters: How many there are.
    """
    total = np.zeros((clusters, *values.shape[1:]))
    np.add.at(total, rows, values)
    return total


@dataclass(frozen=True)
class Sums:
    """Sums over the pairs of each cluster, of one partition.

    Attributes:
        change: By cluster and place, [cluster, place].
        gap: By cluster, [cluster, 1]; [cluster, place] where places have gaps of their own.
    """

    change: np.ndarray
    gap: np.ndarray

    @classmethod
    def of(cls, change: np.ndarray, gap: np.ndarray, labels: np.ndarray) -> "Sums":
        """Return the sums, from [pair, place], [pair] (or [pair, place]) and each pair's cluster, [pair]."""
        known, rows = first_seen(labels)
        total = cluster_sums(np.column_stack([change, gap]), rows, len(known))
        return cls(total[:, : change.shape[1]], total[:, change.shape[1] :])

    def __len__(self) -> int:
        return len(self.gap)


def flips(rng: np.random.Generator, clusters: int, size: int) -> np.ndarray:
    """Return random signs, [draw, cluster]."""
    return rng.integers(0, 2, (size, clusters)) * 2.0 - 1.0


def resamples(rng: np.random.Generator, clusters: int, size: int) -> np.ndarray:
    """Return how often each cluster is drawn, with replacement, [draw, cluster]."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size).astype(float)
