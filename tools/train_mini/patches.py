"""Naming what is in each patch of a picture, the first thing that a model learns: labels, and the loss."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.picture import Drawing

NOTHING = "nothing"
"""The word for a patch of the background."""

NOTHING_WEIGHT = 0.05
"""Weight of such a patch in the loss: most patches show nothing, and would drown the others."""

UNKNOWN = -100
"""Label of a patch that is not asked about."""

Words = Mapping[str, Sequence[str]]
"""The words that can be named, by kind; the first kind has the word `NOTHING`."""


def patch_shares(drawing: Drawing, names: Sequence[str], grid: int) -> NDArray[np.float32]:
    """Return the share of each patch that each part covers, [part, patch]; the picture has `grid` x `grid` patches."""
    nowhere = np.zeros_like(drawing.cover["background"])
    side = nowhere.shape[0] // grid
    covers = (drawing.cover.get(name, nowhere) for name in names)
    return np.stack([cover.reshape(grid, side, grid, side).mean(axis=(1, 3)).ravel() for cover in covers])


def patch_labels(
    classes: Words, drawing: Drawing, things: Mapping[str, Mapping[str, str | None]], grid: int
) -> NDArray[np.int16]:
    """Return the numbers of the words for each patch, int16 [kind, patch].

    A patch shows the thing that fills most of it, if that is a fifth or more, and nothing if all things together fill
    less than a twentieth; in between it is `UNKNOWN`.

    Args:
        classes: The words of each kind.
        drawing: The picture.
        things: For each part, its word of each kind; None or empty for none.
        grid: Patches along a side of the picture.
    """
    kinds = list(classes)
    labels = np.full((len(kinds), grid * grid), UNKNOWN, np.int16)
    shares = patch_shares(drawing, list(things), grid)
    labels[0, shares.sum(axis=0) < 0.05] = classes[kinds[0]].index(NOTHING)
    most = shares.argmax(axis=0)
    for number, words in enumerate(things.values()):
        filled = (most == number) & (shares[number] >= 0.2)
        for kind, word in words.items():
            if word:
                labels[kinds.index(kind), filled] = classes[kind].index(word)
    return labels


def naming_loss(
    classes: Words,
    labels: Int[Tensor, "image kind patch"],
    logits_of: Callable[[str, Bool[Tensor, "image patch"]], Float[Tensor, "known word"]],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the sum over kinds of the mean cross-entropy, and the accuracy on patches of things.

    Args:
        classes: The words of each kind.
        labels: Their numbers, or `UNKNOWN`.
        logits_of: Returns the logits of a kind at the patches of a mask.

    Returns:
        The loss, and the share of the patches of things whose word of the first kind is right.
    """
    loss = accuracy = torch.zeros((), device=labels.device)
    for number, (kind, words) in enumerate(classes.items()):
        target = labels[:, number]
        known = target != UNKNOWN
        if not known.any():
            continue
        logits, target = logits_of(kind, known).float(), target[known]
        if NOTHING not in words:
            loss = loss + functional.cross_entropy(logits, target)
            continue
        nothing = words.index(NOTHING)
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[nothing] = NOTHING_WEIGHT
        loss = loss + functional.cross_entropy(logits, target, weight=weight)
        accuracy = (logits.argmax(-1) == target)[target < nothing].float().mean().nan_to_num()
    return loss, accuracy
