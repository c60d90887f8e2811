"""Draw a training log as a curve: `PYTHONPATH=tools python -m train_mini.curve LOG.csv OUT.svg`."""

import csv
from collections.abc import Sequence
from pathlib import Path

import click

WIDTH, HEIGHT, MARGIN = 640, 280, 56
SERIES = {
    "accuracy": ("#1f5fd0", "questions"),
    "shape_accuracy": ("#d08a1f", "shapes of patches"),
    "noun_accuracy": ("#d08a1f", "nouns of patches"),
}
"""Column of the log: its colour and what it is called. A log has some of them."""


def curve(log: Sequence[dict[str, str]]) -> str:
    """The accuracies of a log (rows by column, as `train` writes them) over its steps, as SVG."""
    last = float(log[-1]["step"])
    parts = [_axes(last)]
    there = {column: named for column, named in SERIES.items() if column in log[0]}
    for number, (column, (colour, name)) in enumerate(there.items()):
        points = [(_x(float(row["step"]), last), _y(float(row[column]))) for row in log if float(row[column]) > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        place = HEIGHT - MARGIN - 30 + 16 * number
        parts.append(f'<text x="{WIDTH - 190}" y="{place}" fill="{colour}">{name}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _axes(last: float) -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(f'<line x1="{MARGIN}" x2="{WIDTH - 10}" y1="{_y(share)}" y2="{_y(share)}" stroke="#ddd"/>')
        lines.append(f'<text x="{MARGIN - 8}" y="{_y(share) + 4}" text-anchor="end">{share:.0%}</text>')
    for step in range(0, int(last) + 1, 1000):
        place = f'x="{_x(float(step), last):.1f}" y="{HEIGHT - MARGIN + 18}"'
        lines.append(f'<text {place} text-anchor="middle">{step:,}</text>')
    lines.append(f'<text x="{(MARGIN + WIDTH - 10) / 2}" y="{HEIGHT - 14}" text-anchor="middle">step</text>')
    middle = (_y(0) + _y(1)) / 2
    lines.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">accuracy</text>')
    return "\n".join(lines)


def _x(step: float, last: float) -> float:
    return MARGIN + (WIDTH - MARGIN - 10) * step / last


def _y(share: float) -> float:
    return HEIGHT - MARGIN - (HEIGHT - MARGIN - 15) * share


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(log: Path, out: Path) -> None:
    """Draw the accuracies of a training LOG to the SVG file OUT."""
    with log.open(encoding="utf-8", newline="") as file:
        out.write_text(curve(list(csv.DictReader(file))), encoding="utf-8")
    click.echo(str(out))


if __name__ == "__main__":
    main()
