"""`notice-lens replicate`: the method's BLIP experiment, conceptually, with the raw data sets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notice_lens.cli.errors import echo, told
from notice_lens.cli.pairs import MODEL
from notice_lens.cli.study import (
    STOPPED_MESSAGE,
    Out,
    as_json,
    device,
    load_model,
    make_folder,
    memory,
    opened,
    quiet,
    role,
    seed,
    show,
    studied,
    unfiltered,
)

if TYPE_CHECKING:
    import pandas as pd

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="The paper's experiment on raw data (experimental).")
@click.option("--images", type=FOLDER, help="Holds what is not named below: svo_probes.csv, images, mit-states, faces.")
@click.option("--svo-csv", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="SVO-Probes: its CSV.")
@click.option("--svo-images", type=FOLDER, help="SVO-Probes: the folder of its pictures by id.")
@click.option("--mit-states", type=FOLDER, help="MIT-States: folders named 'adjective noun'.")
@click.option("--faces", type=FOLDER, help="Facial expressions: folders named by emotion.")
@click.option("--model", default=MODEL, show_default=True, help="A hub id or folder.")
@click.option("--pairs", "n", type=click.IntRange(2), default=500, show_default=True, help="Pairs of each data set.")
@role
@unfiltered
@device
@memory
@seed()
@click.option("--out", type=Out(), required=True, help="Folder for all of it.")
@opened
@quiet
@as_json
@told
def replicate(out: Path, model: str, n: int, opened: bool, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Repeat the method's experiment on BLIP, conceptually, with the raw data sets; at least one of them.

    Experimental: not yet tested on the original data sets. Role, metric and rules are fixed in OUT/plan.json before
    anything runs. At the end: both rules side by side, the heads L5.H3, L3.H0 and L0.H11 that the paper calls
    universal, the paper's own numbers of heads and modules, Gaussian noise included, and what differs from the paper.
    """
    from dataclasses import asdict

    from notice_lens.pairs import Noise
    from notice_lens.pairs.corruption import CORRUPTIONS
    from notice_lens.study import Choices
    from notice_lens.study.replication import fix, module_numbers, paper_heads, paper_numbers, plan
    from notice_lens.study.tables import write_csv

    raw = _raw(asked)
    make_folder(out, *(path for path in asdict(raw).values() if path is not None), model)
    blip = load_model(model, asked["device"])
    tasks = raw.pairs(blip, n, asked["seed"], progress=not (quiet or as_json))
    corruptions = (*CORRUPTIONS, Noise(samples=1, seed=asked["seed"]))
    choices = Choices(
        role=asked["role"], corruptions=corruptions, filtered=not asked["unfiltered"], seed=asked["seed"]
    ).resolved(tasks, blip)
    made = plan(blip, tasks, choices)
    path = fix(made, out)
    if not as_json:
        echo("\n".join([f"fixed before it runs, in {path}:", *_said_before(made), ""]))
    try:
        found, page = studied(blip, tasks, choices, out, quiet or as_json, as_json, memory=asked["memory"])
        modules = module_numbers(blip, found, out / "modules", memory=asked["memory"], progress=not (quiet or as_json))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED_MESSAGE) from None
    table, numbers = paper_heads(found.important), paper_numbers(found)
    for name, own in (("paper_heads", table), ("paper_rule", numbers), ("modules", modules)):
        write_csv(own, out / "tables" / f"{name}.csv")
    lines = _paper_lines(numbers, modules)
    echo(_as_json(found, table, made, page) if as_json else "\n".join(_said_after(found, table, made, page, lines)))
    show(page, opened)


def _raw(asked: dict[str, Any]) -> Any:
    """Return the folders of the data sets: those in `--images`, and those given by an option."""
    from dataclasses import asdict

    from notice_lens.study.replication import RawData

    own = {name: asked[name] for name in ("svo_csv", "svo_images", "mit_states", "faces") if asked[name] is not None}
    inside = {} if asked["images"] is None else asdict(RawData.inside(asked["images"]))
    return RawData(**{**inside, **own})


def _said_before(made: dict[str, Any]) -> list[str]:
    pairs = ", ".join(f"{task} {own['number']}" for task, own in made["pairs"].items())
    rows = {name: made[name] for name in ("model", "role", "metric", "rule_two_sigma", "rule_significant")}
    return [f"  {name.replace('_', ' ')}: {value}" for name, value in {"pairs": pairs, **rows}.items()]


def _said_after(
    found: Any, table: "pd.DataFrame", made: dict[str, Any], page: Path, paper_lines: list[str]
) -> list[str]:
    """Return the findings: the rules side by side, the paper's heads, the differences, and the report's path."""
    from notice_lens.study import summary

    lines = ["", *found.findings(), "", "both rules, by condition:"]
    for name, own in summary(found)["conditions"].items():
        lines.append(f"  {name} ({own['pairs']} pairs, {own['clusters']} clusters)")
        passed = {rule: "not tested" if own[key] is None else ", ".join(own[key]) for key, rule in _RULE_NAMES.items()}
        lines += [f"    {rule}: {heads or 'none'}" for rule, heads in passed.items()]
    lines += ["", "the heads that the paper calls universal:"]
    lines += [f"  {_looked_up(row)}" for row in table.to_dict("records")]
    lines += paper_lines
    lines += ["", "what differs from the paper:", *(f"  - {one}" for one in made["differences_from_the_paper"])]
    return [*lines, "", f"report: {page}"]


def _paper_lines(numbers: "pd.DataFrame", modules: "pd.DataFrame") -> list[str]:
    """The paper's own numbers, by condition and for noise."""
    lines = ["", "the paper's own rule, mean |change of the answer's probability| (tables/paper_rule.csv):"]
    picked = numbers.loc[numbers["selected"]].to_dict("records")
    for name in numbers["condition"].unique():
        rows = sorted((row for row in picked if row["condition"] == name), key=lambda row: row["rank"])
        heads = [f"L{row['layer']}.H{row['head']} {_with_interval(row)}" for row in rows]
        lines.append(f"  {name}: {', '.join(heads) or 'none'}")
    lines += ["", "the same of modules, the layer that moves it most (tables/modules.csv):"]
    largest = modules.loc[modules.groupby(["condition", "site"], sort=False)["magnitude"].idxmax()].to_dict("records")
    for name in modules["condition"].unique():
        rows = [row for row in largest if row["condition"] == name]
        sites = [f"{row['site'].partition('.hook_')[2]} L{row['layer']} {_with_interval(row)}" for row in rows]
        lines.append(f"  {name}: {', '.join(sites)}")
    return lines


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['magnitude']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


_RULE_NAMES = {"two_sigma": "two-sigma", "significant": "significant"}


def _looked_up(row: dict[str, Any]) -> str:
    """One of the paper's heads in one condition."""
    from notice_lens.viz.words import percent, small

    where = f"{row['head']} in {row['condition']}"
    if not row["there"]:
        return f"{where}: this model has no such head"
    interval = f"[{percent(row['low'])}, {percent(row['high'])}]"
    passed = [rule for key, rule in _RULE_NAMES.items() if row[key]]
    return (
        f"{where}: rank {row['rank']} of {row['heads']}, {percent(row['effect'])} {interval} of {row['share_of']}, "
        f"q {small(row['q'])}; rules passed: {', '.join(passed) or 'neither'}"
    )


def _as_json(found: Any, table: "pd.DataFrame", made: dict[str, Any], page: Path) -> str:
    from notice_lens.study import summary

    rows = json.loads(table.to_json(orient="records") or "[]")
    return json.dumps({"plan": made, **summary(found), "paper_heads": rows, "report": str(page)}, indent=2)
