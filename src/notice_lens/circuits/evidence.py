"""Clusters: the pairs of a condition that count as one piece of evidence.

Sharing is followed through any number of steps. A mismatched donor is an image that pairs share like any other, but
only where it enters the tested number, that is where heads are ranked by matched minus mismatched; the words of a
donor's question are the donor of a text corruption. Both images of a pair always count: they are near copies of each
other.

Two-way clustering takes two such partitions at once, say by image and by noun, each of which makes pairs alike.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import DIFFERENCE, Condition
from notice_lens.errors import one_of
from notice_lens.plain_text import printable
from notice_lens.stats.clusters import ENOUGH_CLUSTERS, IMAGE_COLUMNS, cluster_numbers, effective

SHARED = "shared"
BUILT_IN_CLUSTERS = (SHARED, "image", "pair")
Cluster = str | tuple[str, str] | list[str]
"""`shared`, `image`, `pair`, a coordinate along `pair`, or two of these for two-way clusters."""


class FewClusters(UserWarning):
    """There are so few clusters that intervals are rough, and no p-value is given."""


class DependentPairs(UserWarning):
    """Pairs that share images or donors are counted as independent evidence."""


def names_of(cluster: Cluster) -> tuple[str, ...]:
    """Return the partitions that a `cluster` asks for: one, or two for two-way clustering.

    Raises:
        ValueError: It is neither a name nor two different ones.
    """
    names = (cluster,) if isinstance(cluster, str) else tuple(cluster) if isinstance(cluster, list | tuple) else ()
    if not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        expected = "'shared', 'image', 'pair', a coordinate along `pair`, or two of these"
        raise ValueError(f"cluster={cluster!r}: expected {expected}")
    return names


def partitions_of(conditions: Sequence[Condition], cluster: Cluster) -> list[list[np.ndarray]]:
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
    partitions = [_numbers(conditions, name) for name in names]
    if SHARED not in names:
        _warn_if_dependent(conditions, names, partitions)
    ends = np.cumsum([len(condition.gap) for condition in conditions])[:-1]
    return [list(labels) for labels in zip(*(np.split(numbers, ends) for numbers in partitions), strict=True)]


def with_donors(condition: Condition, labels: list[np.ndarray], cluster: Cluster) -> list[np.ndarray]:
    """Return the cluster of each pair for a number that donors enter, whatever heads are ranked by.

    Args:
        condition: The condition.
        labels: Its partitions, as `partitions_of` gives them.
        cluster: The clustering that was asked for; donors count in `shared` alone.
    """
    if condition.ranked_by == DIFFERENCE:
        return labels
    donors = replace(condition, ranked_by=DIFFERENCE)
    with warnings.catch_warnings():
        # Of a result that names no donors; the tested number does not need them.
        warnings.simplefilter("ignore", DependentPairs)
        names = names_of(cluster)
        return [_numbers([donors], name) if name == SHARED else own for name, own in zip(names, labels, strict=True)]


def clusters_by(effects: Sequence[xr.Dataset], name: str, built_in: Sequence[str] = BUILT_IN_CLUSTERS) -> np.ndarray:
    """Return the clusters of pairs with the same value of a coordinate, [pair], over results end to end.

    Args:
        effects: The results.
        name: The coordinate along `pair`.
        built_in: Other valid names, for the message.

    Raises:
        ValueError: There is no such coordinate, or pairs without a value.
    """
    values = [value for one in effects for value in _column(one, name, built_in)]
    if missing := sum(value is None or value != value for value in values):
        raise ValueError(f"{missing} of {len(values)} pairs have no {name!r} to be clustered by")
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def warn_if_few(condition: Condition, partitions: Sequence[np.ndarray], where: str = "") -> bool:
    """Return whether there are too few clusters for p-values, and warn with the way out if so.

    Args:
        condition: Whose pairs they are.
        partitions: The cluster of each pair in each partition.
        where: Which condition it is, for the warning.
    """
    fewest = min(partitions, key=effective)
    if effective(fewest) >= ENOUGH_CLUSTERS:
        return False
    count, like = len(np.unique(fewest)), effective(fewest)
    size = "" if count - like < 0.5 else f", of such different sizes that they count as {like:.1f}"
    message = (
        f"{count} cluster{'' if count == 1 else 's'} of pairs{where} ({len(fewest)} pairs){size}: below "
        f"{ENOUGH_CLUSTERS} intervals are rough, and there are no p-values"
    )
    if condition.donor is not None and (apart := len(np.unique(_numbers([condition], "image")))) > count:
        message += (
            f". Donors that pairs share link them; without, there are {apart} clusters: give each pair a donor of its "
            "own, or rank by the matched change alone, which no donor enters (control=False)"
        )
    warnings.warn(printable(message), FewClusters, stacklevel=4)
    return True


def _numbers(conditions: Sequence[Condition], name: str) -> np.ndarray:
    """Return one partition of the pairs of all conditions, end to end."""
    if name in BUILT_IN_CLUSTERS:
        return cluster_numbers(_shared(conditions, donors=name == SHARED), "pair" if name == "pair" else "image")
    return clusters_by([condition.effects for condition in conditions], name)


def _shared(conditions: Sequence[Condition], donors: bool) -> list[list[Any]]:
    """Return the images that pairs may share, for all conditions: both of a pair, and the donor if it counts."""
    shared = []
    for condition in conditions:
        columns = [_column(condition.effects, column) for column in IMAGE_COLUMNS]
        if donors and condition.donor is not None:
            columns.append(_donors(condition))
        # A missing donor is None, or NaN where xarray joined results.
        shared += [[name for name in row if name is not None and name == name] for row in zip(*columns, strict=True)]
    return shared


def _donors(condition: Condition) -> list[Any]:
    """Return the donor of each pair: a picture by its digest like any other, or a question; None where not known."""
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
    # A question is never a picture, even if both have the same name.
    return known if condition.donor == "donor_digest" else [value and (condition.donor, value) for value in known]


def _warn_if_dependent(conditions: Sequence[Condition], names: Sequence[str], partitions: Sequence[np.ndarray]) -> None:
    """Warn where pairs share something and no partition keeps them together."""
    pairs_with: dict[Any, list[int]] = defaultdict(list)
    everything = _shared(conditions, donors=True)
    for pair, shared in enumerate(everything):
        for name in shared:
            pairs_with[name].append(pair)
    apart = sum(all(len(np.unique(labels[pairs])) > 1 for labels in partitions) for pairs in pairs_with.values())
    if apart:
        clusters = min(len(np.unique(labels)) for labels in partitions)
        chosen = names[0] if len(names) == 1 else tuple(names)
        message = (
            f"cluster={chosen!r}: {apart} images or donors are shared by pairs that are counted as independent "
            f"({len(everything)} pairs, {clusters} clusters; {len(np.unique(cluster_numbers(everything)))} by "
            "cluster='shared'): intervals are too narrow and heads are found that do not matter"
        )
        warnings.warn(printable(message), DependentPairs, stacklevel=4)


def _column(effects: xr.Dataset, name: str, built_in: Sequence[str] = BUILT_IN_CLUSTERS) -> list[Any]:
    along = [str(key) for key, values in effects.coords.items() if values.dims == ("pair",)]
    if name not in along:
        raise ValueError(one_of("coordinate along `pair` to cluster by", name, [*built_in, *along]))
    return effects[name].values.tolist()
