"""Small pictures of numbers on the page: matched beside mismatched effects, and shares by layer.

They are places and sizes in an SVG of the template, rounded to tenths of a pixel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.viz import page_words as words
from notice_lens.viz.head_figures import HEADS
from notice_lens.viz.report_data import Cell

STRONGEST = 6
"""Heads of a cell that are compared."""


def ends(cells: Sequence[Cell]) -> tuple[float, float]:
    """The smallest and the largest effect that is compared, and zero between them."""
    names = ("effect_matched", "effect_mismatched")
    values = np.concatenate([np.zeros(1), *(cell.heads[name].values.ravel() for cell in cells for name in names)])
    return float(np.nanmin(values)), float(np.nanmax(values))


def is_controlled(cell: Cell) -> bool:
    """Return whether any head of the cell has a mismatched effect: without donors there is none to compare with."""
    return "effect_mismatched" in cell.heads and bool(np.isfinite(cell.heads["effect_mismatched"]).any())


def contrast(cell: Cell, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """The strongest heads of a cell: matched and mismatched effect as places in a picture 240 pixels wide, in words."""
    flat = cell.heads.stack(place=HEADS, create_index=False)
    order = np.argsort(-abs(flat["effect"]).fillna(-1.0).values, kind="stable")[:STRONGEST]
    drawn = flat.isel(place=order)
    scale = 220 / (limits[1] - limits[0] or 1.0)

    def x(value: Any) -> float | None:
        return round(10 + scale * (float(value) - limits[0]), 1) if np.isfinite(value) else None

    return [
        {
            "layer": int(one["layer"]),
            "head": int(one["head"]),
            "matched": words.percent(one["effect_matched"]),
            "mismatched": words.percent(one["effect_mismatched"]),
            "x_matched": x(one["effect_matched"]),
            "x_mismatched": x(one["effect_mismatched"]),
            "zero": x(0.0),
            "said": words.with_interval(one),
            "p": words.small(one.get("p", np.nan)),
            "q": words.small(one.get("q", np.nan)),
            "rules": words.rules(one),
        }
        for one in (drawn.isel(place=place) for place in range(drawn.sizes["place"]))
    ]


def profile(cell: Cell) -> dict[str, Any]:
    """A cell's shares by layer as bars in a picture 150 pixels high, whose base line is at 120."""
    found = cell.profile
    assert found is not None
    shares = found["share"].values
    tops = found["high"].values if "high" in found else shares
    scale = 110 / float(np.nanmax(np.concatenate([tops, shares, [1e-9]])))
    step = max(18.0, 240 / len(shares))

    def y(name: str, number: int) -> float | None:
        value = float(found[name].values[number]) if name in found else np.nan
        return round(120 - scale * value, 1) if np.isfinite(value) else None

    bars = [
        {
            "layer": int(layer),
            "x": round(number * step + step * 0.15, 1),
            "middle": round((number + 0.5) * step, 1),
            "width": round(step * 0.7, 1),
            "y": y("share", number),
            "height": round(scale * float(share), 1),
            "low": y("low", number),
            "high": y("high", number),
        }
        for number, (layer, share) in enumerate(zip(found["layer"].values, shares, strict=True))
    ]
    listed = ", ".join(f"layer {bar['layer']} {_in_percent(share)}" for bar, share in zip(bars, shares, strict=True))
    centre = finite(found.get("centre_of_mass"))
    first = float(found["layer"].values[0])
    return {
        "name": cell.name,
        "width": round(step * len(shares), 1),
        "bars": bars,
        "centre": None if centre is None else round((centre - first + 0.5) * step, 1),
        "label": f"{cell.name}: {listed}",
        "said": _centre_said(found, centre),
    }


def finite(value: Any) -> float | None:
    """Return the number, or None where it is missing or not a number."""
    return None if value is None or not np.isfinite(value) else float(value)


def _in_percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "none"


def _centre_said(profile: xr.Dataset, centre: float | None) -> str:
    low, high = finite(profile.get("centre_low")), finite(profile.get("centre_high"))
    said = [] if centre is None else [f"centre of mass {centre:.2f}"]
    if centre is not None and low is not None and high is not None:
        said[0] += f" [{low:.2f}, {high:.2f}]"
    if (middle := finite(profile.get("middle_share"))) is not None:
        said.append(f"middle layers {middle:.0%}")
    if "p" in profile and profile["p"].ndim == 0:
        said.append(f"p = {words.small(profile['p'])}" if finite(profile["p"]) is not None else words.UNTESTED)
    return "; ".join(said)
