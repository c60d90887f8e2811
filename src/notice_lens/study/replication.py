"""A conceptual replication of the method's BLIP experiment (arXiv 2406.16320) with the raw data sets.

1. Pairs are made from the raw downloads, by the rules of `notice_lens.pairs`.
2. The plan is written before anything runs: role, metric, both rules, pairs, and what differs from the paper. Where the
   folder has another plan already, nothing runs: a plan must not change after a look at the results.
3. The study runs over all conditions.
4. Both rules are reported, and the heads that the paper names are looked up: rank, effect, interval and q.
5. The paper's own numbers are reported beside ours: heads by the mean absolute change of the answer's probability and
   its two-sigma rule, effects of attention, cross-attention and MLP by layer, for semantic pairs and Gaussian noise.

It is conceptual: prompts, pairs, positions and tests are not the paper's (`DIFFERENCES`), so that agreement supports
its claim and disagreement does not refute its numbers.

Experimental: tested on made-up downloads and small models only, and may change.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from notice_lens.errors import reading
from notice_lens.files import check_kinds, read_json, replacing
from notice_lens.patching.identity import fingerprint
from notice_lens.study.choices import METRIC, Choices

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.options import Direction
    from notice_lens.study.findings import Study

PAPER_HEADS = ((5, 3), (3, 0), (0, 11))
"""Layer and head of those that the paper calls universal, in the question encoder's cross-attention."""
PLAN = "plan.json"
DIFFERENCES = (
    "Prompts are written by rule from the labels of the data sets; the paper had a paid language model write some.",
    "Pairs are drawn here, seeded and balanced over groups and the order of the options; which ones the paper used is "
    "not published.",
    "Only pairs that the model answers as expected are kept (unless the plan says otherwise), by as many tokens of the "
    "greedy answer as the correct answer has.",
    "Corrupted questions have as many tokens as the clean ones, slot by slot; pairs that have none are dropped.",
    "Positions are repaired: roles are found in the token ids, [CLS] included. In the circulated code tokens are "
    "counted without it, so that each effect is read one word off.",
    "Padding of the question is masked in the decoder's cross-attention; in Hugging Face's code it is not.",
    "Effects are changes of the logit difference as shares of the gap, ratios of sums over pairs; the paper has "
    "probabilities of the correct answer after the patch. Its numbers are in separate tables (paper_rule.csv, "
    "modules.csv), and nothing is tested by them.",
    "Under image corruptions heads are ranked by matched minus mismatched, as a share of what the mismatched picture "
    "leaves of the gap: what a patch from a picture of a third answer restores is not counted.",
    "Pairs that share a picture, a donor's too where it is subtracted, are one piece of evidence, in any number of "
    "steps; the paper counts pairs.",
    "Under text corruptions the contrast is the answer to the corrupted question, since both options were replaced.",
    "Effects are read at one role that was fixed before, the correct answer's word, never at the best of several; all "
    "positions at once are a check.",
    "Beside the two-sigma rule stands a test against a smallest effect of interest with the error rate over heads "
    "controlled; universal heads are partial conjunctions over conditions, not overlaps of lists.",
)


@dataclass(frozen=True)
class RawData:
    """The folders of the raw data sets; None for one that is not used.

    Attributes:
        svo_csv: `svo_probes.csv`.
        svo_images: Its pictures by id.
        mit_states: Folders named by adjective and noun.
        faces: Folders named by emotion.

    Raises:
        ValueError: None is given, or only one of the two of SVO-Probes.
    """

    svo_csv: Path | None = None
    svo_images: Path | None = None
    mit_states: Path | None = None
    faces: Path | None = None

    def __post_init__(self) -> None:
        if (self.svo_csv is None) != (self.svo_images is None):
            raise ValueError("SVO-Probes needs both: its CSV (--svo-csv) and the folder of its pictures (--svo-images)")
        if not any(asdict(self).values()):
            raise ValueError("no data set given: --svo-csv with --svo-images, --mit-states, --faces, one at least")

    @classmethod
    def inside(cls, folder: Path) -> "RawData":
        """Return the data sets that one folder holds: `svo_probes.csv` with `images`, `mit-states` and `faces`.

        Raises:
            ValueError: It holds none.
        """
        at = {"svo_csv": "svo_probes.csv", "svo_images": "images", "mit_states": "mit-states", "faces": "faces"}
        there = {name: folder / inside for name, inside in at.items() if (folder / inside).exists()}
        if not there:
            raise ValueError(f"{folder} holds none of the data sets: expected {', '.join(at.values())} in it")
        return cls(**there)

    def pairs(
        self, model: "VisionLanguageModel", n: int | None, seed: int, progress: bool
    ) -> "dict[str, MinimalPairs]":
        """Return pairs by task.

        Args:
            model: Whose tokenizer counts the tokens of replaced words.
            n: Of each task; None takes all.
            seed: Of the random draws.
            progress: Whether there are bars.

        Raises:
            FileNotFoundError: A folder or file is missing.
            ValueError: A data set is laid out in another way, or gives no pairs.
        """
        from notice_lens.pairs import facial_expressions, mit_states, svo_probes

        options: dict[str, Any] = {"n": n, "seed": seed, "progress": progress}
        tasks = {}
        if self.svo_csv is not None and self.svo_images is not None:
            tasks["SVO-Probes"] = svo_probes(self.svo_csv, self.svo_images, model, **options)
        if self.mit_states is not None:
            tasks["MIT-States"] = mit_states(self.mit_states, model, **options)
        if self.faces is not None:
            tasks["faces"] = facial_expressions(self.faces, model, **options)
        return tasks


def plan(model: "VisionLanguageModel", tasks: "Mapping[str, MinimalPairs]", choices: Choices) -> dict[str, Any]:
    """Return the plan, everything that is fixed before anything runs, as plain values.

    Args:
        model: The model.
        tasks: Pairs by task.
        choices: Of the study.
    """
    cfg = model.stack((choices.site or model.cfg.default_site).partition(".")[0]).cfg
    rules = choices.rules(choices.role, cfg.n_layers * cfg.n_heads)
    return {
        "model": model.cfg.name_or_path,
        "model_fingerprint": fingerprint(model),
        "pairs": {task: {"number": len(pairs), "fingerprint": pairs.fingerprint} for task, pairs in tasks.items()},
        "role": choices.role,
        "metric": METRIC,
        "rule_paper": "mean |patched - base probability| at least mean + 2 standard deviations over heads",
        "rule_two_sigma": "|effect| at least mean + 2 standard deviations over heads",
        "rule_significant": f"|effect| larger than {choices.smallest_effect:g} of what each effect is a share of, "
        f"family-wise error rate over heads at most {choices.alpha:g}, {rules['n_permutations']} sign flips or more",
        "heads_looked_up": [head_name(*head) for head in PAPER_HEADS],
        "choices": asdict(choices) | {"corruptions": list(map(str, choices.corruptions))},
        "differences_from_the_paper": list(DIFFERENCES),
    }


def fix(new: Mapping[str, Any], folder: Path) -> Path:
    """Write the plan, unless the same one is there already, and return its path.

    Raises:
        ValueError: Another plan is there, or the file is not a plan.
        OSError: It cannot be written.
    """
    path = folder / PLAN
    text = json.dumps(new, indent=2, ensure_ascii=False)
    if path.exists():
        before = read_json(path)
        with reading(path):
            check_kinds(before, {})
        other = [name for name in {**before, **new} if before.get(name) != json.loads(text).get(name)]
        if other:
            raise ValueError(
                f"{path} is of another plan: {', '.join(other)} differ. A plan is not changed once it was fixed; "
                "choose another folder for another plan"
            )
        return path
    with replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
    return path


def head_name(layer: int, head: int) -> str:
    """Return a head's name as the paper writes it."""
    return f"L{layer}.H{head}"


def paper_heads(important: "Mapping[str, xr.Dataset]") -> "pd.DataFrame":
    """Return the heads that the paper names, in each condition.

    Args:
        important: What `circuits.important_heads` gave, by condition.

    Returns:
        A row for each head and condition: `rank` (1 is the largest |effect|, of `heads`), `effect`, `low`, `high` (of
        what `share_of` says), `effect_of_gap`, `q`, `pairs`, `clusters`, `two_sigma`, `significant`; a head that the
        model does not have has `there` false, and no numbers.
    """
    import pandas as pd

    rows = []
    for layer, head in PAPER_HEADS:
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
