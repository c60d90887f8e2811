"""Vision-default, prior-override (arXiv 2606.28273): heads by which a model answers from knowledge against the picture.

Both runs of a pair see the same counterfactual picture, such as a blue strawberry. The *prior* run asks for knowledge
("What color is a strawberry usually?"), the *visual* run for what is seen ("What color is this strawberry here?").

1. Pairs are kept that the model answers with a known colour in the prior run and with the shown one in the visual run.
2. Every head is patched at the last token, in both directions: prior to visual (P2V) and visual to prior (V2P). A
   head's score is the mean over pairs of the share of the gap between the runs' logit differences that it restores.
3. Heads are points (P2V, V2P). Those more than two standard deviations along the first principal component, which
   points to where both scores rise, *promote* the prior answer; those as far the other way *suppress* it.
4. Either set, and each of its heads, is knocked out: its output at the last token is zero, in both runs. A run *flips*
   where the other run's answer has the larger logit then.

Beside the paper's sets stand heads that are significant in both directions, and random heads of the same layers.
"""

import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from notice_lens.pairs.builders.visual_counterfact import (
    COLOR_COLUMNS,
    COLOR_FILES,
    KNOWN_COLOURS,
    visual_counterfact,
)
from notice_lens.pairs.problems import Problem
from notice_lens.study.choices import FEWEST_FLIPS, METRIC, Choices
from notice_lens.study.presets.preset import LayerHead, Outcome, Preset, PresetRun, Settings, head_name, percent_between
from notice_lens.study.presets.spoken import spellings, spoken

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

COMPONENT_SIGMAS = 2.0
READ_OUT = "last"
DIRECTIONS_OF: dict[str, Literal["denoise", "noise"]] = {"prior to visual": "denoise", "visual to prior": "noise"}
"""The two directions: prior activations into the visual run, and the reverse."""
BASE_RUNS: dict[str, tuple[Literal["denoise", "noise"], str]] = {
    "prior": ("noise", "clean"),
    "visual": ("denoise", "corrupt"),
}
"""The run that each question makes: the direction in which it is the base run, and the name of its baseline."""
PAPER_FLIPS = {"prior": "68 to 96 %", "visual": "0.8 to 7.5 %"}
"""Predictions that flip without the promoting heads, over the paper's five checkpoints (its abstract)."""
PAPER_SHARE = "2.5 to 4.8 %"
"""Heads that the paper calls causally necessary, over the same checkpoints."""
SETS = ("promoting", "suppressing", "significant", "random")
"""The sets of heads that are knocked out together."""
NOT_PRIOR, NOT_VISUAL = "no known colour in the prior run", "not the shown colour in the visual run"


def read_color_pairs(folder: Path, model: "VisionLanguageModel", settings: Settings) -> "dict[str, MinimalPairs]":
    """Return the pairs of the colour split that the model answers as expected, in the model's own spelling.

    Args:
        folder: As the hub has the data set.
        model: A chat model, whose heads are patched at `last`.
        settings: Of the run.

    Raises:
        ValueError: The model's answer is not read out at the end of the prompt, or too few pairs are left.
        FileNotFoundError: The folder has no such files.
    """
    positions = model.cfg.default_positions
    if isinstance(positions, str) or READ_OUT not in positions:
        raise ValueError(
            f"{model.cfg.name_or_path or 'this model'} is not read out at the last token of its prompt; vision-default "
            "needs a chat model, such as Qwen/Qwen2.5-VL-3B-Instruct or mini-llava"
        )
    pairs = visual_counterfact(folder, n=settings.pairs, seed=settings.seed)
    found = len(pairs)
    pairs = _answered(model, pairs, settings).validate(model, on_error="drop")
    if len(pairs) < 2:
        dropped = ", ".join(f"{reason}: {count}" for reason, count in pairs.manifest.dropped.items())
        raise ValueError(f"{len(pairs)} of {found} pairs are left, and 2 are needed at least; dropped are {dropped}")
    return {"color": pairs}


def _answered(model: "VisionLanguageModel", pairs: "MinimalPairs", settings: Settings) -> "MinimalPairs":
    """Return the pairs with the colours that the model says in either run; others are dropped, if that is asked for."""
    known = [spellings(cell.split("|")) for cell in pairs[KNOWN_COLOURS]]
    shown = [spellings([colour]) for colour in pairs["incorrect_answer"]]
    prior = spoken(model, pairs, known, "clean", progress=settings.progress)
    visual = spoken(model, pairs, shown, "corrupt", progress=settings.progress)
    problems = [
        Problem(pair, reason, f"expected {' or '.join(own)}")
        for reason, said, expected in ((NOT_PRIOR, prior, known), (NOT_VISUAL, visual, shown))
        for pair, one, own in zip(pairs["id"], said, expected, strict=True)
        if one is None
    ]
    priors = [one or own[0] for one, own in zip(prior, known, strict=True)]
    visuals = [one or own[0] for one, own in zip(visual, shown, strict=True)]
    pairs = pairs.with_column("correct_answer", priors)
    pairs = pairs.with_column("incorrect_answer", visuals).with_column("corrupt_answer", visuals)
    return pairs.without(problems, "answered") if settings.filtered else pairs


def carry_out_knockouts(run: PresetRun) -> Outcome:
    """Patch every head in both directions, choose heads by both rules, and knock them out."""
    from notice_lens import patching

    pairs = run.tasks["color"]
    shared: dict[str, Any] = {
        "corruption": "text", "controls": (), "seed": run.settings.seed, "memory": run.settings.memory,
        "progress": run.settings.progress,
    }  # fmt: skip
    effects = {}
    for name, direction in DIRECTIONS_OF.items():
        run.say(f"{name}: patching heads at {READ_OUT} on {len(pairs)} pairs ...")
        effects[name] = patching.patch_heads(
            run.model, pairs, positions=[READ_OUT], direction=direction, store=run.store(name), **shared
        )
    heads = head_scores(effects, run.settings.seed)
    sets = chosen_sets(heads, run.settings.seed)
    rows = []
    if sets:
        variants = {name: knocked_out(run.model, own) for name, own in sets.items()}
        for question, (direction, _) in BASE_RUNS.items():
            run.say(f"{question} run: knocking out {len(variants)} sets of heads ...")
            lost = patching.run_variants(
                run.model, pairs, variants, direction=direction, metrics=["logit_diff_change"],
                store=run.store(f"knock-outs, {question} run"), **shared,
            )  # fmt: skip
            rows += flips(lost, question, sets)
    import pandas as pd

    knockouts = pd.DataFrame(rows, columns=KNOCKOUT_COLUMNS)
    lines = [*_heads_lines(heads.to_dict("records")), "", *_flip_lines(rows, len(heads))]
    return Outcome(lines, {"knockouts": knockouts, "heads": heads})


def head_scores(effects: "Mapping[str, xr.Dataset]", seed: int = 0) -> "pd.DataFrame":
    """Return every head's scores in both directions, by the paper's rule and by ours.

    Args:
        effects: Of heads at the last token, by the names of `DIRECTIONS_OF`.
        seed: Of all resampling.

    Returns:
        A row for each head: `layer`, `head`, `p2v` and `v2p` (means over pairs of the share of the gap) with `_low` and
        `_high`; `component` (the score on the first principal component) and `chosen` (`promoting`, `suppressing` or
        empty), by the paper's rule; `effect_p2v` and `effect_v2p` (ratios of sums) with `_low` and `_high`, `q` and
        `significant` (in both directions, with one sign), by ours; `pairs` and `clusters`.
    """
    import pandas as pd

    from notice_lens.circuits import FewClusters, universal_heads
    from notice_lens.stats.clusters import clusters_of
    from notice_lens.stats.intervals import ratio_of_sums

    first = next(iter(effects.values()))
    n_layers, n_heads = first.sizes["layer"], first.sizes["head"]
    flips = max(FEWEST_FLIPS, ceil(n_layers * n_heads * len(effects) / Choices.alpha))
    with warnings.catch_warnings():
        # The table has the number of clusters, and no q where there are few.
        warnings.simplefilter("ignore", FewClusters)
        ours = universal_heads(
            effects, role=READ_OUT, metric=METRIC, control=False, smallest_effect=Choices.smallest_effect,
            alpha=Choices.alpha, n_permutations=flips, seed=seed,
        )  # fmt: skip
    columns: dict[str, np.ndarray] = {
        "layer": np.repeat(first["layer"].values, n_heads), "head": np.tile(first["head"].values, n_layers)
    }  # fmt: skip
    shares = {}
    for name, short in (("prior to visual", "p2v"), ("visual to prior", "v2p")):
        values = effects[name]["patching_effect"].sel(role=READ_OUT).transpose("pair", "layer", "head").values
        clusters = clusters_of(effects[name])
        share = ratio_of_sums(values.astype(float), np.ones(len(values)), clusters, seed=seed)
        shares[short] = share.mean.ravel()
        columns |= {short: share.mean.ravel(), f"{short}_low": share.low.ravel(), f"{short}_high": share.high.ravel()}
    columns["component"], columns["chosen"] = component_rule(np.column_stack([shares["p2v"], shares["v2p"]]))
    for name, short in (("prior to visual", "p2v"), ("visual to prior", "v2p")):
        one = ours.sel(condition=name).transpose("layer", "head", ...)
        columns |= {f"effect_{short}": one["effect"].values.ravel(), f"effect_{short}_low": one["low"].values.ravel()}
        columns[f"effect_{short}_high"] = one["high"].values.ravel()
    columns |= {"q": ours["q"].values.ravel(), "significant": ours["universal"].values.ravel()}
    table = pd.DataFrame(columns)
    table["significant"] = table["significant"].astype("boolean").where(table["q"].notna())
    condition = ours.isel(condition=0)
    return table.assign(pairs=int(condition["pairs"]), clusters=int(condition["clusters"]))


def component_rule(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each head's score on the first principal component, and the set that the paper's rule puts it in.

    Args:
        points: The scores of heads in both directions, [head, direction].

    Returns:
        Scores with mean zero, [head], of the component that points to where both numbers rise; and `promoting` more
        than two standard deviations above, `suppressing` below, empty for the rest.
    """
    centred = points - points.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    component = centred @ (axis if axis.sum() >= 0 else -axis)
    far = COMPONENT_SIGMAS * component.std()
    return component, np.where(component > far, "promoting", np.where(component < -far, "suppressing", ""))


def chosen_sets(heads: "pd.DataFrame", seed: int = 0) -> dict[str, list[LayerHead]]:
    """Return the sets of heads that are knocked out, by name; those that are empty are left out.

    Args:
        heads: As `head_scores` gives them.
        seed: Of the random heads.

    Returns:
        `promoting` and `suppressing` by the paper's rule; `significant` by ours, those that restore an answer in both
        directions; `random`, as many heads of the same layers as promote, of those that neither rule chose where there
        are enough; then each head of the paper's sets alone, by its name.
    """
    rng = np.random.default_rng(seed)
    place = list(zip(heads["layer"].tolist(), heads["head"].tolist(), strict=True))
    promoting, suppressing = (
        [place[i] for i in np.flatnonzero(heads["chosen"] == name)] for name in ("promoting", "suppressing")
    )
    significant = heads["significant"].fillna(False).to_numpy(bool) & (heads["effect_p2v"] > 0).to_numpy()
    ours = [place[i] for i in np.flatnonzero(significant)]
    drawn: list[LayerHead] = []
    for layer in dict.fromkeys(layer for layer, _ in promoting):
        wanted = sum(one == layer for one, _ in promoting)
        left = [one for one in place if one[0] == layer and one not in {*promoting, *suppressing, *ours}]
        drawn += [left[i] for i in rng.permutation(len(left))[:wanted]]
    sets = dict(zip(SETS, (promoting, suppressing, ours, sorted(drawn)), strict=True))
    alone = {head_name(*one): [one] for one in (*promoting, *suppressing)}
    return {name: own for name, own in sets.items() if own} | alone


def knocked_out(model: "VisionLanguageModel", heads: Sequence[LayerHead]) -> list[Any]:
    """Return the edits that make the output of some heads zero at the last token."""
    from notice_lens.patching import Edit

    site = f"{model.cfg.default_site.removesuffix('.hook_z')}.z"
    return [Edit(site, layer, head, READ_OUT, source="zero") for layer, head in heads]


KNOCKOUT_COLUMNS = [
    "set", "heads", "run", "flipped", "pairs", "clusters", "rate", "low", "high", "margin_before", "margin_after",
    "margin_after_low", "margin_after_high", "paper",
]  # fmt: skip


def flips(lost: "xr.Dataset", question: str, sets: Mapping[str, Sequence[LayerHead]]) -> list[dict[str, Any]]:
    """Return how often a run answers as the other one does, without each set of heads.

    Args:
        lost: The knock-outs of one run, with `logit_diff_change`.
        question: `prior` or `visual`.
        sets: The heads of each variant.

    Returns:
        A row for each set: how many pairs flip, the rate with Wilson's interval over clusters, and the mean margin of
        the run's own answer in logits, before and after.
    """
    from notice_lens.stats.clusters import clusters_of
    from notice_lens.stats.intervals import ratio_of_sums, wilson

    own = 1.0 if question == "prior" else -1.0
    before = own * lost[f"logit_diff_{BASE_RUNS[question][1]}"].values.astype(float)
    after = before[:, None] + own * lost["logit_diff_change"].transpose("pair", "variant").values
    clusters = clusters_of(lost)
    margins = ratio_of_sums(after, np.ones(len(after)), clusters)
    rows = []
    for number, name in enumerate(map(str, lost["variant"].values)):
        # The paper's rule for a tie: the prior answer is predicted unless the visual one has the larger logit.
        flipped = after[:, number] < 0 if question == "prior" else after[:, number] <= 0
        low, high = wilson(float(flipped.mean()), int(clusters.max()) + 1)
        rows.append({
            "set": name, "heads": " ".join(head_name(*one) for one in sets[name]), "run": question,
            "flipped": int(flipped.sum()), "pairs": len(flipped), "clusters": int(clusters.max()) + 1,
            "rate": float(flipped.mean()), "low": low, "high": high, "margin_before": float(before.mean()),
            "margin_after": float(margins.mean[number]), "margin_after_low": float(margins.low[number]),
            "margin_after_high": float(margins.high[number]),
            "paper": PAPER_FLIPS[question] if name == "promoting" else "",
        })  # fmt: skip
    return rows


def _heads_lines(heads: Sequence[Mapping[Any, Any]]) -> list[str]:
    """The heads that either rule chooses."""
    half = (max(row["layer"] for row in heads) + 1) / 2
    lines = ["the paper's rule, first component of (P2V, V2P) beyond two standard deviations (tables/heads.csv):"]
    for name in ("promoting", "suppressing"):
        own = sorted((row for row in heads if row["chosen"] == name), key=lambda row: -abs(row["component"]))
        paper = f" (the paper: {PAPER_SHARE})" if name == "promoting" else ""
        late = f", {sum(row['layer'] >= half for row in own)} of them in the second half of the layers" if own else ""
        lines.append(f"  {name}: {len(own)} of {len(heads)} heads, {100 * len(own) / len(heads):.1f} %{paper}{late}")
        for row in own:
            scores = (percent_between(row[one], row[f"{one}_low"], row[f"{one}_high"]) for one in ("p2v", "v2p"))
            lines.append("    {}: P2V {}, V2P {}".format(head_name(row["layer"], row["head"]), *scores))
    ours = [
        head_name(row["layer"], row["head"]) + (" (against the answer)" if row["effect_p2v"] < 0 else "")
        for row in heads
        if row["q"] <= Choices.alpha
    ]
    found = ", ".join(ours) or "none" if all(row["q"] == row["q"] for row in heads) else "not tested"
    lines.append("our rule, significant in both directions with one sign:")
    return [*lines, f"  {found} ({heads[0]['pairs']} pairs, {heads[0]['clusters']} clusters)"]


def _flip_lines(knockouts: Sequence[Mapping[Any, Any]], n_heads: int) -> list[str]:
    """The flip rates of the sets, beside the paper's."""
    lines = ["answers that flip to the other run's without these heads (tables/knockouts.csv):"]
    there = dict.fromkeys(row["set"] for row in knockouts if row["set"] in SETS)
    for name in there:
        own = [row for row in knockouts if row["set"] == name]
        lines.append(f"  {name}, {len(own[0]['heads'].split())} of {n_heads} heads:")
        for row in own:
            paper = f" (the paper: {row['paper']})" if row["paper"] else ""
            rate = percent_between(row["rate"], row["low"], row["high"])
            lines.append(f"    {row['run']} run: {rate}, {row['flipped']} of {row['pairs']} pairs{paper}")
    return lines if there else [*lines, "  none: no head was chosen"]


VISION_DEFAULT = Preset(
    name="vision-default",
    title="perception against knowledge on Visual CounterFact: heads patched in both directions, knocked out",
    paper="https://arxiv.org/abs/2606.28273",
    model="Qwen/Qwen2.5-VL-3B-Instruct",
    pairs=500,
    layout=f"the data set mgolov/Visual-Counterfact: data/{COLOR_FILES} with {', '.join(COLOR_COLUMNS)}",
    role=READ_OUT,
    metric=METRIC,
    paper_rule="mean share of the gap, prior to visual and visual to prior; first principal component over heads "
    f"beyond {COMPONENT_SIGMAS:g} standard deviations, above: promoting, below: suppressing; knocked out by zeros",
    rule=f"|effect| larger than {Choices.smallest_effect:g} of the gap in both directions with one sign (partial "
    f"conjunction), false discoveries over heads at most {Choices.alpha:g}",
    differences=(
        "Design, questions and filter are those of the authors' published code; the paper's text could be read in part "
        "only, its abstract among it. Its table of heads by checkpoint was not seen, so no heads are looked up.",
        "The colour split alone is used, as in that code; the split of sizes is not read.",
        "The two questions need as many tokens for this model's tokenizer; pairs that have others are dropped and "
        "counted, where the authors' code stops.",
        "Plurals are told by lemminflect, the article by its first letter; the authors use inflect.",
        "The processor is the checkpoint's own; the authors set the number of pixels for Qwen2.5-VL, and load the "
        "models in 4 bits by default.",
        "Answers of several tokens are teacher-forced, and their log-probabilities compared; the authors compare first "
        "tokens.",
        "Expected answers are counted with and without a capital letter as they are tokenised behind the prompt; the "
        "authors tokenise them alone.",
        "A pair whose runs differ by less than the smallest gap has no score.",
        "The contrast of the appendix, original against counterfactual picture, is not run; nor are MLPs, the residual "
        "stream and the attention patterns.",
        "Heads are chosen and knocked out on the same pairs, as in the paper, so that flip rates are optimistic; the "
        "random heads of the same layers and the test in both directions are ours.",
    ),
    read=read_color_pairs,
    carry_out=carry_out_knockouts,
)
