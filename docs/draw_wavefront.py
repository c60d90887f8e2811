"""Draws the wavefront of `docs/concepts.md`: `python docs/draw_wavefront.py`.

A staircase: the base run through all blocks, three variants that join at each block, and hatched what the usual loop
computes again for every patch.
"""

from itertools import product
from pathlib import Path

BLOCKS, VARIANTS = 4, 3
LEFT, WIDTH, TOP, ROW, BAR, STEP = 150, 110, 46, 56, 9, 12
"""In pixels: where blocks begin, how wide one is, the base run's top, from row to row, a bar, from bar to bar."""

RIGHT = LEFT + BLOCKS * WIDTH
SAYS = (
    "Columns stand for the blocks of a stack. The base run is a bar through all of them. At block 0 the variants that "
    "are patched there join below it, and run on through the others. At block 1 the variants of block 1 join below "
    "those, and so on: a staircase. Behind the last block all variants and the base run are read out together. What is "
    "left out, dashed, is what the usual loop computes again for every patch: the blocks below it, equal to the base "
    "run's."
)
HATCH = (
    '<defs><pattern id="saved" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="8" height="8" fill="#f7f7f7"/><line x1="0" y1="0" x2="0" y2="8" stroke="#d0d0d0" stroke-width="2"/>'
    "</pattern></defs>"
)
SAVED = 'fill="url(#saved)" stroke="#bbbbbb" stroke-dasharray="4 3"'
JOINS = 'r="4" fill="#ffffff" stroke="#c24a00" stroke-width="2"'


def box(x: float, y: float, width: float, height: float, look: str) -> str:
    """A rectangle, by its upper left corner."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {look}/>'


def text(x: float, y: float, words: str, look: str = "") -> str:
    """Words that begin at a point, or are centred there."""
    return f'<text x="{x:g}" y="{y:g}" fill="#333333" {look}>{words}</text>'


def line(path: str, look: str) -> str:
    """A path without a filling."""
    return f'<path d="{path}" fill="none" {look}/>'


def rows() -> list[str]:
    """The variants of each block, from where they join, and what they leave out."""
    parts = []
    for block in range(BLOCKS):
        joins, top = LEFT + block * WIDTH + 18, TOP + 48 + block * ROW
        parts.append(text(14, top + 24, f"patched in {block}"))
        if block:
            parts.append(box(LEFT + 1, top, block * WIDTH - 2, 40, SAVED))
        last = top + (VARIANTS - 1) * STEP + BAR / 2
        parts.append(line(f"M{joins - 8} {TOP + 30} V{last:g}", 'stroke="#333333" stroke-width="1.5"'))
        parts.append(line(f"M{RIGHT} {top + 16} H{RIGHT + 22}", 'stroke="#999999" stroke-width="1.5"'))
    for block, number in product(range(BLOCKS), range(VARIANTS)):
        joins, y = LEFT + block * WIDTH + 18, TOP + 48 + block * ROW + number * STEP
        parts.append(box(joins, y, RIGHT - joins, BAR, 'rx="2" fill="#2a6fb5"'))
        parts.append(line(f"M{joins - 8} {y + BAR / 2:g} H{joins}", 'stroke="#333333" stroke-width="1.5"'))
        parts.append(f'<circle cx="{joins}" cy="{y + BAR / 2:g}" {JOINS}/>')
    return parts


def wavefront() -> str:
    """The drawing as SVG, with words for those who do not see it."""
    middle, bottom = RIGHT + 80, TOP + BLOCKS * ROW + 32
    columns = [
        text(LEFT + (block + 0.5) * WIDTH, 28, f"block {block}", 'text-anchor="middle"') for block in range(BLOCKS)
    ]
    grid = [line(f"M{LEFT + block * WIDTH} 38 V{bottom + 16}", 'stroke="#e0e0e0"') for block in range(BLOCKS + 1)]
    read_out = [
        text(middle, 28, "read-out", 'text-anchor="middle"'),
        box(RIGHT + 22, TOP, 116, BLOCKS * ROW + 32, 'rx="6" fill="#f2f2f2" stroke="#999999"'),
        *(
            text(middle, 166 + 20 * n, said, 'text-anchor="middle"')
            for n, said in enumerate(("one call:", "logits of all"))
        ),
        line(f"M{RIGHT} {TOP + 15} H{RIGHT + 22}", 'stroke="#999999" stroke-width="1.5"'),
    ]
    base = [text(14, TOP + 20, "base run"), box(LEFT, TOP, RIGHT - LEFT, 30, 'rx="3" fill="#4d4d4d"')]
    legend = [
        f'<circle cx="24" cy="{bottom + 38}" {JOINS}/>',
        text(36, bottom + 43, "a variant joins: a copy of the base row with its one edit", 'font-size="13"'),
        box(420, bottom + 29, 26, 16, SAVED),
        text(454, bottom + 43, "never computed: equal to the base run", 'font-size="13"'),
    ]
    white = box(0, 0, 760, bottom + 70, 'fill="#ffffff"')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {bottom + 70}" role="img" '
        'aria-labelledby="title description" font-family="system-ui, sans-serif" font-size="14">\n'
        '<title id="title">The wavefront: one forward pass in which the batch grows</title>\n'
        f'<desc id="description">{SAYS}</desc>\n{HATCH}\n{white}'
    )
    return "\n".join([head, *columns, *grid, *base, *read_out, *rows(), *legend, "</svg>\n"])


if __name__ == "__main__":
    (Path(__file__).parent / "figures" / "wavefront.svg").write_text(wavefront(), encoding="utf-8")
