"""Pairs as a notebook shows them where they are the last value of a cell: a short table with small pictures."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from notice_lens.report.image_bytes import address, thumbnail

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pair import MinimalPair

THUMBNAIL = 96
"""Pixels along the longest side of a picture."""
TABLE_HEADINGS = ("pair", "clean", "corrupted", "question")


def table_of_pairs(heading: str, pairs: Iterable["MinimalPair"], more: int = 0) -> str:
    """Return a table of pairs in HTML: pictures above their answers, the question and, below it, the replaced one.

    Args:
        heading: Text above it; lines are kept.
        pairs: The pairs that are shown.
        more: How many there are beside them.
    """
    head = "".join(f"<th>{name}</th>" for name in TABLE_HEADINGS)
    rows = "".join(_row(pair) for pair in pairs)
    rest = (
        f"<p>… and {more} more; <code>viz.pairs</code> draws them larger, with roles and regions.</p>" if more else ""
    )
    return f"<pre>{escape(heading)}</pre><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"


def _row(pair: "MinimalPair") -> str:
    pictures = zip((pair.clean_image, pair.corrupt_image), (pair.correct_answer, pair.incorrect_answer), strict=True)
    cells = [f"<td>{escape(pair.id)}<br>{escape(pair.task)}, {escape(pair.group)}</td>"]
    cells += [
        f'<td><img src="{address(*thumbnail(image, THUMBNAIL))}" alt="" style="max-width:{THUMBNAIL}px"><br>'
        f"<b>{escape(answer)}</b></td>"
        for image, answer in pictures
    ]
    replaced = f"<br><i>{escape(pair.corrupt_prompt)}</i>" if pair.corrupt_prompt else ""
    return f"<tr>{''.join(cells)}<td style='text-align:left'>{escape(pair.clean_prompt)}{replaced}</td></tr>"
