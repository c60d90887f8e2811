"""NOTICE on BLIP and on LLaVA (arXiv 2406.16320): heads that carry an answer on three data sets, and universal ones.

1. Pairs are made from the raw downloads, by the rules of `notice_lens.pairs`.
2. A study runs over all data sets, with pictures and with words replaced, and Gaussian noise beside them.
3. Both rules are reported, and the heads that the paper calls universal are looked up: rank, effect, interval and q.
4. The paper's own numbers stand beside ours: heads by the mean absolute change of the answer's probability and its
   two-sigma rule, effects of attention, cross-attention and MLP by layer, for semantic pairs and Gaussian noise.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from notice_lens.study.choices import METRIC, Choices
from notice_lens.study.presets.preset import LayerHead, Outcome, Preset, PresetRun, Settings, head_name

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.options import Direction
    from notice_lens.study.findings import Study

PAPER = "https://arxiv.org/abs/2406.16320"
BLIP_HEADS: tuple[LayerHead, ...] = ((5, 3), (3, 0), (0, 11))
"""Layer and head of those that the paper calls universal, in the question encoder's cross-attention."""
LLAVA_HEADS: tuple[LayerHead, ...] = ((28, 2), (31, 27), (18, 10), (16, 24), (21, 30), (19, 15), (18, 30))
"""Those of LLaVA-1.5-7B, at the last token of "ASSISTANT:"."""
SVO_CSV, SVO_IMAGES, MIT_STATES, FACES = "svo_probes.csv", "images", "mit-states", "faces"
LAYOUT = (
    f"{SVO_CSV} with the folder {SVO_IMAGES} (SVO-Probes), {MIT_STATES} (folders named 'adjective noun'), {FACES} "
    "(folders named by emotion); at least one of the three"
)
DIFFERENCES = (
    "Prompts are written by rule from the labels of the data sets; the paper had a paid language model write some.",
    "Pairs are drawn here, seeded and balanced over groups and the order of the options; which ones the paper used is "
    "not published.",
    "Only pairs that the model answers as expected are kept (unless the plan says otherwise), by as many tokens of the "
    "greedy answer as the correct answer has.",
    "Corrupted questions have as many tokens as the clean ones, slot by slot; pairs that have none are dropped.",
    "Effects are changes of the logit difference as shares of the gap, ratios of sums over pairs; the paper has "
    "probabilities of the correct answer after the patch. Its numbers are in separate tables (paper_rule.csv, "
    "modules.csv), and nothing is tested by them.",
    "Under image corruptions heads are ranked by matched minus mismatched, as a share of what the mismatched picture "
    "leaves of the gap: what a patch from a picture of a third answer restores is not counted.",
    "Pairs that share a picture, a donor's too where it is subtracted, are one piece of evidence, in any number of "
    "steps; the paper counts pairs.",
    "Under text corruptions the contrast is the answer to the corrupted question, since both options were replaced.",
    "Beside the two-sigma rule stands a test against a smallest effect of interest with the error rate over heads "
    "controlled; universal heads are partial conjunctions over conditions, not overlaps of lists.",
)
"""Of either model."""
BLIP_DIFFERENCES = (
    "Positions are repaired: roles are found in the token ids, [CLS] included. In the circulated code tokens are "
    "counted without it, so that each effect is read one word off.",
    "Padding of the question is masked in the decoder's cross-attention; in Hugging Face's code it is not.",
    "Effects are read at one role that was fixed before, the correct answer's word, never at the best of several; all "
    "positions at once are a check.",
)
LLAVA_DIFFERENCES = (
    'Heads are patched at the last token of the rendered prompt, which is the colon of "ASSISTANT:" in LLaVA-1.5\'s '
    "template; all positions at once are a check.",
    "The prompt is what the checkpoint's own chat template makes of the question; the paper's wording around it is not "
    "published.",
)


def read_raw(folder: Path, model: "VisionLanguageModel", settings: Settings) -> "dict[str, MinimalPairs]":
    """Return pairs by task, of the data sets that a folder holds.

    Args:
        folder: Holds `svo_probes.csv` with `images`, `mit-states` and `faces`, at least one of the three.
        model: Whose tokenizer counts the tokens of replaced words.
        settings: Of the run.

    Raises:
        FileNotFoundError: The folder holds none of them, or a table without its pictures.
        ValueError: A data set is laid out in another way, or gives no pairs.
    """
    from notice_lens.pairs import facial_expressions, mit_states, svo_probes

    options: dict[str, Any] = {"n": settings.pairs, "seed": settings.seed, "progress": settings.progress}
    there = [name for name in (SVO_CSV, MIT_STATES, FACES) if (folder / name).exists()]
    if not there:
        raise FileNotFoundError(f"{folder} holds none of the data sets: expected {LAYOUT}")
    tasks = {}
    if SVO_CSV in there:
        if not (folder / SVO_IMAGES).is_dir():
            raise FileNotFoundError(f"{folder / SVO_CSV} has no pictures: expected them by id in {folder / SVO_IMAGES}")
        tasks["SVO-Probes"] = svo_probes(folder / SVO_CSV, folder / SVO_IMAGES, model, **options)
    if MIT_STATES in there:
        tasks["MIT-States"] = mit_states(folder / MIT_STATES, model, **options)
    if FACES in there:
        tasks["faces"] = facial_expressions(folder / FACES, model, **options)
    return tasks


def carry_out(run: PresetRun) -> Outcome:
    """Run the study, and return its findings with the paper's heads and numbers beside them."""
    from notice_lens import viz
    from notice_lens.pairs import Noise
    from notice_lens.pairs.corruption import CORRUPTIONS
    from notice_lens.study import run_study, summary

    settings = run.settings
    corruptions = (*CORRUPTIONS, Noise(samples=1, seed=settings.seed))
    choices = Choices(
        role=run.preset.role, corruptions=corruptions, filtered=settings.filtered, seed=settings.seed
    ).resolved(run.tasks, run.model)
    options: dict[str, Any] = {"memory": settings.memory, "progress": settings.progress}
    study = run_study(run.model, run.tasks, run.folder, choices, say=run.say, **options)
    assert study.data is not None, "it was carried out"
    heads, numbers = paper_heads(study.important, run.preset.heads), paper_numbers(study)
    modules = module_numbers(run.model, study, run.folder / "modules", **options)
    page = viz.report(study.data, run.folder / "report.html").resolve()
    return Outcome(
        lines=[
            *study.findings(),
            "",
            *_rules_lines(study),
            "",
            *_heads_lines(heads),
            "",
            *_paper_lines(numbers, modules),
        ],
        tables={"paper_heads": heads, "paper_rule": numbers, "modules": modules},
        values=summary(study),
        page=page,
    )


def paper_heads(important: "Mapping[str, xr.Dataset]", looked_up: Sequence[LayerHead]) -> "pd.DataFrame":
    """Return the heads that the paper names, in each condition.

    Args:
        important: What `circuits.important_heads` gave, by condition.
        looked_up: Layer and head of those that the paper names.

    Returns:
        A row for each head and condition: `rank` (1 is the largest |effect|, of `heads`), `effect`, `low`, `high` (of
        what `share_of` says), `effect_of_gap`, `q`, `pairs`, `clusters`, `two_sigma`, `significant`; a head that the
        model does not have has `there` false, and no numbers.
    """
    import pandas as pd

    rows = []
    for layer, head in looked_up:
        for name, table in important.items():
            heads = table.sizes["layer"] * table.sizes["head"]
            there = layer in table["layer"].values and head in table["head"].values
            row: dict[str, Any] = {"head": head_name(layer, head), "condition": name, "there": there, "heads": heads}
            if there:
                one = table.sel(layer=layer, head=head)
                row |= {key: one[key].item() for key in ("rank", "effect", "effect_of_gap", "low", "high", "q")}
                row |= {key: table.attrs[key] for key in ("share_of", "pairs", "clusters")}
                row |= {key: bool(one[key]) for key in ("two_sigma", "significant")}
            rows.append(row)
    numbers = ["rank", "heads", "effect", "low", "high", "share_of", "effect_of_gap", "q", "pairs", "clusters"]
    columns = ["head", "condition", "there", *numbers, "two_sigma", "significant"]
    whole, true = dict.fromkeys(("rank", "pairs", "clusters"), "Int64"), ("two_sigma", "significant")
    return pd.DataFrame(rows, columns=columns).astype(whole | dict.fromkeys(true, "boolean"))


def paper_numbers(study: "Study") -> "pd.DataFrame":
    """Return the heads of each condition, and of noise, by the paper's numbers, with ours beside them.

    Args:
        study: A study that was carried out.

    Returns:
        A row for each condition, layer and head: `magnitude`, `low`, `high`, `change`, `selected` and `rank` of
        `circuits.paper_rule`; then `effect`, `two_sigma`, `significant` and `q` of `circuits.important_heads`, empty
        for noise, which is not a condition.
    """
    import pandas as pd

    from notice_lens.circuits import paper_rule

    parts = []
    for name, effects in study.effects.items():
        numbers = paper_rule(effects, role=study.choices.role, seed=study.choices.seed)
        frame = numbers.drop_vars("role", errors="ignore").to_dataframe().reset_index()
        if name in study.important:
            ours = study.important[name][["effect", "two_sigma", "significant", "q"]].to_dataframe().reset_index()
            frame = frame.merge(ours.drop(columns="role", errors="ignore"), on=["layer", "head"])
        frame.insert(0, "condition", name)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def module_numbers(
    model: "VisionLanguageModel",
    study: "Study",
    folder: Path,
    *,
    memory: float | int | None = None,
    progress: bool = True,
) -> "pd.DataFrame":
    """Patch attention, cross-attention and MLP of each layer, for each condition and for noise.

    Args:
        model: The model.
        study: A study that was carried out, with the pairs of its conditions.
        folder: Of the sweeps, which resume from it.
        memory: Bytes that variants may take.
        progress: Whether there are bars.

    Returns:
        A row for each condition, site and layer: `magnitude`, `low`, `high` and `change` of the answer's probability,
        and `effect`, the share of the gap that is restored (or lost).
    """
    import pandas as pd

    from notice_lens import patching
    from notice_lens.circuits import paper_rule
    from notice_lens.pairs.roles import ALL
    from notice_lens.study.choices import corruption_name

    choices, role, parts = study.choices, study.choices.role or ALL, []
    by_name = {corruption_name(one): one for one in choices.corruptions}
    for name in study.effects:
        corruption = by_name[name.rpartition(", ")[2]]
        effects = patching.patch_modules(
            model, study.pairs[name], choices.site.partition(".")[0], corruption=corruption, controls=(), memory=memory,
            positions=ALL if role == ALL else [role], direction=cast("Direction", choices.direction), seed=choices.seed,
            store=folder / f"{quote(name, safe=' ,')}.zarr", progress=progress,
        )  # fmt: skip
        numbers = paper_rule(effects, role=choices.role, seed=choices.seed)[["magnitude", "low", "high", "change"]]
        share = patching.aggregate(effects)
        numbers["effect"] = (
            numbers["magnitude"].dims,
            share.squeeze("role", drop=True).values if "role" in share.dims else share.values,
        )
        frame = numbers.drop_vars("role", errors="ignore").to_dataframe().reset_index()
        frame.insert(0, "condition", name)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _rules_lines(study: "Study") -> list[str]:
    """The heads that either rule finds, by condition."""
    from notice_lens.study import summary

    lines = ["both rules, by condition:"]
    for name, own in summary(study)["conditions"].items():
        lines.append(f"  {name} ({own['pairs']} pairs, {own['clusters']} clusters)")
        passed = {rule: "not tested" if own[key] is None else ", ".join(own[key]) for key, rule in _RULE_NAMES.items()}
        lines += [f"    {rule}: {heads or 'none'}" for rule, heads in passed.items()]
    return lines


_RULE_NAMES = {"two_sigma": "two-sigma", "significant": "significant"}


def _heads_lines(heads: "pd.DataFrame") -> list[str]:
    """The paper's heads, in each condition, and those that the model has not."""
    rows = heads.to_dict("records")
    missing = dict.fromkeys(row["head"] for row in rows if not row["there"])
    lines = ["the heads that the paper calls universal:", *(f"  {_looked_up(row)}" for row in rows if row["there"])]
    return [*lines, f"  this model has no {', '.join(missing)}"] if missing else lines


def _looked_up(row: Mapping[Any, Any]) -> str:
    from notice_lens.viz.words import percent, small

    where = f"{row['head']} in {row['condition']}"
    interval = f"[{percent(row['low'])}, {percent(row['high'])}]"
    passed = [rule for key, rule in _RULE_NAMES.items() if row[key]]
    return (
        f"{where}: rank {row['rank']} of {row['heads']}, {percent(row['effect'])} {interval} of {row['share_of']}, "
        f"q {small(row['q'])}; rules passed: {', '.join(passed) or 'neither'}"
    )


def _paper_lines(numbers: "pd.DataFrame", modules: "pd.DataFrame") -> list[str]:
    """The paper's own numbers, by condition and for noise."""
    lines = ["the paper's own rule, mean |change of the answer's probability| (tables/paper_rule.csv):"]
    picked = numbers.loc[numbers["selected"]].to_dict("records")
    for name in numbers["condition"].unique():
        rows = sorted((row for row in picked if row["condition"] == name), key=lambda row: row["rank"])
        heads = [f"{head_name(row['layer'], row['head'])} {_with_interval(row)}" for row in rows]
        lines.append(f"  {name}: {', '.join(heads) or 'none'}")
    lines += ["", "the same of modules, the layer that moves it most (tables/modules.csv):"]
    largest = modules.loc[modules.groupby(["condition", "site"], sort=False)["magnitude"].idxmax()].to_dict("records")
    for name in modules["condition"].unique():
        rows = [row for row in largest if row["condition"] == name]
        sites = [f"{row['site'].partition('.hook_')[2]} L{row['layer']} {_with_interval(row)}" for row in rows]
        lines.append(f"  {name}: {', '.join(sites)}")
    return lines


def _with_interval(row: Mapping[Any, Any]) -> str:
    return f"{row['magnitude']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


_SHARED: dict[str, Any] = {
    "paper": PAPER,
    "pairs": 500,
    "layout": LAYOUT,
    "metric": METRIC,
    "paper_rule": "mean |patched - base probability| at least mean + 2 standard deviations over heads",
    "rule": "two-sigma on |effect|; significant: |effect| larger than "
    f"{Choices.smallest_effect:g} of what each effect is a share of, family-wise error rate over heads at most "
    f"{Choices.alpha:g}",
    "read": read_raw,
    "carry_out": carry_out,
}
NOTICE_BLIP = Preset(
    name="notice-blip",
    title="NOTICE on BLIP: cross-attention heads at the correct answer's word",
    model="Salesforce/blip-vqa-base",
    role="correct",
    heads=BLIP_HEADS,
    differences=(*DIFFERENCES, *BLIP_DIFFERENCES),
    **_SHARED,
)
NOTICE_LLAVA = Preset(
    name="notice-llava",
    title='NOTICE on LLaVA-1.5: heads of the language model at the end of "ASSISTANT:"',
    model="llava-hf/llava-1.5-7b-hf",
    role="last",
    heads=LLAVA_HEADS,
    differences=(*DIFFERENCES, *LLAVA_DIFFERENCES),
    **_SHARED,
)
