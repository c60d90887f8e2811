"""Which pairs are one piece of evidence.

Pairs that share an image are no independent evidence: they are flipped and resampled together, as one cluster. Sharing
is followed through any number of steps. A mismatched donor is an image that pairs share like any other, but only where
it enters the tested number, that is where heads are ranked by matched minus mismatched; the words of a donor's question
are the donor of a text corruption. Both images of a pair always count: they are near copies of each other.

Two-way clustering takes two such partitions at once, say by image and by noun, each of which makes pairs alike.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import Condition
from notice_lens.errors import one_of
from notice_lens.pairs.clusters import cluster_numbers
from notice_lens.plain_text import printable

ENOUGH = 15
"""Clusters of one size below which there is no p-value: sign flips of 14 have 16,384 patterns, and their tails are the
sample's."""
IMAGES = ("clean_digest", "corrupt_digest")
DIGESTS = (*IMAGES, "donor_digest")
SHARED = "shared"
BUILT_IN = (SHARED, "image", "pair")


class FewClusters(UserWarning):
    """There are so few clusters that intervals are rough, and no p-value is given."""


class DependentPairs(UserWarning):
    """Pairs that share images or donors are counted as independent evidence."""


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
    """Return the partitions that a `cluster` asks for: one, or two for two-way clustering.

    Raises:
        ValueError: It is neither a name nor two different ones.
    """
    names = (cluster,) if isinstance(cluster, str) else tuple(cluster) if isinstance(cluster, list | tuple) else ()
    if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        expected = "'shared', 'image', 'pair', a coordinate along `pair`, or two of these"
        raise ValueError(f"cluster={cluster!r}: expected {expected}")
    return names


def labels(conditions: Sequence[Condition], cluster: Any) -> list[list[np.ndarray]]:
    """Return the cluster of each pair, the same number for the same cluster in all conditions.

    Args:
        conditions: The conditions; their pairs may be the same, or share images.
        cluster: `shared` (linked by any image that enters the tested number, donors included), `image` (by any shared
            image of the pairs themselves), `pair` (the same two images), the name of a coordinate along `pair`, or two
            of these.

    Returns:
        For each condition the labels of each partition, [pair].

    Raises:
        ValueError: There is no such coordinate, or pairs without a value.
    """
    names = names_of(cluster)
    found = [_numbers(conditions, name) for name in names]
    if SHARED not in names:
        _warn_if_dependent(conditions, names, found)
    ends = np.cumsum([len(condition.gap) for condition in conditions])[:-1]
    return [list(own) for own in zip(*(np.split(numbers, ends) for numbers in found), strict=True)]


def effective(labels: np.ndarray) -> float:
    """Return how many clusters of equal size say as much as these: (sum of sizes)² / sum of squared sizes."""
    sizes = np.unique(labels, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def warn_if_few(condition: Condition, own: Sequence[np.ndarray], what: str = "") -> bool:
    """Return whether there are too few clusters for p-values, and warn with the way out if so.

    Args:
        condition: Whose pairs they are.
        own: The cluster of each pair in each partition.
        what: Which condition it is, for the warning.
    """
    fewest = min(own, key=effective)
    if effective(fewest) >= ENOUGH:
        return False
    count, like = len(np.unique(fewest)), effective(fewest)
    size = "" if count - like < 0.5 else f", of such different sizes that they count as {like:.1f}"
    message = (
        f"{count} cluster{'' if count == 1 else 's'} of pairs{what} ({len(fewest)} pairs){size}: below {ENOUGH} "
        "intervals are rough, and there are no p-values"
    )
    if condition.donor is not None and (apart := len(np.unique(_numbers([condition], "image")))) > count:
        message += (
            f". Donors that pairs share link them; without, there are {apart} clusters: give each pair a donor of its "
            "own, or rank by the matched change alone, which no donor enters (control=False)"
        )
    warnings.warn(printable(message), FewClusters, stacklevel=4)
    return True


def first_seen(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that there are, in the order in which they come, and the number of each pair's among them.

    That order is the same whatever clusters are called, so a seed gives a condition the same resamples in any company.
    """
    found, first, rows = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return found[order], np.argsort(order)[rows.reshape(-1)]


def crossed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return labels of what two partitions have in common, [pair]."""
    return np.unique(np.column_stack([one, other]), axis=0, return_inverse=True)[1].reshape(-1)


def _numbers(conditions: Sequence[Condition], name: str) -> np.ndarray:
    """One partition of the pairs of all conditions, end to end."""
    if name in BUILT_IN:
        return cluster_numbers(_shared(conditions, donors=name == SHARED), "pair" if name == "pair" else "image")
    values = [value for condition in conditions for value in _column(condition.effects, name)]
    missing = sum(value is None or value != value for value in values)
    if missing:
        raise ValueError(f"{missing} of {len(values)} pairs have no {name!r} to be clustered by")
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def _shared(conditions: Sequence[Condition], donors: bool) -> list[list[Any]]:
    """What each pair of all conditions may share: its two images, and the donor where it enters the number."""
    found = []
    for condition in conditions:
        columns = [_column(condition.effects, column) for column in IMAGES]
        if donors and condition.donor is not None:
            columns.append(_donors(condition))
        # A missing donor is None, or NaN where xarray joined results.
        found += [[name for name in own if name is not None and name == name] for own in zip(*columns, strict=True)]
    return found


def _donors(condition: Condition) -> list[Any]:
    """The donor of each pair: a picture by its digest, like any other, or a question; None where it is not known."""
    if condition.donor not in condition.effects.coords:
        warnings.warn(
            f"these effects do not say which donors pairs share (no coordinate {condition.donor!r}; results of "
            "notice-lens 0.1 have none): pairs are clustered by their own images alone. Sweep anew, or rank by the "
            "matched change (control=False)",
            DependentPairs,
            stacklevel=7,
        )
        return [None] * len(condition.gap)
    values = condition.effects[condition.donor].values.tolist()
    known = [None if value is None or value != value else value for value in values]
    return known if condition.donor in DIGESTS else [value and (condition.donor, value) for value in known]


def _warn_if_dependent(conditions: Sequence[Condition], names: Sequence[str], partitions: Sequence[np.ndarray]) -> None:
    """Warn where pairs share something and no partition keeps them together."""
    members: dict[Any, list[int]] = defaultdict(list)
    everything = _shared(conditions, donors=True)
    for pair, own in enumerate(everything):
        for name in own:
            members[name].append(pair)
    apart = sum(all(len(np.unique(labels[own])) > 1 for labels in partitions) for own in members.values())
    if apart:
        clusters = min(len(np.unique(labels)) for labels in partitions)
        chosen = names[0] if len(names) == 1 else tuple(names)
        message = (
            f"cluster={chosen!r}: {apart} images or donors are shared by pairs that are counted as independent "
            f"({len(everything)} pairs, {clusters} clusters; {len(np.unique(cluster_numbers(everything)))} by "
            "cluster='shared'): intervals are too narrow and heads are found that are none"
        )
        warnings.warn(printable(message), DependentPairs, stacklevel=4)


def _column(effects: xr.Dataset, name: str) -> list[Any]:
    along = [str(key) for key, values in effects.coords.items() if values.dims == ("pair",)]
    if name not in along:
        raise ValueError(one_of("coordinate along `pair` to cluster by", name, [*BUILT_IN, *along]))
    return effects[name].values.tolist()
