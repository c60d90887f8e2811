"""All pairs of some heads: joint effects beyond those of each head alone.

A sweep patches one head at a time, and so is blind to circuits in which heads need, or replace, each other: a head of
an AND restores nothing on its own, a head of an OR destroys nothing, and one of a majority of three shows
nothing in either direction. Here every head and every pair of heads is patched, exactly, in both directions:

    denoise    the corrupted run with what these heads have in the clean run: what they restore (sufficiency)
    noise      the clean run with what they have in the corrupted run: what is lost without them (necessity)

n heads are n (n + 1) / 2 variants in each direction. `circuits.interactions` names what they show.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from notice_lens.errors import one_of
from notice_lens.patching.edits import Edit, check_model
from notice_lens.patching.nodes import Head, Node, nodes_of
from notice_lens.patching.options import Direction, DType
from notice_lens.patching.results import DIRECTIONS
from notice_lens.patching.sweeps import run_variants

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs, Noise

BY_VARIANT = ("logit_diff_change", "patching_effect")


def pairs_of_heads(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    heads: Sequence[Head],
    *,
    positions: str | int | Sequence[str] | Sequence[int] = "all",
    directions: Sequence[Direction] = ("denoise", "noise"),
    corruption: "Literal['image', 'text'] | Noise" = "image",
    contrast: Literal["auto", "incorrect"] = "auto",
    min_gap: float | int = 1e-3,
    memory: float | int | None = None,
    dtype: DType | None = None,
    seed: int = 0,
    store: str | PathLike[str] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Patch each of some heads, and all pairs of them, in both directions.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        heads: Two or more nodes by name: heads such as `text.cross_attn.L1.H3` or `("text.cross_attn", 1, 3)`, in one
            attention or in several; MLPs such as `text.mlp.L1` too.
        positions: Where they are patched: `all`, a role or region, a number, or several of these at once.
        directions: `denoise`, `noise`, or both.
        corruption: `image`, `text` or `Noise(...)`.
        contrast: `auto` or `incorrect`, as of `sweep`.
        min_gap: In logits; below it a pair's `patching_effect` is NaN.
        memory: Bytes that variants may take; None for a share of the free memory.
        dtype: Of the result.
        seed: Of the random draws.
        store: A folder with a separate store for each direction, to resume from.
        progress: Whether to show bars.

    Returns:
        Dimensions `pair, direction, node, other`; symmetric, with single nodes on the diagonal. `logit_diff_change`
        (patched minus base run, in logits) and `patching_effect` (the share of the gap that is restored or lost);
        `logit_diff_clean`, `logit_diff_corrupt` [pair], `noise_floor` [pair, direction] in logits.

    Raises:
        ValueError: There are fewer than two nodes, there is no such node, or an option is invalid.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> heads = ["text.cross_attn.L2.H2", "text.cross_attn.L2.H4", "text.cross_attn.L2.H6"]
        >>> effects = patching.pairs_of_heads(model, pairs, heads, progress=False)
        >>> dict(effects.patching_effect.sizes)
        {'pair': 4, 'direction': 2, 'node': 3, 'other': 3}
    """
    check_model(model)
    nodes = nodes_of(model, heads)
    if len(nodes) < 2:
        raise ValueError(f"heads: expected two or more, got {len(nodes)}; patch_heads is for one at a time")
    asked = _directions(directions)
    variants = _variants(nodes, positions)
    found = {
        direction: run_variants(
            model, pairs, variants, direction=direction, metrics=BY_VARIANT, controls="self", corruption=corruption,
            contrast=contrast, min_gap=min_gap, memory=memory, dtype=dtype, seed=seed, progress=progress,
            store=None if store is None else Path(store) / f"{direction}.zarr",
        )
        for direction in asked
    }  # fmt: skip
    return _labelled(found, [node.name for node in nodes])


def _directions(directions: Iterable[Any]) -> list[Direction]:
    asked: list[Any] = [directions] if isinstance(directions, str) else list(directions)
    for one in asked:
        if one not in DIRECTIONS:
            raise ValueError(one_of("direction", one, DIRECTIONS))
    if not asked or len(set(asked)) < len(asked):
        raise ValueError(f"directions {asked}: expected 'denoise', 'noise' or both, each once")
    return asked


def _variants(nodes: Sequence[Node], positions: object) -> dict[str, list[Edit]]:
    """Return the edits of each node and each pair of nodes, by the numbers of the nodes."""
    edits = [replace(node.edit("other"), positions=positions) for node in nodes]
    singles = {f"{number}": [edit] for number, edit in enumerate(edits)}
    return singles | {f"{one} {two}": [edits[one], edits[two]] for one, two in combinations(range(len(nodes)), 2)}


def _labelled(found: dict[str, xr.Dataset], names: list[str]) -> xr.Dataset:
    """Return the results of the directions as one, variants laid out by the two nodes that they patch."""
    first, size = next(iter(found.values())), len(names)
    at = {name: number for number, name in enumerate(first["variant"].values.tolist())}
    place = [[at[f"{min(i, j)} {max(i, j)}" if i != j else f"{i}"] for j in range(size)] for i in range(size)]
    dims = ("pair", "direction", "node", "other")
    by_place = {
        name: (dims, np.stack([one[name].transpose("pair", "variant").values[:, place] for one in found.values()], 1))
        for name in BY_VARIANT
    }
    floor = np.stack([one["noise_floor"].values for one in found.values()], 1)
    kept = first.drop_dims("variant").drop_vars(["noise_floor", "below_floor"], errors="ignore")
    labels = np.array(names, dtype=object)
    return kept.assign(by_place | {"noise_floor": (dims[:2], floor)}).assign_coords(
        direction=np.array(list(found), dtype=object), node=labels, other=labels
    ).assign_attrs(direction=" and ".join(found))  # fmt: skip
