"""The command line. Heavy imports happen inside the commands, so that `--help` is quick.

What is found goes to the standard output; what is being done, progress bars and errors go to the error stream.
"""

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from notice_lens import __version__
from notice_lens.cli.errors import FAILED, echo, told
from notice_lens.cli.pairs import TASKS, pairs
from notice_lens.cli.replicate import replicate
from notice_lens.cli.study import (
    REPORT,
    Out,
    PartOf,
    as_json,
    by_task,
    carry_out,
    device,
    make_folder,
    memory,
    opened,
    quiet,
    role,
    seed,
    show,
    sweep_part,
    unfiltered,
)
from notice_lens.models.by_name import load_model


class Demo(NamedTuple):
    """A small model of the package, and what it is studied on.

    Attributes:
        model: Its name, as commands take it.
        world: The world of its pictures.
        pairs: Of each task.
        role: At which words effects are read; None takes the model's own.
    """

    model: str
    world: Literal["drawn", "pictures"]
    pairs: int
    role: str | None = None


DEMOS = {
    "blip": Demo("mini-blip", "pictures", 40, "all"),
    "llava": Demo("mini-llava", "pictures", 30),
    "drawn": Demo("mini", "drawn", 100),
}
SHOWN_FIRST = ("blip", "llava")


class Commands(click.Group):
    """Commands that print to any terminal: what its encoding cannot hold is replaced."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line."""
        for stream in (sys.stdout, sys.stderr):
            # A program may have replaced the stream.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **options)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="notice-lens")
def main() -> None:
    """See how vision-language models answer: minimal pairs, exact patching, heads that matter and what they do."""


@main.command(short_help="Study the small models included in the package.")
@click.option(
    "--model",
    "models",
    type=click.Choice(list(DEMOS)),
    multiple=True,
    default=SHOWN_FIRST,
    help="The small BLIP; the small LLaVA, a chat model; or the small BLIP of drawn shapes. One or several; by default "
    "the first two, one after the other.",
)
@click.option(
    "--out", type=Out(), default="demo", show_default=True, help="Reports and results go to OUT/blip, OUT/llava, ..."
)
@click.option(
    "--pairs", "n", type=click.IntRange(20), help="Pairs of each task; by default 40 (blip), 30 (llava) or 100 (drawn)."
)
@seed("Seed of the pairs, and of all that is drawn.")
@opened
@quiet
@as_json
@told
def demo(
    models: tuple[str, ...], out: Path, n: int | None, seed: int, opened: bool, quiet: bool, as_json: bool
) -> None:
    """Find the heads that carry the answer in the small models included in the package.

    Three tasks, image and text corruptions, a Gaussian baseline, both controls; universal heads and what they do. It
    takes a few minutes; interrupted, the same command resumes. The last lines say what was found, and where the report
    is.
    """
    from notice_lens.pairs import Noise, mini_world
    from notice_lens.study import Choices

    models = tuple(dict.fromkeys(models))
    for model in models:
        make_folder(out / model)
    found = {}
    for number, model in enumerate(models, 1):
        of = DEMOS[model]
        tasks = {task: mini_world(task, n or of.pairs, seed, world=of.world) for task in TASKS}
        choices = Choices(corruptions=("image", "text", Noise(samples=1, seed=seed)), role=of.role, seed=seed)
        name = f"{of.model} ({number} of {len(models)})" if len(models) > 1 else of.model
        done = carry_out(load_model(of.model, "cpu"), tasks, choices, out / model, opened, quiet, as_json, name=name)
        found[model] = done
    if as_json:
        echo(json.dumps(found if len(found) > 1 else next(iter(found.values())), indent=2))


@main.command(short_help="Patch every head of a model on pairs; report.")
@click.argument("model")
@click.argument("pairs", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", type=Out(), required=True, help="Folder for sweeps, report and tables; an earlier run is resumed."
)
@click.option("--site", default="", help="Whose heads are patched; by default the attention that reads the image.")
@click.option(
    "--corruption", "corruptions", type=click.Choice(["image", "text", "noise"]), multiple=True,
    help="One or several; by default those that the pairs have.",
)  # fmt: skip
@role
@click.option("--direction", type=click.Choice(["denoise", "noise"]), default="denoise", show_default=True)
@click.option(
    "--matched-alone", is_flag=True, help="Rank heads by the matched change alone, into which no donor enters."
)
@click.option(
    "--at-least", type=click.IntRange(1), help="Conditions in which a universal head matters; by default all."
)
@click.option(
    "--smallest-effect",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="The smallest effect that counts, as a share of what effects are shares of.",
)
@click.option("--limit", type=click.IntRange(2), help="Pairs of each task, at most; the first ones.")
@unfiltered
@click.option(
    "--part", type=PartOf(), help="Such as 1/8: the sweeps of this part of the pairs alone; without it all is gathered."
)
@click.option(
    "--shown", type=click.IntRange(0), default=24, show_default=True, help="Pairs of each condition in the report."
)
@device
@memory
@seed()
@opened
@quiet
@as_json
@told
def patch(model: str, pairs: Path, out: Path, opened: bool, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Patch every head of a MODEL on saved PAIRS, find the heads that matter, and write a report.

    MODEL is a folder, a hub id, `mini-blip`, `mini-llava` or `mini`; PAIRS a folder that `notice-lens pairs` or
    `MinimalPairs.save` wrote, of one task or several. Interrupted? Run the same command again and it resumes. On
    several machines, run it with --part 1/8 to 8/8 and one --out, in any order, and then once without.
    """
    from notice_lens.pairs import MinimalPairs, Noise
    from notice_lens.study import Choices

    if pairs.is_file():
        raise ValueError(
            f"{pairs} is a file; expected a folder of saved pairs, as `notice-lens pairs table {pairs} --out FOLDER` "
            "makes one"
        )
    make_folder(out, pairs, model)
    tasks = by_task(MinimalPairs.load(pairs), asked["limit"])
    corruptions = dict.fromkeys(asked["corruptions"] or _corruptions(tasks))
    choices = Choices(
        site=asked["site"],
        corruptions=tuple(Noise(seed=asked["seed"]) if one == "noise" else one for one in corruptions),
        role=asked["role"],
        direction=asked["direction"],
        smallest_effect=asked["smallest_effect"],
        at_least=asked["at_least"] or "all",
        control=False if asked["matched_alone"] else None,
        filtered=not asked["unfiltered"],
        shown=asked["shown"],
        seed=asked["seed"],
    )
    hooked = load_model(model, asked["device"])
    if asked["part"] is not None:
        sweep_part(hooked, tasks, choices, out, quiet, as_json, part=asked["part"], memory=asked["memory"])
        return
    found = carry_out(hooked, tasks, choices, out, opened, quiet, as_json, memory=asked["memory"])
    if as_json:
        echo(json.dumps(found, indent=2))


@main.command(short_help="Rebuild the report of a finished study.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=Out(file=True), help="The page; by default FOLDER/report.html.")
@opened
@told
def report(folder: Path, out: Path | None, opened: bool) -> None:
    """Rebuild the report of a FOLDER that `notice-lens patch` made; neither model nor pairs are needed."""
    from notice_lens import viz
    from notice_lens.study.runner import SAVED

    page = viz.report(folder / SAVED if (folder / SAVED).is_dir() else folder, out or folder / REPORT)
    echo(page)
    show(page, opened)


@main.command(short_help="Show a model's size and run self-tests.")
@click.argument("model", default="mini")
@device
@as_json
@told
def info(model: str, device: str | None, as_json: bool) -> None:
    """Show the size of a MODEL (a folder, a hub id, `mini-blip`, `mini-llava` or `mini`) and run self-tests.

    The exit code is 1 where a self-test fails.
    """
    hooked = load_model(model, device)
    checks = hooked.check()
    echo(_as_json(model, hooked, checks) if as_json else f"{hooked!r}\n{checks}")
    if not checks.passed:
        sys.exit(FAILED)


def _as_json(model: str, hooked: Any, checks: Any) -> str:
    stacks = {name: hooked.stack(name).cfg for name in hooked.cfg.stacks}
    shapes = {
        name: {"layers": cfg.n_layers, "heads": cfg.n_heads, "d_model": cfg.d_model} for name, cfg in stacks.items()
    }
    said = {
        "model": model,
        "kind": " and ".join(hooked.cfg.pair_kinds),
        "stacks": shapes,
        "hooks": len(hooked.hook_dict),
        "passed": checks.passed,
        "checks": str(checks),
    }
    return json.dumps(said, indent=2)


def _corruptions(tasks: dict[str, Any]) -> list[str]:
    """Return the corruptions that pairs allow: `image`, and `text` if any has a corrupted prompt."""
    texts = any(prompt is not None for pairs in tasks.values() for prompt in pairs["corrupt_prompt"])
    return ["image", "text"] if texts else ["image"]


main.add_command(pairs)
main.add_command(replicate)
