"""The page's small pictures, as numbers for its template: strongest heads, layers, and what heads carry together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.report.data import ShownCondition
from notice_lens.report.page_data import shown_effect
from notice_lens.stats.dims import HEADS
from notice_lens.viz import words
from notice_lens.viz.circuit_figures import headline
from notice_lens.viz.graph_layout import GraphLayout, short_name

STRONGEST = 6
"""Heads of a condition that are compared."""
SMALLEST = 0.0005
"""Of the gap: an effect that is printed as 0.0 % is no finding."""


def is_controlled(condition: ShownCondition) -> bool:
    """Return whether any head has a mismatched effect: without donors there is nothing to compare with."""
    return "effect_mismatched" in condition.heads and bool(np.isfinite(condition.heads["effect_mismatched"]).any())


def forest_limits(conditions: Sequence[ShownCondition]) -> tuple[float, float]:
    """Return the ends of the one scale of all forests: effects of single heads, and as much again for intervals.

    Intervals that end further out, as they may of few pairs, are cut off at the picture's edge; the numbers beside it
    say where they end.
    """
    values = np.concatenate(
        [np.zeros(1), *(one.heads[name].values.ravel() for one in conditions for name in _marked(one))]
    )
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return low - 0.25 * (high - low), high + 0.25 * (high - low)


def _marked(condition: ShownCondition) -> dict[str, int]:
    """Return the effects that a forest marks, each with its height in a picture 20 pixels high."""
    return {"effect_matched": 6, "effect_mismatched": 14} if is_controlled(condition) else {"effect": 10}


def forest(condition: ShownCondition, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the strongest heads: effects and intervals as places in a picture 240 by 20 pixels, and in words."""
    flat = condition.heads.stack(place=HEADS, create_index=False)
    order = np.argsort(-abs(flat["effect"]).fillna(-1.0).values, kind="stable")[:STRONGEST]
    # Heads without an effect are left out; if no head of a condition has an effect, the first is shown.
    there = [place for place in order if abs(float(flat["effect"][place])) >= SMALLEST] or order[:1]
    drawn = flat.isel(place=there)
    scale = 220 / (limits[1] - limits[0] or 1.0)

    def x(value: Any) -> float | None:
        return round(10 + scale * float(np.clip(value - limits[0], 0, 220 / scale)), 1) if np.isfinite(value) else None

    def mark(one: xr.Dataset, name: str, y: int) -> dict[str, Any]:
        low, high = (x(float(one.get(end, np.nan))) for end in words.interval_of(name))
        kind = "mismatched" if name == "effect_mismatched" else "matched"
        return {"kind": kind, "x": x(float(one[name])), "low": low, "high": high, "y": y}

    names = _marked(condition)
    return [
        {
            "layer": int(one["layer"]),
            "head": int(one["head"]),
            "marks": [mark(one, name, y) for name, y in names.items() if np.isfinite(one[name])],
            "parts": [words.with_interval(one, name) for name in names] if len(names) > 1 else [],
            "zero": x(0.0),
            "said": words.with_interval(one, shown_effect(condition)),
            "p": words.small(one.get("p", np.nan)),
            "q": words.small(one.get("q", np.nan)),
            "rules": words.rules(one),
        }
        for one in (drawn.isel(place=place) for place in range(drawn.sizes["place"]))
    ]


def profile(condition: ShownCondition) -> dict[str, Any]:
    """A condition's shares by layer as bars in a picture 150 pixels high, whose base line is at 120."""
    found = condition.profile
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
        "name": condition.name,
        "width": round(step * len(shares), 1),
        "bars": bars,
        "centre": None if centre is None else round((centre - first + 0.5) * step, 1),
        "label": f"{condition.name}: {listed}",
        "said": _centre_said(found, centre),
    }


def curve(name: str, found: xr.Dataset) -> dict[str, Any]:
    """What the best heads of a condition carry together, as lines in a picture 260 by 150 whose base line is at 120."""
    restored, sizes = found.sel(direction="denoise"), found["size"].values
    scale = 240 / max(1, int(sizes[-1]))

    def line(values: Any) -> str:
        """Return the points of a line; values that are not numbers are left out."""
        return " ".join(
            f"{10 + scale * float(size):.1f},{120 - 105 * float(np.clip(value, -0.1, 1.1)):.1f}"
            for size, value in zip(sizes, np.asarray(values, float), strict=True)
            if np.isfinite(value)
        )

    band = f"{line(restored['share_low'])} {' '.join(reversed(line(restored['share_high']).split()))}"
    return {
        "name": name,
        "said": headline(found),
        "share": line(restored["share"]),
        "band": band,
        "random": line(restored["random"]),
        "mismatched": line(found["mismatched"]),
        "most": int(sizes[-1]),
    }


COLUMN_STEP, ROW_STEP, LETTER = 110, 42, 7.2
"""Distances in the picture of a graph, and the room for a letter at its sides, in pixels."""
EDGES_OF_A_PAGE = 24
TOLD_EDGES = 4
"""Edges that the caption names."""


def graph(name: str, found: xr.Dataset) -> dict[str, Any]:
    """What the heads of a circuit read, tell each other and write, as shapes in a picture of its own size."""
    layout = GraphLayout(found, top=EDGES_OF_A_PAGE)
    edges, places, labels = layout.edges, layout.places, layout.ends
    highest, lowest = (pick(place[1] for place in places.values()) for pick in (max, min))
    left, right = (
        16 + LETTER * max((len(f"{one.kind}: {one.name}") for one in labels if bool(one.kind) == read), default=0)
        for read in (True, False)
    )

    def x(column: float) -> float:
        return round(left + COLUMN_STEP * column, 1)

    def y(row: float) -> float:
        return round(28 + ROW_STEP * (highest - row), 1)

    def points(edge: Any) -> str:
        return " ".join(f"{x(a)},{y(b)}" for a, b in zip(*layout.curve(edge), strict=True))

    told = [
        f"{short_name(one.source) if '.L' in one.source else one.source} → {short_name(one.target)} {one.effect:.0%} "
        f"[{100 * one.low:.0f}, {100 * one.high:.0f}]"
        for one in edges[:TOLD_EDGES]
    ]
    pairs, clusters = found.attrs.get("pairs"), found.attrs.get("clusters")
    n = f"{pairs} pairs" + (f" in {clusters} clusters" if clusters != pairs else "")
    return {
        "name": name,
        "width": round(left + right + COLUMN_STEP * max(place[0] for place in places.values())),
        "height": round((highest - lowest) * ROW_STEP + 84),
        "edges": [
            {"points": points(one), "width": round(layout.thickness(one), 1), "against": one.effect < 0,
             "said": "\n".join([one.name, *one.lines])}
            for one in reversed(edges)
        ],
        "numbers": [{"x": x(a), "y": y(b), "text": text} for a, b, text in layout.numbers],
        "nodes": [
            {"x": x(places[one][0]), "y": y(places[one][1]), "text": short_name(one), "name": one}
            for one in map(str, found["node"].values)
        ],
        "ends": [
            {"x": round(x(one.x) + (-5 if one.kind else 5), 1), "y": y(one.y), "kind": one.kind, "text": one.name}
            for one in labels
        ],
        "layers": [{"x": x(column), "text": text} for column, text in layout.layers.items()],
        "said": (f"the largest: {'; '.join(told)}" if told else "no edge of 1 % and more is clear") + f" ({n})",
    }  # fmt: skip


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
        said.append(f"middle layers {middle:.0%}{_between(profile, 'middle_low', 'middle_high')}")
    if "middle_p" in profile:
        p = words.small(profile["middle_p"])
        said.append(p if p == words.UNTESTED else f"p {p}" if p.startswith("<") else f"p = {p}")
    return "; ".join(said)


def _between(profile: xr.Dataset, *ends: str) -> str:
    """Return an interval of shares in brackets, or an empty string."""
    low, high = (finite(profile.get(end)) for end in ends)
    return "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"
