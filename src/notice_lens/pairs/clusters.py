"""Clusters of pairs that share images: they are not independent evidence, and are never split."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def clustered(shared: Sequence[Sequence[Any]], together: str = "image") -> list[list[int]]:
    """Numbers of pairs that stay together: of the same images, or linked by any that they share, however many steps.

    Args:
        shared: What each pair shares with others, such as its two images; one thing or more.
        together: `pair` joins pairs whose things are all the same, `image` those that share any.
    """
    # Late: scipy takes longer to import than pairs do.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = [[frozenset(own)] if together == "pair" else list(own) for own in shared]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for own in names for name in own))}
    ends = [(known[own[0]], known[name]) for own in names for name in own]
    links = coo_array((np.ones(len(ends)), tuple(zip(*ends, strict=True)) or ([], [])), shape=(len(known), len(known)))
    _, component = connected_components(links, directed=False)
    found: dict[int, list[int]] = {}
    for number, own in enumerate(names):
        found.setdefault(int(component[known[own[0]]]), []).append(number)
    return list(found.values())


def cluster_numbers(shared: Sequence[Sequence[Any]], together: str = "image") -> np.ndarray:
    """The number of each pair's cluster, [pair], counted in the order in which clusters first come; see `clustered`."""
    found = np.empty(len(shared), int)
    for number, members in enumerate(clustered(shared, together)):
        found[members] = number
    return found
