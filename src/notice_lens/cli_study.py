"""What commands that carry a study out share: options, the model, and what is printed."""

import json
import webbrowser
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from notice_lens.cli_errors import echo

REPORT = "report.html"
STOPPED = "stopped; what was done is kept, and the same command goes on from there"

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
opened = click.option("--open/--no-open", "opened", default=False, help="Open the report in a browser.")
quiet = click.option("--quiet", is_flag=True, help="No progress bars.")


def load_model(name: str, device: str | None) -> Any:
    """A model by folder, hub id or `mini`.

    Args:
        name: Which.
        device: Where to; None takes a GPU where there is one.

    Raises:
        ValueError: There is no such device here.
        FileNotFoundError: There is no such model.
    """
    import torch

    from notice_lens import HookedBLIP

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if name == "mini":
        return HookedBLIP.mini(device=device)
    return HookedBLIP.from_pretrained(name, device=device)


def by_task(pairs: Any, limit: int | None) -> dict[str, Any]:
    """Pairs by their task, the first ones of each.

    Args:
        pairs: Of one task or several.
        limit: Pairs of each, at most.
    """
    of_task = {task: [n for n, own in enumerate(pairs["task"]) if own == task] for task in dict.fromkeys(pairs["task"])}
    return {task: pairs.select(numbers[:limit]) for task, numbers in of_task.items()}


def carry_out(
    blip: Any, tasks: dict[str, Any], choices: Any, out: Path, opened: bool, quiet: bool, as_json: bool, **options: Any
) -> Any:
    """A study and its report; prints what was found, and returns it.

    Args:
        blip: The model.
        tasks: Pairs by task.
        choices: What was fixed before.
        out: The folder for all of it.
        opened: Whether the report is opened in a browser.
        quiet: No bars.
        as_json: Only JSON is printed.
        **options: Of sweeps.
    """
    from notice_lens.study import summary

    make_folder(out)
    try:
        found, page = studied(blip, tasks, choices, out, quiet or as_json, as_json, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED) from None
    if as_json:
        echo(json.dumps({**summary(found), "report": str(page)}, indent=2))
    else:
        echo("\n".join(["", *found.findings(), "", f"report: {page}"]))
    show(page, opened)
    return found


def studied(
    blip: Any, tasks: dict[str, Any], choices: Any, out: Path, barless: bool, silent: bool, **options: Any
) -> tuple[Any, Path]:
    """A study, and the page that was written of it.

    Args:
        blip: The model.
        tasks: Pairs by task.
        choices: What was fixed before.
        out: The folder for all of it.
        barless: No bars.
        silent: Nothing is said of what is being done.
        **options: Of sweeps.
    """
    from notice_lens import viz
    from notice_lens.study import run_study

    def say(text: str) -> None:
        if not silent:
            echo(text, err=True)

    found = run_study(blip, tasks, out, choices, say=say, progress=not barless, **options)
    assert found.data is not None, "it was carried out"
    return found, viz.report(found.data, out / REPORT).resolve()


def make_folder(out: Path) -> None:
    """Makes a folder, or says which cannot be.

    Raises:
        OSError: It cannot be made, or not be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error.strerror or error}") from error
    if (out / REPORT).is_dir():
        raise FileExistsError(f"{out / REPORT} is a folder, where the page is to be written; choose another --out")


def show(page: Path, opened: bool) -> None:
    """Opens a page in the browser, where that was asked for."""
    if opened:
        webbrowser.open(page.resolve().as_uri())
