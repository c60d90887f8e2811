"""Make the picture world's sheet of emoji from Fluent's files: `PYTHONPATH=tools python -m make_emoji FOLDER`.

FOLDER is the unpacked npm package `@lobehub/fluent-emoji-3d` (`npm pack` it, and unpack the archive). Each emoji is
shrunk to 96 pixels; all stand side by side in one lossless WebP, their names, row by row, in a text file beside it.
"""

from importlib.resources import files
from pathlib import Path

import click
from PIL import Image

from notice_lens.mini.pictures.names import EMOJI_CODES
from notice_lens.mini.pictures.sprites import SPRITE_SIZE, SPRITES_PER_ROW


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Where to; the package itself if missing."
)
def main(folder: Path, out: Path | None) -> None:
    """Make `emoji.webp` and `emoji.txt` from the emoji under FOLDER."""
    out = Path(str(files("notice_lens.mini.pictures"))) if out is None else out
    names = list(dict.fromkeys(code for codes in EMOJI_CODES.values() for code in codes))
    rows = -(-len(names) // SPRITES_PER_ROW)
    sheet = Image.new("RGBA", (SPRITES_PER_ROW * SPRITE_SIZE, rows * SPRITE_SIZE))
    for number, name in enumerate(names):
        row, column = divmod(number, SPRITES_PER_ROW)
        sheet.paste(_shrunk(folder / "assets" / f"{name}.webp"), (column * SPRITE_SIZE, row * SPRITE_SIZE))
    sheet.save(out / "emoji.webp", lossless=True, method=6)
    (out / "emoji.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    click.echo(f"{len(names)} emoji, {(out / 'emoji.webp').stat().st_size:,} bytes: {out / 'emoji.webp'}")


def _shrunk(path: Path) -> Image.Image:
    """Return an emoji of 96 pixels; colours are averaged by how opaque they are."""
    if not path.exists():
        raise click.ClickException(f"{path} is missing: is this the folder of @lobehub/fluent-emoji-3d?")
    side = (SPRITE_SIZE, SPRITE_SIZE)
    with Image.open(path) as emoji:
        return emoji.convert("RGBA").convert("RGBa").resize(side, Image.Resampling.LANCZOS).convert("RGBA")


if __name__ == "__main__":
    main()
