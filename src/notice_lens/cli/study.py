"""Shared parts of the commands that run a study: options, and the printed summary."""

import json
import re
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

import click

from notice_lens.cli.errors import echo

REPORT = "report.html"
STOPPED_MESSAGE = "stopped; finished work is kept, and the same command resumes from there"

BYTES_OF_UNIT = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    f"{letter}ib": 2 ** (10 * power) for power, letter in enumerate("kmgt", 1)
}


class Out(click.Path):
    """A folder or file to write to; its name may not be empty."""

    def __init__(self, *, file: bool = False) -> None:
        super().__init__(file_okay=file, dir_okay=not file, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if not str(value).strip():
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


class ByteSize(click.ParamType):
    """A number of bytes: `4GB`, `500 MB`, `2GiB`, or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", str(value), re.IGNORECASE)
        unit = BYTES_OF_UNIT.get(match[2].lower()) or BYTES_OF_UNIT.get(f"{match[2].lower()}b") if match else None
        if match is None or unit is None or float(match[1]) * unit < 1:
            self.fail(f"{value!r} is not a number of bytes; expected one such as 4GB, 500MB or 2GiB", param, ctx)
        return int(float(match[1]) * unit)


class PartOf(click.ParamType):
    """A part of the pairs: `1/8` to `8/8`."""

    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the number of the part, from 0, and of how many it is."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(value).strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part; expected one such as 1/8, up to 8/8", param, ctx)
        return int(match[1]) - 1, int(match[2])


def seed(help: str = "Seed of all that is drawn.") -> Any:
    """Return the option `--seed`.

    Args:
        help: The text of `--help`.
    """
    return click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help=help)


memory = click.option(
    "--memory", type=ByteSize(), help="Memory budget, such as 4GB; by default a share of what is free."
)
device = click.option("--device", help="cpu, cuda, ...; by default a GPU where there is one.")
role = click.option(
    "--role",
    help="At which words effects are read, 'all' for all at once; by default 'last' of a chat model, and of BLIP "
    "'correct', or 'all' where questions do not contain their answer.",
)
unfiltered = click.option("--unfiltered", is_flag=True, help="Keep pairs that the model does not answer as expected.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
opened = click.option("--open/--no-open", "opened", default=False, help="Open the report in a browser.")
quiet = click.option("--quiet", is_flag=True, help="No progress bars.")


def by_task(pairs: Any, limit: int | None) -> dict[str, Any]:
    """Pairs by their task, the first ones of each.

    Args:
        pairs: Of one task or several.
        limit: Pairs of each, at most.
    """
    of_task = {task: [n for n, own in enumerate(pairs["task"]) if own == task] for task in dict.fromkeys(pairs["task"])}
    return {task: pairs.select(numbers[:limit]) for task, numbers in of_task.items()}


def carry_out(
    model: Any, tasks: dict[str, Any], choices: Any, out: Path, opened: bool, quiet: bool, silent: bool, **options: Any
) -> dict[str, Any]:
    """Carry a study out, write its report, print what was found, and return that as plain values.

    Args:
        model: The model.
        tasks: Pairs by task.
        choices: The choices of the study.
        out: The folder for all of it.
        opened: Whether the report is opened in a browser.
        quiet: No bars.
        silent: Nothing is printed.
        **options: Of `run_study`: a `name` for its progress, and options of sweeps.
    """
    from notice_lens.study import summary

    try:
        found, page = studied(model, tasks, choices, out, quiet or silent, silent, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED_MESSAGE) from None
    if not silent:
        heading = [f"{options['name']}:"] if options.get("name") else []
        echo("\n".join(["", *heading, *found.findings(), "", f"report: {page}"]))
    show(page, opened)
    return {**summary(found), "report": str(page)}


def sweep_part(
    model: Any, tasks: dict[str, Any], choices: Any, out: Path, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Do the sweeps of one part of a study's pairs, and print what is left to do.

    Args:
        model: The model.
        tasks: Pairs by task.
        choices: The choices of the study.
        out: The folder for all of it, the same for all parts.
        quiet: No bars.
        as_json: Only JSON is printed.
        **options: The `part`, and options of sweeps.
    """
    from notice_lens.study import run_study

    k, n = options["part"]
    try:
        run_study(model, tasks, out, choices, progress=not (quiet or as_json), **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED_MESSAGE) from None
    echo(
        json.dumps({"part": k + 1, "of": n})
        if as_json
        else f"part {k + 1} of {n} is done; when all {n} are, the same command without --part gathers them"
    )


def studied(
    model: Any, tasks: dict[str, Any], choices: Any, out: Path, barless: bool, silent: bool, **options: Any
) -> tuple[Any, Path]:
    """A study, and the page that was written of it.

    Args:
        model: The model.
        tasks: Pairs by task.
        choices: The choices of the study.
        out: The folder for all of it.
        barless: No bars.
        silent: Whether to print no progress.
        **options: Of sweeps.
    """
    from notice_lens import viz
    from notice_lens.study import run_study

    def say(text: str) -> None:
        if not silent:
            echo(text, err=True)

    found = run_study(model, tasks, out, choices, say=say, progress=not barless, **options)
    assert found.data is not None, "it was carried out"
    return found, viz.report(found.data, out / REPORT).resolve()


def make_folder(out: Path, *sources: Path | str) -> None:
    """Make the folder for results, before any work is done.

    Args:
        out: The folder.
        sources: What results are made from; the folder may not be one of these, or lie in one.

    Raises:
        ValueError: It is, or lies in, a folder that is read.
        OSError: It cannot be made, or not be written to.
    """
    for source in map(Path, sources):
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"--out {out} lies in {source}, which is read; choose a folder outside of it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error.strerror or error}") from error
    if (out / REPORT).is_dir():
        raise FileExistsError(f"{out / REPORT} is a folder, but the page has to be written there; choose another --out")


def show(page: Path, opened: bool) -> None:
    """Open a page in the browser, if requested."""
    if opened:
        webbrowser.open(page.resolve().as_uri())
