"""`notice-lens replicate`: published designs by name, conceptually, from a data folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notice_lens.cli.errors import echo, told
from notice_lens.cli.study import (
    STOPPED_MESSAGE,
    Out,
    as_json,
    device,
    make_folder,
    memory,
    opened,
    quiet,
    seed,
    show,
    unfiltered,
)
from notice_lens.models.by_name import load_model

if TYPE_CHECKING:
    from notice_lens.study.presets import Outcome, Preset

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="A published design on raw data (experimental).")
@click.argument("name", required=False)
@click.option("--data", type=FOLDER, help="The data folder, laid out as the preset expects.")
@click.option("--model", help="A hub id or folder; by default the preset's checkpoint.")
@click.option(
    "--pairs", "n", type=click.IntRange(2), help="Pairs of each data set or type; by default the preset's number."
)
@unfiltered
@device
@memory
@seed()
@click.option("--out", type=Out(), help="Folder for all of it; an earlier run is resumed.")
@opened
@quiet
@as_json
@told
def replicate(name: str | None, data: Path | None, out: Path | None, opened: bool, quiet: bool, **asked: Any) -> None:
    """Repeat a published design, conceptually, with the data that its authors used; without NAME, list the presets.

    Experimental: not yet tested on the original data sets and checkpoints. Role, metric and rules are the preset's, and
    are fixed in OUT/plan.json before anything runs. At the end: the paper's rule beside ours, the heads that it names,
    and what differs from the paper; OUT/tables has the numbers to lay beside the paper's.
    """
    from notice_lens.study.presets import PRESETS, PresetRun, preset_of
    from notice_lens.study.presets.preset import Settings, fix
    from notice_lens.study.tables import write_csv

    if name is None:
        echo("\n".join(line for preset in PRESETS.values() for line in _described(preset)))
        return
    preset, as_json, silent = preset_of(name), asked["as_json"], quiet or asked["as_json"]
    if data is None or out is None:
        raise ValueError(f"{name} needs --data and --out; --data holds {preset.layout}")
    name_of_model = asked["model"] or preset.model
    make_folder(out, data, name_of_model)
    model = load_model(name_of_model, asked["device"])
    settings = Settings(
        pairs=asked["n"] or preset.pairs, filtered=not asked["unfiltered"], seed=asked["seed"], memory=asked["memory"],
        progress=not silent,
    )  # fmt: skip
    tasks = preset.read(data, model, settings)
    plan = preset.plan(model, tasks, settings)
    path = fix(plan, out)
    if not as_json:
        echo("\n".join([f"fixed before it runs, in {path}:", *_fixed(plan), ""]))

    def say(text: str) -> None:
        if not as_json:
            echo(text, err=True)

    try:
        outcome = preset.carry_out(PresetRun(preset, model, tasks, out, settings, say))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED_MESSAGE) from None
    for table, rows in outcome.tables.items():
        write_csv(rows, out / "tables" / f"{table}.csv")
    echo(_as_json(plan, outcome) if as_json else "\n".join(_found(preset, outcome, out)))
    if outcome.page is not None:
        show(outcome.page, opened)


def _described(preset: "Preset") -> list[str]:
    """Return a preset as the list shows it."""
    return [
        f"{preset.name}: {preset.title}",
        f"  paper: {preset.paper}",
        f"  model: {preset.model}",
        f"  --data holds {preset.layout}",
    ]


def _fixed(plan: dict[str, Any]) -> list[str]:
    pairs = ", ".join(f"{task} {own['number']}" for task, own in plan["pairs"].items())
    rows = {name: plan[name] for name in ("model", "role", "metric", "rule_paper", "rule_ours")}
    return [f"  {name.replace('_', ' ')}: {value}" for name, value in {"pairs": pairs, **rows}.items()]


def _found(preset: "Preset", outcome: "Outcome", out: Path) -> list[str]:
    """Return the findings, the differences, and the paths of tables and report."""
    lines = ["", *outcome.lines, "", "what differs from the paper:", *(f"  - {one}" for one in preset.differences)]
    lines += ["", f"tables: {', '.join(f'{name}.csv' for name in outcome.tables)} in {out / 'tables'}"]
    return lines if outcome.page is None else [*lines, f"report: {outcome.page}"]


def _as_json(plan: dict[str, Any], outcome: "Outcome") -> str:
    tables = {name: json.loads(rows.to_json(orient="records") or "[]") for name, rows in outcome.tables.items()}
    page = {} if outcome.page is None else {"report": str(outcome.page)}
    return json.dumps({"plan": plan, **outcome.values, "tables": tables, **page}, indent=2)
