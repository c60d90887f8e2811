"""Cross-modal information flow (arXiv 2411.18620): where the picture reaches the question, and both the answer.

1. Questions of GQA of six types, with an instruction to answer in a word or phrase, that the model answers rightly.
2. Attention is knocked out along six flows, in a window of nine layers around each layer: from the question, the image
   and the last position to the last position, and from the image, from the things asked about and from all else in the
   picture to the question.
3. The number is the relative change of the probability of the model's answer, in percent, its mean over questions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.pairs.builders.gqa import ASKED, GQA_TYPES, OBJECT, REST_OF_IMAGE, gqa_questions
from notice_lens.pairs.problems import Problem
from notice_lens.stats.clusters import ENOUGH_CLUSTERS
from notice_lens.study.choices import FEWEST_FLIPS
from notice_lens.study.presets.preset import Outcome, Preset, PresetRun, Settings, percent_between
from notice_lens.study.presets.spoken import spellings, spoken

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

WINDOW = 9
SIX_FLOWS: dict[str, tuple[str, str]] = {
    "question -> last": (ASKED, "last"),
    "image -> last": ("image", "last"),
    "last -> last": ("last", "last"),
    "image -> question": ("image", ASKED),
    "object -> question": (OBJECT, ASKED),
    "rest of the image -> question": (REST_OF_IMAGE, ASKED),
}
"""The flows of the paper: what is looked at, and what may not look."""
WRONG = "the model answers otherwise"
FLOW_ALPHA = 0.05


def read_questions(folder: Path, model: "VisionLanguageModel", settings: Settings) -> "dict[str, MinimalPairs]":
    """Return the questions that the model answers rightly, in its own spelling, by type.

    Args:
        folder: As `gqa_questions` reads it.
        model: One whose pictures and words stand in one row.
        settings: Of the run.

    Raises:
        ValueError: The model reads its pictures by cross-attention, or no type has two questions that are left.
        FileNotFoundError: The folder lacks pictures or questions.
    """
    if "image" not in model.cfg.streams[model.cfg.prompt_stack]:
        raise ValueError(
            f"{model.cfg.name_or_path or 'this model'} reads its pictures by cross-attention, so that there is no flow "
            "from the image to the last position; cross-modal-flow needs a model such as llava-hf/llava-1.5-13b-hf"
        )
    left, dropped = {}, []
    for kind, pairs in gqa_questions(folder, n=settings.pairs, seed=settings.seed, progress=settings.progress).items():
        found = len(pairs)
        pairs = _answered(model, pairs, settings).validate(model, on_error="drop")
        if len(pairs) < 2:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in pairs.manifest.dropped.items())
            dropped.append(f"{kind}, {len(pairs)} of {found} left ({reasons})")
        else:
            left[kind] = pairs
    if not left:
        raise ValueError(f"no type has two questions left: {'; '.join(dropped)}")
    return left


def _answered(model: "VisionLanguageModel", pairs: "MinimalPairs", settings: Settings) -> "MinimalPairs":
    """Return the questions with the answers that the model says; wrong ones are dropped, if that is asked for."""
    candidates = [spellings([answer]) for answer in pairs["correct_answer"]]
    said = spoken(model, pairs, candidates, progress=settings.progress)
    problems = [
        Problem(pair, WRONG, f"expected {own[0]!r}")
        for pair, one, own in zip(pairs["id"], said, candidates, strict=True)
        if one is None
    ]
    pairs = pairs.with_column("correct_answer", [one or own[0] for one, own in zip(said, candidates, strict=True)])
    return pairs.without(problems, "answered") if settings.filtered else pairs


def carry_out_flows(run: PresetRun) -> Outcome:
    """Knock out every flow in every window of layers, for each type of question."""
    import pandas as pd

    from notice_lens.patching import knockout

    parts = []
    for kind, pairs in run.tasks.items():
        regions = {one["region"] for own in pairs["clean_regions"] for one in own}
        flows = {name: ends for name, ends in SIX_FLOWS.items() if ends[0] not in {OBJECT, REST_OF_IMAGE} - regions}
        missing = [name for name in SIX_FLOWS if name not in flows]
        without = f"; no boxes, so without {' and '.join(missing)}" if missing else ""
        run.say(f"{kind}: knocking out {len(flows)} flows on {len(pairs)} questions{without} ...")
        lost = knockout(
            run.model, pairs, flows, window=WINDOW, metrics=["answer_prob"], store=run.store(kind),
            seed=run.settings.seed, memory=run.settings.memory, progress=run.settings.progress,
        )  # fmt: skip
        part = relative_changes(lost, run.settings.seed)
        part.insert(0, "type", kind)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    lowest = deepest(table.to_dict("records"))
    return Outcome(_lines(lowest), {"flows": table, "deepest": pd.DataFrame(lowest)})


def relative_changes(lost: "xr.Dataset", seed: int = 0) -> "pd.DataFrame":
    """Return the relative change of the answer's probability by flow and layer, by the paper's number and by ours.

    Args:
        lost: A result of `knockout` on the clean run with `answer_prob`.
        seed: Of all resampling.

    Returns:
        A row for each flow and layer. The paper's number: `change`, the mean over questions of (knocked out - base) /
        base, with `low` and `high`; -1 is all of the probability. Ours: `change_of_sums`, the ratio of the sums, with
        `sums_low` and `sums_high`; `q` of sign flips of the change of the probability, adjusted over flows and layers
        (Benjamini and Hochberg), and `significant`; empty with few clusters. `questions` and `clusters` that count.
    """
    import pandas as pd

    from notice_lens.stats.clusters import clusters_of
    from notice_lens.stats.intervals import ratio_of_sums
    from notice_lens.stats.mean_tests import flip_p
    from notice_lens.stats.nulls import over_heads

    after = lost["answer_prob"].transpose("pair", "flow", "layer").values.astype(float)
    base = lost["answer_prob_clean"].values.astype(float)[:, None, None]
    clusters = clusters_of(lost)
    flows, layers = lost["flow"].values, lost["layer"].values
    relative = ratio_of_sums((after - base) / base, np.ones(len(base)), clusters, seed=seed)
    sums = ratio_of_sums(after - base, np.broadcast_to(base, after.shape), clusters, seed=seed)
    there = np.asarray(np.isfinite(after).all(axis=-1))
    p, counts = np.full(after.shape[1:], np.nan), np.zeros(len(flows), int)
    for number in range(len(flows)):
        own = there[:, number]
        counts[number] = len(set(clusters[own]))
        if counts[number] >= ENOUGH_CLUSTERS:
            change = (after - base)[own, number].T
            p[number] = flip_p(change, clusters[own], FEWEST_FLIPS, np.random.default_rng(seed), two_sided=True)
    tested = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    q[tested] = over_heads(p[tested])
    grid = {
        "change": relative.mean, "low": relative.low, "high": relative.high, "change_of_sums": sums.mean,
        "sums_low": sums.low, "sums_high": sums.high, "q": q,
    }  # fmt: skip
    table = pd.DataFrame({
        "flow": np.repeat(flows, len(layers)), "layer": np.tile(layers, len(flows)),
        **{name: values.ravel() for name, values in grid.items()},
        "questions": relative.n.ravel(), "clusters": np.repeat(counts, len(layers)),
    })  # fmt: skip
    significant = (table["q"] <= FLOW_ALPHA).astype("boolean").where(table["q"].notna())
    table.insert(list(table.columns).index("q") + 1, "significant", significant)
    return table


def deepest(flows: Sequence[Mapping[Any, Any]]) -> list[dict[Any, Any]]:
    """Return the layer of each type and flow where the mean relative change is lowest, with how many are significant.

    Args:
        flows: Rows as of `relative_changes`, with `type`.
    """
    curves: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    for row in flows:
        if row["change"] == row["change"]:
            curves.setdefault((row["type"], row["flow"]), []).append(row)
    return [
        {
            **min(own, key=lambda row: row["change"]),
            "layers": len(own),
            "layers_significant": sum(row["q"] <= FLOW_ALPHA for row in own),
        }
        for own in curves.values()
    ]


def _lines(lowest: Sequence[Mapping[Any, Any]]) -> list[str]:
    """The deepest layer of each flow, by type: the paper's number, then our test."""
    lines = ["mean relative change of the answer's probability, at the layer where it is lowest (tables/deepest.csv):"]
    for kind in dict.fromkeys(row["type"] for row in lowest):
        own = [row for row in lowest if row["type"] == kind]
        lines.append(f"  {kind}, {max(row['questions'] for row in own)} questions")
        for row in own:
            tested = f"q <= {FLOW_ALPHA:g} in {row['layers_significant']} of {row['layers']} layers"
            ours = tested if row["q"] == row["q"] else f"not tested, {row['clusters']} clusters"
            change = percent_between(row["change"], row["low"], row["high"])
            lines.append(f"    {row['flow']}: layer {row['layer']}, {change}; {ours}")
    return [*lines, "", "all layers, to lay beside the paper's curves: tables/flows.csv"]


CROSS_MODAL_FLOW = Preset(
    name="cross-modal-flow",
    title="flows between image, question and answer on GQA: attention knocked out in windows of nine layers",
    paper="https://arxiv.org/abs/2411.18620",
    model="llava-hf/llava-1.5-13b-hf",
    pairs=1_000,
    layout=f"GQA's pictures by id in images, and the authors' tables, one for each of {', '.join(GQA_TYPES)} (such as "
    "datasets/GQA_val_correct_question_with_choose_ChooseAttr.csv), or GQA's val_balanced_questions.json, with "
    "val_sceneGraphs.json for boxes",
    role="last",
    metric="answer_prob",
    paper_rule="mean over questions of the relative change of the answer's probability, window of "
    f"{WINDOW} layers, read off the curves over layers",
    rule=f"sign flips of the change of the probability, false discoveries over flows and layers at most {FLOW_ALPHA:g}",
    differences=(
        "Flows, window, prompts, tables and the number are those of the authors' published code; its plots were not "
        "laid beside ours.",
        "The checkpoint is Hugging Face's version, with its own chat template and its own way to crop or pad pictures; "
        "the authors run LLaVA's own code.",
        "A question counts where the model's answer begins with the right one, with or without a capital letter; the "
        "authors compare the whole answer in lower case.",
        "Probabilities are of all tokens of the answer; the authors take the first one.",
        "Questions are drawn where there are more than --pairs says; the authors take all of their tables.",
        "A patch belongs to the things asked about where their boxes cover half of it or more; in the authors' code "
        "one pixel is enough. Padding belongs to neither.",
        "With GQA's own questions, options are read from the program of the question, and boxes are those of the "
        "objects that the scene graph points the question's words to.",
        "A pair needs a second picture and a foil, which the design has not: the picture's mean colour, and the other "
        "option or another frequent answer. No number here uses them.",
        "Questions that share a picture are one piece of evidence; the test and the intervals are ours.",
    ),
    read=read_questions,
    carry_out=carry_out_flows,
)
