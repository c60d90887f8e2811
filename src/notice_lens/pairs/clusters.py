"""Which pairs belong together: they share images, so they are no independent evidence and are not split."""

from collections.abc import Sequence

import numpy as np


def clustered(images: Sequence[tuple[str, str]], together: str) -> list[list[int]]:
    """Numbers of pairs that stay together: of the same two images, or linked by any they share.

    Args:
        images: The two images of each pair.
        together: `pair` or `image`.
    """
    # Late: scipy takes longer to import than pairs do.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = [[frozenset(pair)] if together == "pair" else list(pair) for pair in images]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for own in names for name in own))}
    ends = [(known[own[0]], known[own[-1]]) for own in names]
    links = coo_array((np.ones(len(ends)), tuple(zip(*ends, strict=True)) or ([], [])), shape=(len(known), len(known)))
    _, component = connected_components(links, directed=False)
    found: dict[int, list[int]] = {}
    for number, (first, _) in enumerate(ends):
        found.setdefault(int(component[first]), []).append(number)
    return list(found.values())


def cluster_numbers(images: Sequence[tuple[str, str]], together: str) -> np.ndarray:
    """The number of each pair's cluster, [pair], counted in the order in which clusters first come; see `clustered`."""
    found = np.empty(len(images), int)
    for number, members in enumerate(clustered(images, together)):
        found[members] = number
    return found
