"""COCO run lengths of a mask."""

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask [height, width] as uncompressed COCO run lengths.

    Returns:
        `size` (height, width), and `counts`: lengths of the runs down the columns, off and on in turn, off first.
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], turns, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
