"""Minimal pairs to look at: their pictures, their questions with the telling words marked, and their answers.

A pair is one row: what it is, the questions one below the other so that the replaced words stand out, and the pictures
beside each other, each below its answer. Regions are drawn in their picture's pixels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from notice_lens.errors import one_of
from notice_lens.models.layout import resample
from notice_lens.report.image_bytes import CRISP, data_uri, shrunk
from notice_lens.viz.canvas import FONT, PICTURE_GAP, SPACING, TITLE, Box, Canvas, axes
from notice_lens.viz.marked_text import Piece, cut, ems, escape, lines, replaced
from notice_lens.viz.outlines import outline

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from notice_lens.pairs.minimal_pair import MinimalPair
    from notice_lens.pairs.minimal_pairs import MinimalPairs

TALLEST, LABEL = 300.0, 78.0
"""Pixels: a picture's height at most, and the width of the column of labels."""

CORRECT_COLOUR, INCORRECT_COLOUR, REPLACED_COLOUR, MUTED_COLOUR = "#00795c", "#c2410c", "#7e22ce", "#667085"
ROLE_COLOURS = (
    "#1d4ed8",
    "#be185d",
    "#a16207",
    "#4d7c0f",
    "#0e7490",
    "#7c2d12",
    "#a21caf",
    "#475569",
    "#1e3a8a",
    "#3f6212",
)
"""Dark enough to be read on white; again from the first where there are more names."""


class _View(NamedTuple):
    """A picture of a pair: which, the picture, its answer, the answer's colour, and regions as they are stored."""

    which: str
    image: Image.Image
    answer: str | None
    colour: str
    regions: dict[str, Any]


def pairs(
    pairs: "MinimalPairs", n: int = 6, *, regions: bool = False, donors: Literal["auto"] | bool = "auto"
) -> "Figure":
    """A figure of the first pairs, one a row, to look at; it is returned, not shown.

    Each row has the pair's task, group, kind and id; its questions, with the words of the roles and the replaced words
    marked; and its pictures below their answers. A hover tells a picture's size in pixels.

    Args:
        pairs: Any MinimalPairs; `pairs[10:]` for later ones.
        n: How many pairs at most, 1 or more.
        regions: Whether to tint the pictures' regions; a click in the legend hides one everywhere.
        donors: Whether donors have a column; `auto` where one of these pairs has a donor.

    Returns:
        A figure of fixed size, in pixels. Pictures are in it, those of more than 320 pixels along a side shrunk.

    Raises:
        TypeError: `pairs` is not a MinimalPairs.
        ValueError: There are no pairs, `n` is below 1, `donors` is not one of these, or no pair shown has `regions`.
    """
    shown = _chosen(pairs, n, regions, donors)
    if donors == "auto":
        donors = any(pair.record["donor_image"] is not None for pair in shown)
    colours = _colours(shown, regions)
    canvas = Canvas(columns=3 if donors else 2)
    source = f"{pairs.manifest.builder}: {pairs.manifest.source}"
    count = f"{len(shown)} of {len(pairs)}" if len(shown) < len(pairs) else str(len(shown))
    title = lines([Piece(f"{count} {'pair' if len(pairs) == 1 else 'pairs'} ({source})")], canvas.width / TITLE)
    canvas.y += SPACING * TITLE * len(title) + 8
    _draw_key(canvas, shown, colours)
    legend = _place_legend(canvas, colours, shown) if regions else None
    for number, pair in enumerate(shown):
        _draw_pair(canvas, number, pair, colours, regions=regions, donors=bool(donors))
    return canvas.figure("<br>".join(title), legend)


def _chosen(pairs: "MinimalPairs", n: int, regions: bool, donors: Any) -> list["MinimalPair"]:
    """The pairs to show; errors as of `pairs`."""
    from notice_lens.pairs.minimal_pairs import MinimalPairs

    if not isinstance(pairs, MinimalPairs):
        one = ": pairs[:1] is a MinimalPairs of one" if type(pairs).__name__ == "MinimalPair" else ""
        raise TypeError(f"viz.pairs takes MinimalPairs; got {type(pairs).__name__}{one}")
    if n < 1:
        raise ValueError(f"n={n}: expected a number of pairs, 1 or more")
    if donors not in (True, False, "auto"):
        raise ValueError(one_of("choice of donors", str(donors), ["auto", "True", "False"]))
    if len(pairs) == 0:
        lost = len(pairs.dropped)
        hint = f"; `dropped` has the {lost} that were dropped, and why" if lost else ""
        raise ValueError(f"no pairs to show: this MinimalPairs is empty{hint}")
    shown = [pairs[number] for number in range(min(n, len(pairs)))]
    if regions and not any(pair.record["clean_regions"] or pair.record["corrupt_regions"] for pair in shown):
        raise ValueError(f"regions=True, but none of the {len(shown)} pairs shown has clean_regions or corrupt_regions")
    return shown


def _colours(shown: Sequence["MinimalPair"], regions: bool) -> dict[str, str]:
    """A colour by role and region; the same name has the same colour as both."""
    names = dict.fromkeys(role for pair in shown for role in pair.roles)
    names |= dict.fromkeys(_region_names(shown) if regions else ())
    fixed = {"correct": CORRECT_COLOUR, "incorrect": INCORRECT_COLOUR, "background": MUTED_COLOUR}
    others = [name for name in names if name not in fixed]
    chosen = fixed | {name: ROLE_COLOURS[number % len(ROLE_COLOURS)] for number, name in enumerate(others)}
    return {name: chosen[name] for name in names}


def _region_names(shown: Sequence["MinimalPair"]) -> list[str]:
    columns = ("clean_regions", "corrupt_regions")
    return list(dict.fromkeys(item["region"] for pair in shown for column in columns for item in pair.record[column]))


# What stands where


def _draw_key(canvas: Canvas, shown: Sequence["MinimalPair"], colours: dict[str, str]) -> None:
    """Return the legend of the colours of words."""
    roles = dict.fromkeys(role for pair in shown for role in pair.roles)
    key = [Piece(role, colours[role], bold=True) for role in roles]
    if any(pair.corrupt_prompt for pair in shown):
        key.append(Piece("replaced", REPLACED_COLOUR, bold=True))
    if key:
        spaced = [part for piece in key for part in (piece, Piece(" · ", MUTED_COLOUR))][:-1]
        canvas.y += canvas.text(0.0, canvas.width, [Piece("words: ", MUTED_COLOUR), *spaced]) + 6


def _place_legend(canvas: Canvas, colours: dict[str, str], shown: Sequence["MinimalPair"]) -> dict[str, Any]:
    """The legend of regions, as wide as its longest name needs."""
    names = _region_names(shown)
    canvas.traces += [_legend_entry(name, colours[name]) for name in names]
    entry = max(map(ems, names)) * FONT
    rows = -(-len(names) // max(1, int(canvas.width // (entry + 47))))
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "yanchor": "top", "y": canvas.y, "entrywidth": entry}
    canvas.y += 20 * rows + 10
    return legend | {"tracegroupgap": 0, "bgcolor": "rgba(0,0,0,0)"}


def _legend_entry(name: str, colour: str) -> Any:
    from plotly.graph_objects import Scatter

    marker = {"symbol": "square", "size": 11, "color": _translucent(colour), "line": {"color": colour, "width": 2}}
    return Scatter(x=[None], y=[None], mode="markers", marker=marker, name=escape(name), legendgroup=name)


def _draw_pair(
    canvas: Canvas, number: int, pair: "MinimalPair", colours: dict[str, str], *, regions: bool, donors: bool
) -> None:
    canvas.rules.append(canvas.y)
    canvas.y += 10
    what = pair.task if pair.group == pair.task else f"{pair.task} · {pair.group}"
    header = [Piece(what, bold=True), Piece(f" — pair {number} · {pair.kind} · {pair.id}", MUTED_COLOUR)]
    canvas.y += canvas.text(0.0, canvas.width, header) + 2
    for label, pieces in _questions(pair, colours, donors).items():
        canvas.text(0.0, LABEL, [Piece(label, MUTED_COLOUR)])
        canvas.y += canvas.text(LABEL, canvas.width - LABEL, pieces)
    canvas.y += 6
    views = _views(pair, regions=regions, donors=donors)
    places = [place * (canvas.cell + PICTURE_GAP) for place in range(len(views))]
    captions = [_caption(view) for view in views]
    canvas.y += max(canvas.text(x, canvas.cell, caption) for x, caption in zip(places, captions, strict=True)) + 4
    canvas.y += max(_draw_view(canvas, x, view, colours, pair.id) for x, view in zip(places, views, strict=True)) + 16


def _caption(view: _View) -> list[Piece]:
    if view.answer is None:
        return [Piece(view.which, MUTED_COLOUR)]
    return [Piece(f"{view.which}: ", MUTED_COLOUR), Piece(view.answer, view.colour, bold=True)]


def _questions(pair: "MinimalPair", colours: dict[str, str], donors: bool) -> dict[str, list[Piece]]:
    """Return the questions to show, by label."""
    roles = {span: colours[role] for role, span in pair.roles.items()}
    questions = {"clean": cut(pair.clean_prompt, roles) if pair.clean_prompt else [Piece("no prompt", MUTED_COLOUR)]}
    others = {"corrupted": pair.corrupt_prompt, "donor": pair.donor_prompt if donors else None}
    for label, text in others.items():
        if text is not None:
            questions[label] = cut(text, dict.fromkeys(replaced(pair.clean_prompt, text), REPLACED_COLOUR))
    if pair.corrupt_answer is not None and "corrupted" in questions:
        answer = Piece(pair.corrupt_answer, bold=True)
        questions["corrupted"] += [Piece(" → ", MUTED_COLOUR), answer, Piece(" (clean image)", MUTED_COLOUR)]
    return questions


def _views(pair: "MinimalPair", *, regions: bool, donors: bool) -> list[_View]:
    """The existing pictures; a missing donor comes last, so that its cell stays empty."""
    clean, corrupt = (pair.clean_regions, pair.corrupt_regions) if regions else ({}, {})
    views = [
        _View("clean", pair.clean_image, pair.correct_answer, CORRECT_COLOUR, clean),
        _View("corrupted", pair.corrupt_image, pair.incorrect_answer, INCORRECT_COLOUR, corrupt),
    ]
    if donors and pair.donor_image is not None:
        answer = pair.record.get("donor_answer")  # a column of the caller's own, which may hold anything
        views.append(_View("donor", pair.donor_image, answer if isinstance(answer, str) else None, "", {}))
    return views


def _draw_view(canvas: Canvas, x: float, view: _View, colours: dict[str, str], name: str) -> float:
    """Draw a picture from `y` on, and return its height."""
    image = view.image
    scale = min(canvas.cell / image.width, TALLEST / image.height)
    width, height = image.width * scale, image.height * scale
    small = shrunk(image)
    canvas.boxes.append(Box(x, canvas.y, width, height, small.size))
    on = axes(len(canvas.boxes))
    canvas.traces.append(_picture(small, view, name).update(on))
    # The largest first, so that what lies inside another region is not hidden by it.
    for region, mask in sorted(view.regions.items(), key=lambda item: -item[1].sum()):
        if mask.any():
            canvas.traces.append(_region(region, mask, small, colours[region]).update(on))
    return height


# The drawing


def _picture(small: Image.Image, view: _View, name: str) -> Any:
    from plotly.graph_objects import Image as Picture

    size = f"{view.image.width} x {view.image.height} pixels"
    if small.size != view.image.size:
        size += f", shown with {small.width} x {small.height}"
    told = [f"<b>{view.which} image</b>", size]
    if view.answer is not None:
        told += lines([Piece("answer: "), Piece(view.answer, bold=True)], 40.0)
    crisp = max(small.size) <= CRISP
    return Picture(
        source=data_uri(small) if crisp else data_uri(small, "jpeg", quality=80),
        zsmooth=False if crisp else "fast",
        name=escape(f"{name}, {view.which} image"),
        hovertemplate="<br>".join(told) + "<extra></extra>",
    )


def _region(name: str, mask: Any, small: Image.Image, colour: str) -> Any:
    from plotly.graph_objects import Scatter

    if mask.shape != (small.height, small.width):
        mask = resample(mask, (small.height, small.width))
    x, y = outline(mask)
    return Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 2},
        fill="toself",
        fillcolor=_translucent(colour),
        name=escape(name),
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )


def _translucent(colour: str) -> str:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgba({red},{green},{blue},0.18)"
