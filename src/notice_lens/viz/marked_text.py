"""Text for Plotly figures: escaped, wrapped to a width, with some of its words marked.

Plotly reads a little HTML in its texts and never wraps them, so lines are broken here by an estimate of their width.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from typing import NamedTuple

from notice_lens.models.layout import Span

_NARROW, _WIDE = set("iljtfrI.,;:!'|()[] "), set("mwMW@%&")


class Piece(NamedTuple):
    """Text of one look.

    Attributes:
        text: As it is to be read; whitespace becomes one space.
        colour: Of CSS; empty for the figure's own.
        bold: Whether it stands out.
    """

    text: str
    colour: str = ""
    bold: bool = False


def escape(text: str) -> str:
    """The text, escaped so that Plotly shows it verbatim.

    Between two dollars it would look for a formula where a page has MathJax, and after `%` for a variable in a hover.
    """
    return html.escape(text, quote=False).replace("$", "&#36;").replace("%", "&#37;")


def cut(text: str, colours: Mapping[Span, str]) -> list[Piece]:
    """The text in pieces; those at the spans are bold and in their colours. Spans do not overlap."""
    edges = sorted({0, len(text), *(edge for span in colours for edge in span)})
    return [
        Piece(text[start:end], colours.get((start, end), ""), (start, end) in colours) for start, end in pairwise(edges)
    ]


def replaced(clean: str, corrupt: str) -> list[Span]:
    """Return the spans of the words of `corrupt` that differ from those of `clean`.

    With as many words they are compared slot by slot, as the models' tokens are; else by the shortest edit.
    """
    ours, theirs = (list(re.finditer(r"\w+|[^\w\s]", text)) for text in (corrupt, clean))
    words, others = ([match[0].casefold() for match in matches] for matches in (ours, theirs))
    if len(words) == len(others):
        return [match.span() for match, word, other in zip(ours, words, others, strict=True) if word != other]
    steps = SequenceMatcher(None, others, words, autojunk=False).get_opcodes()
    return [match.span() for step, *_, first, end in steps if step != "equal" for match in ours[first:end]]


def ems(text: str) -> float:
    """An upper estimate of a text's width, in units of its font's size; sans serif, some of it bold."""
    return sum(map(_em, text))


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.1
    if character in _NARROW:
        return 0.43
    return 1.0 if character in _WIDE else 0.78 if character.isupper() else 0.66


def lines(pieces: Iterable[Piece], width: float) -> list[str]:
    """Plotly's markup of the pieces, line by line; one empty line for no text.

    Args:
        pieces: The text, one piece after the other.
        width: Of a line, in units of the font's size; longer words are broken.
    """
    broken: list[list[Piece]] = [[]]
    room = width
    for word in _words(pieces):
        for part in _parts(word, width):
            needed = ems("".join(piece.text for piece in part))
            if broken[-1] and needed + ems(" ") > room:
                broken.append([])
                room = width
            if broken[-1]:
                last, first = broken[-1][-1], part[0]
                # A space between two words of one look belongs to both: "left of" is marked as one.
                broken[-1].append(first._replace(text=" ") if last[1:] == first[1:] else Piece(" "))
                room -= ems(" ")
            broken[-1] += part
            room -= needed
    return [_markup(line) for line in broken]


def _words(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Return the words between whitespace, each as a list of characters."""
    characters = [piece._replace(text=character) for piece in pieces for character in piece.text]
    return [list(word) for blank, word in groupby(characters, lambda each: each.text.isspace()) if not blank]


def _parts(word: Sequence[Piece], width: float) -> list[list[Piece]]:
    """The characters of a word, in parts that fit a line each."""
    parts: list[list[Piece]] = [[]]
    room = width
    for character in word:
        needed = ems(character.text)
        if parts[-1] and needed > room:
            parts.append([])
            room = width
        parts[-1].append(character)
        room -= needed
    return parts


def _markup(line: Iterable[Piece]) -> str:
    looks = groupby(line, lambda piece: piece[1:])
    return "".join(_tagged(Piece("".join(piece.text for piece in run), *look)) for look, run in looks)


def _tagged(piece: Piece) -> str:
    text = escape(piece.text)
    text = f"<b>{text}</b>" if piece.bold else text
    return f'<span style="color:{piece.colour}">{text}</span>' if piece.colour else text
