"""`notice-lens pairs`: pairs from raw downloads, tables and the mini world, saved for `notice-lens patch`."""

import json
from pathlib import Path
from typing import Any

import click

from notice_lens.cli.errors import echo, told
from notice_lens.cli.study import Out, make_folder, seed

TASKS = ("states", "scenes", "faces")
"""The tasks of both mini worlds."""
MODEL = "Salesforce/blip-vqa-base"
SOURCE = click.Path(exists=True, path_type=Path)
out_option = click.option("--out", type=Out(), required=True, help="Folder to save to.")
n_option = click.option("-n", "n", type=click.IntRange(1), help="How many pairs; by default all.")
seed_option = seed()
model_option = click.option(
    "--model", default=MODEL, show_default=True,
    help="Hub id, folder, `mini-blip` or `mini`: replaced words have as many tokens for it as those that they replace.",
)  # fmt: skip
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace pairs that were saved there.")


def from_pictures(command: Any) -> Any:
    """Add the options of all commands that make pairs of pictures: number, seed, model and output."""
    for decorate in (told, overwrite_option, out_option, model_option, seed_option, n_option):
        command = decorate(command)
    return command


@click.group(short_help="Make minimal pairs, and look at saved ones.")
def pairs() -> None:
    """Make minimal pairs from raw downloads, tables or the mini world, and look at saved ones."""


def _reader(model: str, match: str | None = None) -> Any:
    """Return the tokenizer's source, or the whole model if pictures are to be compared."""
    from notice_lens.mini import mini_folder
    from notice_lens.models.by_name import load_model

    if match is not None:
        return load_model(model, None)
    worlds = {"mini": "drawn", "mini-blip": "pictures"}
    return str(mini_folder(worlds[model])) if model in worlds else model


def _free(out: Path, overwrite: bool) -> None:
    """Raise, before any work is done, if pairs cannot be saved to a folder."""
    from notice_lens.pairs.io.storage import refuse_taken

    refuse_taken(out, overwrite)
    make_folder(out.resolve().parent)


def _save(made: Any, out: Path, overwrite: bool) -> None:
    if not len(made):
        raise ValueError(f"0 pairs are left, so nothing is saved\n{made!r}")
    made.save(out, overwrite=overwrite)
    echo(f"{made!r}\nsaved to {out}")


@pairs.command("mini-world")
@click.option("--task", type=click.Choice(TASKS), default="states", show_default=True)
@click.option("-n", "n", type=click.IntRange(1), default=100, show_default=True, help="How many pairs.")
@click.option(
    "--world",
    type=click.Choice(["drawn", "pictures"]),
    default="drawn",
    show_default=True,
    help="Pictures, which the mini BLIP and the mini LLaVA answer, or drawn shapes.",
)
@seed_option
@out_option
@overwrite_option
@told
def mini_world(task: str, n: int, world: str, seed: int, out: Path, overwrite: bool) -> None:
    """Made pairs with exact regions, which a small model of the package answers."""
    from notice_lens.pairs import mini_world as build

    _free(out, overwrite)
    _save(build(task, n, seed, world=world), out, overwrite)


@pairs.command(short_help="Pairs from SVO-Probes.")
@click.argument("csv", type=SOURCE)
@click.argument("images", type=SOURCE)
@from_pictures
def svo(csv: Path, images: Path, n: int | None, seed: int, model: str, out: Path, overwrite: bool) -> None:
    """Pairs from SVO-Probes: its CSV, and the folder of IMAGES by id."""
    from notice_lens.pairs import svo_probes

    _free(out, overwrite)
    _free(out, overwrite)
    _save(svo_probes(csv, images, _reader(model), n=n, seed=seed), out, overwrite)


match_option = click.option("--match", type=click.Choice(["nearest"]), help="Pair pictures that look alike otherwise.")


@pairs.command("mit-states", short_help="Pairs from MIT-States.")
@click.argument("folder", type=SOURCE)
@match_option
@from_pictures
def mit_states(
    folder: Path, match: str | None, n: int | None, seed: int, model: str, out: Path, overwrite: bool
) -> None:
    """Pairs from MIT-States: folders named 'adjective noun' or 'adjective_noun'."""
    from notice_lens.pairs import mit_states as build

    _free(out, overwrite)
    _save(build(folder, _reader(model, match), n=n, seed=seed, match=match), out, overwrite)


@pairs.command(short_help="Pairs of faces by emotion.")
@click.argument("folder", type=SOURCE)
@click.option("--numbering", type=click.Choice(["raf-db", "fer2013", "affectnet"]), help="Whose numbers folders have.")
@match_option
@from_pictures
def faces(
    folder: Path,
    numbering: str | None,
    match: str | None,
    n: int | None,
    seed: int,
    model: str,
    out: Path,
    overwrite: bool,
) -> None:
    """Pairs of faces: folders named by emotion, RAF-DB's label file with its pictures, or fer2013.csv."""
    from notice_lens.pairs import facial_expressions as build

    _free(out, overwrite)
    made = build(folder, _reader(model, match), n=n, seed=seed, match=match, numbering=numbering)
    _save(made, out, overwrite)


@pairs.command(short_help="Pairs of your own, from a CSV or JSON file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", type=click.Path(exists=True, file_okay=False), help="Folder that picture paths start from.")
@click.option(
    "--columns", "renamed", metavar="OURS=THEIRS", multiple=True,
    help="The file's name of one of our columns, such as clean_image=photo; once for each.",
)  # fmt: skip
@click.option("--task", help="The task of rows that do not name one; by default the file's name.")
@click.option("--kind", type=click.Choice(["vqa", "caption", "match"]), help="The kind of rows that have none.")
@click.option("--skip", is_flag=True, help="Leave wrong rows out and count them, rather than stop.")
@click.option("--label", "labels", type=int, multiple=True, help="The object's value in masks that hold indices.")
@click.option(
    "--box-format", type=click.Choice(["xywh", "xyxy", "cxcywh", "xywhn", "xyxyn", "cxcywhn"]),
    help="The format of boxes; with an n, numbers are shares of the picture.",
)  # fmt: skip
@out_option
@overwrite_option
@told
def table(
    file: Path,
    images: str | None,
    renamed: tuple[str, ...],
    task: str | None,
    kind: Any,
    skip: bool,
    labels: tuple[int, ...],
    box_format: Any,
    out: Path,
    overwrite: bool,
) -> None:
    """Make your own pairs from a CSV or JSON FILE with the columns of docs/pairs.md.

    Cells of a CSV file stand between commas, semicolons or tabs; JSON is an object a line, or an array of objects. Rows
    without ids are numbered.
    """
    from notice_lens.pairs import MinimalPairs, PairsError
    from notice_lens.pairs.io.assembly import HINT

    is_json = file.suffix.lower() in (".json", ".jsonl", ".ndjson")
    read = MinimalPairs.from_jsonl if is_json else MinimalPairs.from_csv
    columns = dict(_ours_and_theirs(one) for one in renamed)
    _free(out, overwrite)
    settings: dict[str, Any] = {
        "columns": columns,
        "label": list(labels) or None,
        "box_format": box_format,
        "task": task,
        "kind": kind,
    }
    try:
        made = read(file, images=images, on_error="drop" if skip else "raise", **settings)
    except PairsError as error:
        raise ValueError(str(error).replace(HINT, "\n--skip leaves these rows out, and counts them")) from error
    _save(made, out, overwrite)


def _ours_and_theirs(asked: str) -> tuple[str, str]:
    """Return the two names of a column."""
    from notice_lens.pairs.io.records import PAIR_COLUMNS

    ours, equals, theirs = asked.partition("=")
    if not (ours and equals and theirs):
        raise ValueError(f"--columns {asked}: expected our name and the file's, such as clean_image=photo")
    if theirs in PAIR_COLUMNS and ours not in PAIR_COLUMNS:
        raise ValueError(f"--columns {asked}: our name comes first; did you mean {theirs}={ours}?")
    return ours, theirs


@pairs.command(short_help="Say what saved pairs are.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@told
def show(folder: Path, as_json: bool) -> None:
    """Describe saved pairs, and what was dropped when they were made."""
    from notice_lens.pairs import MinimalPairs

    found = MinimalPairs.load(folder)
    if not as_json:
        echo(repr(found))
        return
    tasks = {task: found["task"].count(task) for task in dict.fromkeys(found["task"])}
    said = {"pairs": len(found), "tasks": tasks, "fingerprint": found.fingerprint, "dropped": found.manifest.dropped}
    echo(json.dumps(said, indent=2))
