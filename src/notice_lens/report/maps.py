"""Attention maps of several runs side by side, kept in 8 bits.

Kept maps have 8 bits: each is stored as a share of its own largest patch, in 255 steps, beside that largest one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from notice_lens.circuits.functions.maps import attention_maps, blind_roles, roles_asked
from notice_lens.errors import one_of
from notice_lens.models.protocol import image_stream
from notice_lens.pairs import corruption
from notice_lens.patching.positions import Positions

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

RUNS = {"clean": ("clean", "clean"), **corruption.INPUTS_BY_CORRUPTION}
"""The image and the prompt of each run: the clean one, and those of the two corruptions."""
MAP_STEPS = 255
DIMS = ("pair", "run", "role", "layer", "head")


def maps_of_runs(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    *,
    runs: Sequence[str] = ("clean", "image"),
    roles: Sequence[str] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> xr.DataArray:
    """Return the attention map of every head that attends from words to the image, for each pair, run and role.

    Args:
        model: The model.
        pairs: Any that it can read.
        runs: Of `clean`; `image`, the corrupted image; and `text`, the corrupted prompt.
        roles: Which words ask, `all` for all at once; None takes each role of the pairs, and `all` too where there is
            no `correct`.
        batch_size: Pairs that run at a time.
        progress: Whether there is a bar.

    Returns:
        float32 [pair, run, role, layer, head, patch], shares of attention from 0 to 1, with the coordinate
        `elsewhere` [pair, run, role, layer, head]; NaN where a pair has no such run or role. Patches are in rows; the
        attribute `grid` has their rows and columns.

    Raises:
        ValueError: There is no such run or role.
    """
    for run in runs:
        if run not in RUNS:
            raise ValueError(one_of("run", run, RUNS))
    spans = Positions(model, pairs).words
    wanted = roles_asked(roles or None, spans, blind_roles(model, pairs.layout(model), spans))
    site, grid = model.cfg.looking_site, pairs.layout(model).grid(image_stream(model.cfg))
    cfg = model.stack(site.partition(".")[0]).cfg
    shape = (len(pairs), len(runs), len(wanted), cfg.n_layers, cfg.n_heads)
    found, aside = np.full((*shape, grid[0] * grid[1]), np.nan, "float32"), np.full(shape, np.nan, "float32")
    beside = ""
    for place, run in enumerate(runs):
        image, prompt = RUNS[run]
        there = [number for number, text in enumerate(pairs[f"{prompt}_prompt"]) if text is not None]
        asking = [number for number, role in enumerate(wanted) if any(role in spans[pair] for pair in there)]
        if not asking:
            continue
        own = attention_maps(
            model, pairs.select(there), site, roles=[wanted[number] for number in asking], maps="attention",
            image=image, prompt=prompt, batch_size=batch_size, progress=progress,
        ).sel(maps="attention")  # fmt: skip
        beside = own.attrs["beside"]
        found[np.ix_(there, [place], asking)] = own["weight"].values[:, None]
        aside[np.ix_(there, [place], asking)] = own["elsewhere"].values[:, None]
    labels = [np.array(pairs["id"], object), list(runs), wanted, range(cfg.n_layers), range(cfg.n_heads)]
    coords: dict[str, Any] = dict(zip(DIMS, labels, strict=True))
    coords["elsewhere"] = (DIMS, aside)
    return xr.DataArray(found, coords, (*DIMS, "patch"), "attention", {"grid": grid, "site": site, "beside": beside})


def packed(maps: xr.DataArray) -> xr.Dataset:
    """Maps in 8 bits: `attention` (0 to 255, of the map's largest patch), `largest` and `elsewhere` (float32).

    A map that is not there has NaN for its largest patch.
    """
    largest = maps.max("patch", skipna=False)
    steps = (maps / largest.where(largest > 0, 1.0) * MAP_STEPS).round().fillna(0).astype(np.uint8)
    parts = {
        "attention": steps.drop_vars("elsewhere"),
        "largest": largest.drop_vars("elsewhere").astype(np.float32),
    }
    elsewhere = maps["elsewhere"].drop_vars("elsewhere").astype(np.float32)
    return xr.Dataset(
        parts | {"elsewhere": elsewhere}, attrs={"grid": tuple(maps.attrs["grid"]), "beside": maps.attrs["beside"]}
    )


def unpacked(kept: xr.Dataset) -> xr.DataArray:
    """Maps as `maps_of_runs` returns them, from 8 bits: off by at most 1/510 of each map's largest patch."""
    maps = (kept["attention"].astype(np.float32) * (kept["largest"] / np.float32(MAP_STEPS))).rename("attention")
    return maps.assign_coords(elsewhere=kept["elsewhere"]).assign_attrs(kept.attrs)
