"""Write drawn pairs to disk: `python -m notice_lens.mini.write --task states --split test --n 1000 --out DIR`.

The result is a `datasets.Dataset`, to be read by `datasets.load_from_disk(DIR)`. Masks are COCO run lengths.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from notice_lens.coco import run_lengths
from notice_lens.mini.drawing import UNITS
from notice_lens.mini.generate import GROUPS, rows
from notice_lens.mini.pair import Row, Split, Task

if TYPE_CHECKING:
    from datasets import Dataset

ROLES = ("subject", "verb", "object", "noun", "correct", "incorrect")
REGION_COLUMNS = ("clean_regions", "corrupt_regions")


def to_record(row: Row) -> dict[str, Any]:
    """Return a row as plain values: roles as [first, end] or None, masks as run lengths."""
    record = row.columns()
    record["roles"] = {role: list(row.roles[role]) if role in row.roles else None for role in ROLES}
    for column in REGION_COLUMNS:
        record[column] = {region: run_lengths(mask) for region, mask in record[column].items()}
    return record


def to_dataset(task: Task, count: int, *, seed: int = 0, split: Split = "test", size: int = UNITS) -> "Dataset":
    """Return the first `count` pairs of a seed as a `datasets.Dataset`; arguments as of `notice_lens.mini.rows`."""
    from datasets import Dataset

    return cast(
        "Dataset", Dataset.from_list([to_record(row) for row in rows(task, count, seed=seed, split=split, size=size)])
    )


@click.command()
@click.option("--task", type=click.Choice(list(GROUPS)), required=True)
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--n", "count", type=click.IntRange(min=1), default=1000, show_default=True, help="Pairs.")
@click.option("--seed", default=0, show_default=True)
@click.option("--size", type=click.IntRange(min=16), default=UNITS, show_default=True, help="Pixels along a side.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
def main(task: Task, split: Split, count: int, seed: int, size: int, out: Path) -> None:
    """Write pairs of the mini world as a `datasets.Dataset`."""
    to_dataset(task, count, seed=seed, split=split, size=size).save_to_disk(out)
    click.echo(f"{count} pairs of {task} ({split}, seed {seed}) written to {out}")


if __name__ == "__main__":
    main()
