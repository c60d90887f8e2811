"""The command line. Heavy imports happen inside the commands, so that `--help` is quick.

What is found goes to the standard output; what is being done, progress bars and errors go to the error stream.
"""

import json
from pathlib import Path
from typing import Any

import click

from notice_lens import __version__
from notice_lens.cli_errors import echo, told
from notice_lens.cli_pairs import pairs
from notice_lens.cli_replicate import replicate
from notice_lens.cli_study import REPORT, as_json, by_task, carry_out, load_model, opened, quiet, show

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="notice-lens")
def main() -> None:
    """See how BLIP answers: minimal pairs, exact patching, universal heads and what they do."""


@main.command(short_help="Study the small trained BLIP that comes along.")
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for report and results.")
@click.option("--pairs", "n", type=click.IntRange(20), default=100, show_default=True, help="Pairs of each task.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the pairs, and of all that is drawn."
)
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
    carry_out(HookedBLIP.mini(), tasks, choices, out, opened, quiet, as_json)


@main.command(short_help="Patch every head of a model on pairs; report.")
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
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
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

    tasks = by_task(MinimalPairs.load(pairs), asked["limit"])
    corruptions = dict.fromkeys(asked["corruptions"] or _corruptions(tasks))
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
    blip = load_model(model, asked["device"])
    carry_out(blip, tasks, choices, out, opened, quiet, as_json, memory=asked["memory"])


@main.command(short_help="Write the page of a finished study anew.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page; by default FOLDER/report.html.")
@opened
@told
def report(folder: Path, out: Path | None, opened: bool) -> None:
    """Write the page of a FOLDER that `notice-lens patch` made; neither model nor pairs are needed."""
    from notice_lens import viz
    from notice_lens.study import SAVED

    page = viz.report(folder / SAVED if (folder / SAVED).is_dir() else folder, out or folder / REPORT)
    echo(page)
    show(page, opened)


@main.command(short_help="Say what a model is, and check it.")
@click.argument("model", default="mini")
@click.option("--device", help="cpu, cuda, ...; by default a GPU where there is one.")
@as_json
@told
def info(model: str, device: str | None, as_json: bool) -> None:
    """Say what a MODEL is (a folder, a hub id, or `mini`), and check it."""
    blip = load_model(model, device)
    checks = blip.check()
    if not as_json:
        echo(f"{blip!r}\n{checks}")
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
    echo(json.dumps(said, indent=2))


def _corruptions(tasks: dict[str, Any]) -> list[str]:
    """The corruptions that pairs have: images always, questions where they are given."""
    texts = any(prompt is not None for pairs in tasks.values() for prompt in pairs["corrupt_prompt"])
    return ["image", "text"] if texts else ["image"]


main.add_command(pairs)
main.add_command(replicate)
