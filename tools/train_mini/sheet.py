"""Sheets of samples to look at: `PYTHONPATH=tools python -m train_mini.sheet --out docs/figures`.

One sheet for each task: for each pair its clean and its corrupted picture, the regions of the clean one in colours,
and below them the questions. `--world pictures` draws those of the picture world.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from notice_lens.mini.generate import GROUPS, rows
from notice_lens.mini.pair import Row

SIDE, GAP, LINE = 128, 6, 15
"""Pixels: a picture's side, the space around it, and the height of a line of text."""

REGION_COLOURS = {
    "subject": (230, 60, 60),
    "object": (50, 110, 230),
    "distractor": (240, 180, 40),
    "hair": (150, 90, 50),
    "face": (50, 110, 230),
    "eyes": (70, 200, 90),
    "brows": (230, 60, 60),
    "mouth": (220, 80, 200),
    "nose": (60, 200, 210),
    "cap": (230, 60, 60),
}
"""Later ones are drawn over earlier ones; the background stays grey."""


def sheet(samples: Sequence[Row], columns: int = 3) -> Image.Image:
    """The samples on one picture, `columns` in a row.

    Args:
        samples: Rows of one task, any size.
        columns: Samples beside each other.
    """
    width, height = 3 * SIDE + 4 * GAP, SIDE + 2 * GAP + 4 * LINE
    lines = -(-len(samples) // columns)
    whole = Image.new("RGB", (columns * width, lines * height), "white")
    for place, row in enumerate(samples):
        whole.paste(_sample(row, width, height), (place % columns * width, place // columns * height))
    return whole


def _sample(row: Row, width: int, height: int) -> Image.Image:
    tile = Image.new("RGB", (width, height), "white")
    for place, image in enumerate((row.clean_image, row.corrupt_image, regions_in_colour(row))):
        big = image.resize((SIDE, SIDE), Image.Resampling.NEAREST if image.width <= SIDE else Image.Resampling.LANCZOS)
        tile.paste(big, (GAP + place * (SIDE + GAP), GAP))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=12)
    lines = (
        f"{row.group}: {row.clean_prompt}  {row.correct_answer} / {row.incorrect_answer}",
        f"corrupted: {row.corrupt_prompt}  {row.corrupt_answer or '(neither)'}",
        f"donor: {row.donor_prompt}  {row.donor_answer}",
        f"control: {row.control_prompt}  {row.control_answer}" if row.control_prompt else "no control",
    )
    for number, line in enumerate(lines):
        pen.text((GAP, SIDE + 2 * GAP + number * LINE - 3), line, fill="black", font=font)
    return tile


def regions_in_colour(row: Row) -> Image.Image:
    """The regions of the clean picture, each in its colour on grey."""
    size = row.clean_image.height
    canvas = np.full((size, size, 3), 200, np.uint8)
    for region, colour in REGION_COLOURS.items():
        if region in row.clean_regions:
            canvas[row.clean_regions[region]] = colour
    return Image.fromarray(canvas)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the sheets.")
@click.option("--n", "count", default=12, show_default=True, help="Samples of each task.")
@click.option("--seed", default=0, show_default=True)
@click.option("--size", type=int, help="Pixels along a side of the pictures; the mini models' if missing.")
@click.option("--world", type=click.Choice(["drawn", "pictures"]), default="drawn", show_default=True)
def main(out: Path, count: int, seed: int, size: int | None, world: str) -> None:
    """Draw a sheet of samples for each task."""
    out.mkdir(parents=True, exist_ok=True)
    name = "mini_world" if world == "drawn" else "picture_world"
    for task in GROUPS:
        picture = sheet(list(rows(task, count, seed=seed, size=size, world=world)))
        picture.save(out / f"{name}_{task}.png", optimize=True)
        click.echo(f"{out / f'{name}_{task}.png'}")


if __name__ == "__main__":
    main()
