"""The command line. Heavy imports happen inside the commands, so that `--help` is quick."""

import json
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from notice_lens import __version__
from notice_lens.cli_errors import told
from notice_lens.cli_pairs import pairs

FOLDER = click.Path(file_okay=False, path_type=Path)
REPORT = "report.html"


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
opened = click.option("--open/--no-open", "opened", default=False, help="Open the report in a browser.")
quiet = click.option("--quiet", is_flag=True, help="No progress bars.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="notice-lens")
def main() -> None:
    """See how BLIP answers: minimal pairs, exact patching, universal heads and what they do."""


@main.command()
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for report and results.")
@click.option("--pairs", "n", type=click.IntRange(20), default=60, show_default=True, help="Pairs of each task.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the pairs, and of all that is drawn.")
@opened
@quiet
@as_json
@told
def demo(out: Path, n: int, seed: int, opened: bool, quiet: bool, as_json: bool) -> None:
    """Find the heads that carry the answer in the small trained BLIP that comes along.

    Three tasks, image and text corruptions, a Gaussian baseline, both controls; universal heads and what they do. A
    few minutes; one that was stopped goes on. The last lines say what was found, and where the report is.
    """
    from notice_lens import HookedBLIP
    from notice_lens.pairs import Noise, mini_world
    from notice_lens.study import Choices
    from notice_lens.world import GROUPS

    tasks = {task: mini_world(task, n, seed) for task in GROUPS}
    choices = Choices(corruptions=("image", "text", Noise(samples=1, seed=seed)), seed=seed)
    _carry_out(HookedBLIP.mini(), tasks, choices, out, opened, quiet, as_json)


@main.command()
@click.argument("model")
@click.argument("pairs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=FOLDER, required=True, help="Folder for sweeps, report and tables; an earlier run goes on.")
@click.option("--site", default="text.cross_attn", show_default=True, help="Whose heads are patched.")
@click.option(
    "--corruption", "corruptions", type=click.Choice(["image", "text", "noise"]), multiple=True,
    help="One or several; by default those that the pairs have.",
)  # fmt: skip
@click.option("--role", default="correct", show_default=True, help="At which words effects are read; 'all' for all.")
@click.option("--direction", type=click.Choice(["denoise", "noise"]), default="denoise", show_default=True)
@click.option("--at-least", type=int, help="Cells in which a universal head matters; by default all.")
@click.option(
    "--smallest-effect", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Share of the gap."
)
@click.option("--limit", type=click.IntRange(2), help="Pairs of each task, at most; the first ones.")
@click.option("--unfiltered", is_flag=True, help="Keep pairs that the model does not answer as they ask.")
@click.option(
    "--shown", type=click.IntRange(0), default=24, show_default=True, help="Pairs of each cell in the report."
)
@click.option("--device", help="cpu, cuda, ...; by default a GPU where there is one.")
@click.option("--memory", type=int, help="Bytes that variants may take.")
@click.option("--seed", type=int, default=0, show_default=True)
@opened
@quiet
@as_json
@told
def patch(model: str, pairs: Path, out: Path, opened: bool, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Patch every head of a MODEL on saved PAIRS, find the heads that matter, and write a report.

    MODEL is a folder, a hub id, or `mini`; PAIRS a folder that `notice-lens pairs` or `MinimalPairs.save` wrote, of one
    task or several. A run that was stopped goes on where it was.
    """
    from notice_lens.pairs import MinimalPairs, Noise
    from notice_lens.study import Choices

    tasks = _by_task(MinimalPairs.load(pairs), asked["limit"])
    corruptions = asked["corruptions"] or _corruptions(tasks)
    choices = Choices(
        site=asked["site"],
        corruptions=tuple(Noise(seed=asked["seed"]) if one == "noise" else one for one in corruptions),
        role=None if asked["role"] == "all" else asked["role"],
        direction=asked["direction"],
        smallest_effect=asked["smallest_effect"],
        at_least=asked["at_least"] or "all",
        filtered=not asked["unfiltered"],
        shown=asked["shown"],
        seed=asked["seed"],
    )
    blip = _model(model, asked["device"])
    _carry_out(blip, tasks, choices, out, opened, quiet, as_json, memory=asked["memory"])


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page; by default FOLDER/report.html.")
@opened
@told
def report(folder: Path, out: Path | None, opened: bool) -> None:
    """Write the page of a FOLDER that `notice-lens patch` made; neither model nor pairs are needed."""
    from notice_lens import viz
    from notice_lens.study import SAVED

    page = viz.report(folder / SAVED if (folder / SAVED).is_dir() else folder, out or folder / REPORT)
    click.echo(page)
    _show(page, opened)


@main.command()
@click.argument("model", default="mini")
@click.option("--device", help="cpu, cuda, ...; by default a GPU where there is one.")
@as_json
@told
def info(model: str, device: str | None, as_json: bool) -> None:
    """Say what a MODEL is (a folder, a hub id, or `mini`), and check it."""
    blip = _model(model, device)
    checks = blip.check()
    if not as_json:
        click.echo(f"{blip!r}\n{checks}")
        return
    stacks = {name: blip.stack(name).cfg for name in blip.cfg.stacks}
    shapes = {
        name: {"layers": cfg.n_layers, "heads": cfg.n_heads, "d_model": cfg.d_model} for name, cfg in stacks.items()
    }
    said = {
        "model": model,
        "kind": blip.cfg.kind,
        "stacks": shapes,
        "hooks": len(blip.hook_dict),
        "checks": str(checks),
    }
    click.echo(json.dumps(said, indent=2))


def _model(name: str, device: str | None) -> Any:
    """A model by folder, hub id or `mini`."""
    import torch

    from notice_lens import HookedBLIP

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mini":
        return HookedBLIP.mini(device=device)
    return HookedBLIP.from_pretrained(name, device=device)


def _by_task(pairs: Any, limit: int | None) -> dict[str, Any]:
    """Pairs by their task, the first ones of each."""
    of_task = {task: [n for n, own in enumerate(pairs["task"]) if own == task] for task in dict.fromkeys(pairs["task"])}
    return {task: pairs.select(numbers[:limit]) for task, numbers in of_task.items()}


def _corruptions(tasks: dict[str, Any]) -> list[str]:
    """The corruptions that pairs have: images always, questions where they are given."""
    texts = any(prompt is not None for pairs in tasks.values() for prompt in pairs["corrupt_prompt"])
    return ["image", "text"] if texts else ["image"]


def _carry_out(
    blip: Any, tasks: dict[str, Any], choices: Any, out: Path, opened: bool, quiet: bool, as_json: bool, **options: Any
) -> Any:
    """A study, its report, and what is printed of them."""
    from notice_lens import viz
    from notice_lens.study import run_study, summary

    def say(text: str) -> None:
        if not as_json:
            click.echo(text, err=True)

    with _seen(out):
        found = run_study(blip, tasks, out, choices, say=say, progress=not (quiet or as_json), **options)
        assert found.data is not None, "it was carried out"
        page = viz.report(found.data, out / REPORT)
    if as_json:
        click.echo(json.dumps({**summary(found), "report": str(page)}, indent=2))
    else:
        click.echo("\n".join(["", *found.findings(), "", f"report: {page}"]))
    _show(page, opened)
    return found


@contextmanager
def _seen(out: Path) -> Iterator[None]:
    """Says which folder could not be written to."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write to {out}: {error}") from error


def _show(page: Path, opened: bool) -> None:
    if opened:
        webbrowser.open(page.as_uri())


main.add_command(pairs)
