"""The command line: `notice-lens demo`. Heavy imports happen inside the commands, so that `--help` is quick."""

import sys
from pathlib import Path

import click

from notice_lens import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="notice-lens")
def main() -> None:
    """See how BLIP answers: hooks, caches and exact patching."""


@main.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for report.html and its data; made where it is missing.",
)
def demo(out: Path) -> None:
    """Look inside a tiny BLIP with random weights, and write a report.

    Makes a checkpoint, loads it, checks it, lists its hook points and a cache, and patches every cross-attention head
    of one pair of images with TransformerLens's own utility. The last line printed is the path of the report.
    """
    from notice_lens.demo import run_demo

    try:
        report = run_demo(out, say=lambda text: click.echo(text, err=True))
    except OSError as error:
        click.echo(f"notice-lens demo: cannot write to {out}: {error}", err=True)
        sys.exit(1)
    click.echo(report)
