"""Which pairs are one piece of evidence.

Pairs that share their two images are no independent evidence: they are flipped and resampled together, as one cluster.
Two-way clustering takes two such partitions at once, say by image and by noun, each of which makes pairs alike.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.models.names import one_of
from notice_lens.pairs.clusters import cluster_numbers
from notice_lens.plain_text import printable

ENOUGH = 15
"""Clusters below which there is no p-value: sign flips of 14 have 16,384 patterns, and their tails are the sample's."""
IMAGES = ("clean_digest", "corrupt_digest")
BUILT_IN = ("pair", "image")


class FewClusters(UserWarning):
    """There are so few clusters that intervals are rough, and no p-value is given."""


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
        """The sums, from [pair, place], [pair] (or [pair, place]) and each pair's cluster, [pair]."""
        found, rows = first_seen(labels)
        places = change.shape[1]
        total = np.zeros((len(found), places + (gap.shape[1] if gap.ndim == 2 else 1)))
        np.add.at(total, rows, np.column_stack([change, gap]))
        return cls(total[:, :places], total[:, places:])

    def __len__(self) -> int:
        return len(self.gap)


def names_of(cluster: Any) -> tuple[str, ...]:
    """The partitions that a `cluster` asks for: one, or two for two-way clustering.

    Raises:
        ValueError: It is neither a name nor two different ones.
    """
    names = (cluster,) if isinstance(cluster, str) else tuple(cluster) if isinstance(cluster, list | tuple) else ()
    if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError(f"cluster={cluster!r}: expected 'pair', 'image', a coordinate along `pair`, or two of these")
    return names


def labels(cells: Sequence[xr.Dataset], cluster: Any) -> list[list[np.ndarray]]:
    """The cluster of each pair, the same number for the same cluster in all cells.

    Args:
        cells: Effects; their pairs may be the same, or share images.
        cluster: `pair` (the same two images), `image` (linked by any shared image), the name of a coordinate along
            `pair`, or two of these.

    Returns:
        For each cell the labels of each partition, [pair].

    Raises:
        ValueError: There is no such coordinate, or pairs without a value.
    """
    ends = np.cumsum([cell.sizes["pair"] for cell in cells])[:-1]
    by_partition = [np.split(_numbers(cells, name), ends) for name in names_of(cluster)]
    return [list(own) for own in zip(*by_partition, strict=True)]


def warn_if_few(sizes: Sequence[int], what: str = "") -> bool:
    """Whether there are too few clusters for p-values; says so."""
    if (fewest := min(sizes)) >= ENOUGH:
        return False
    message = f"{fewest} clusters of pairs{what}: below {ENOUGH} intervals are rough, and there are no p-values"
    warnings.warn(printable(message), FewClusters, stacklevel=4)
    return True


def first_seen(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that there are, in the order in which they come, and the number of each pair's among them.

    That order is the same whatever clusters are called, so a seed gives a cell the same resamples in any company.
    """
    found, first, rows = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return found[order], np.argsort(order)[rows.reshape(-1)]


def crossed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Labels of what two partitions have in common, [pair]."""
    return np.unique(np.column_stack([one, other]), axis=0, return_inverse=True)[1].reshape(-1)


def _numbers(cells: Sequence[xr.Dataset], name: str) -> np.ndarray:
    """One partition of the pairs of all cells, end to end."""
    if name in BUILT_IN:
        images = [tuple(zip(*(_column(cell, column) for column in IMAGES), strict=True)) for cell in cells]
        return cluster_numbers([pair for own in images for pair in own], name)
    values = [value for cell in cells for value in _column(cell, name)]
    missing = sum(value is None or value != value for value in values)
    if missing:
        raise ValueError(f"{missing} of {len(values)} pairs have no {name!r} to be clustered by")
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def _column(cell: xr.Dataset, name: str) -> list[Any]:
    along = [str(key) for key, values in cell.coords.items() if values.dims == ("pair",)]
    if name not in along:
        raise ValueError(one_of("coordinate along `pair` to cluster by", name, [*BUILT_IN, *along]))
    return cell[name].values.tolist()
