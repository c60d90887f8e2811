"""Distances between pictures: the cosine distance between their states after the image encoder.

A picture's state is the mean over its image positions, without any class token: where in the picture a thing is counts
for little, what is in it for much.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.models.protocol import image_stream

if TYPE_CHECKING:
    from pandas import DataFrame

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs.minimal_pairs import MinimalPairs


@one_thread_at_a_time
@outside_inference_mode
def picture_states(
    model: "VisionLanguageModel", images: Sequence[Any], batch_size: int = 16, progress: bool = True
) -> Float[Tensor, "picture d_model"]:
    """The mean patch state of each picture after the vision stack, in float32 on the CPU.

    Args:
        model: The model, with its processor.
        images: What `prepare` takes; files are read batch by batch.
        batch_size: How many pictures run at a time.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The model has no processor, the batch size is invalid, or a picture cannot be read.
    """
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more")
    width = model.stack(image_stream(model.cfg)).cfg.d_model
    states = [torch.empty(0, width, dtype=torch.float32)]
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, "looking at pictures", disable=not progress, unit="batch"):
        states.append(model.mean_image_states(list(images[start : start + batch_size])))
    return torch.cat(states)


def distances(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"]) -> Float[Tensor, "n m"]:
    """Cosine distances: 0 where two states point the same way, 1 at right angles, 2 where they are opposite."""
    a, b = (torch.nn.functional.normalize(states, dim=-1) for states in (a, b))
    return 1 - a @ b.T


def closest(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], times: int) -> list[tuple[int, int]]:
    """Return which rows of `a` and `b` to pair, each at most once.

    All are assigned to each other so that the sum of distances is smallest; of these the closest are kept.

    Args:
        a: States of some pictures.
        b: States of others.
        times: How many pairs to keep.
    """
    from scipy.optimize import linear_sum_assignment

    cost = distances(a, b).numpy()
    rows, columns = linear_sum_assignment(cost)
    order = cost[rows, columns].argsort(kind="stable")[:times]
    return [(int(rows[i]), int(columns[i])) for i in order]


class _Images(Sequence[Any]):
    """The images of a column of pairs, decoded slice by slice."""

    def __init__(self, pairs: "MinimalPairs", column: str) -> None:
        self.pairs, self.column = pairs, column

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        return [getattr(pair, self.column) for pair in self.pairs[index]]


@one_thread_at_a_time
@outside_inference_mode
def minimality(
    model: "VisionLanguageModel", pairs: "MinimalPairs", batch_size: int = 16, progress: bool = True
) -> "DataFrame":
    """Return the distance of each pair's images, and of its clean image from other pairs' corrupted images.

    Args:
        model: The model.
        pairs: The pairs; compared are those of the same task and group.
        batch_size: How many pictures run at a time.
        progress: Whether to show a progress bar.

    Returns:
        A row a pair: `id`, `distance` of its images (cosine, 0 to 2), `random`, the mean distance to the others'
        corrupted images, and `closer_than`, the share of these that are farther away than its own: 1 is as minimal as
        it can be, one half no better than chance. NaN where there are no others.
    """
    import pandas as pd

    ids, tasks, groups = (pairs[column] for column in ("id", "task", "group"))
    digests = pairs["corrupt_digest"]
    clean, corrupt = (
        picture_states(model, _Images(pairs, column), batch_size, progress)
        for column in ("clean_image", "corrupt_image")
    )
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, kind in enumerate(zip(tasks, groups, strict=True)):
        kinds.setdefault(kind, []).append(number)
    rows = []
    for alike in kinds.values():
        for place, number in enumerate(alike):
            apart = distances(clean[[number]], corrupt[alike])[0].double().numpy()
            random = apart[[digests[other] != digests[number] for other in alike]]
            own, some = apart[place], len(random) > 0
            rows.append((number, own, random.mean() if some else None, (random > own).mean() if some else None))
    rows = [(ids[number], *values) for number, *values in sorted(rows)]
    return pd.DataFrame(rows, columns=["id", "distance", "random", "closer_than"]).astype(
        {"distance": float, "random": float, "closer_than": float}
    )
