"""NOTICE on BLIP and on LLaVA: what is fixed before, the heads that the paper names, the raw data sets end to end."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

import made_results as made
from notice_lens.cli.commands import main
from notice_lens.models.blip.random_blip import save_random_checkpoint
from notice_lens.study.presets import PRESETS
from notice_lens.study.presets.notice import BLIP_HEADS, LLAVA_HEADS, paper_heads, read_raw
from notice_lens.study.presets.preset import Settings, fix
from picture_folders import folders
from preset_folders import STATES, tiny_llava
from study_raw import raw_folder


def test_the_heads_that_the_paper_names_are_looked_up():
    conditions = {"a": made.important(12, 12), "b": made.important(3, 12, seed=1)}
    table = paper_heads(conditions, BLIP_HEADS).set_index(["head", "condition"])
    assert list(dict.fromkeys(head for head, _ in table.index)) == ["L5.H3", "L3.H0", "L0.H11"]
    for name, layer, head in (("L5.H3", 5, 3), ("L3.H0", 3, 0), ("L0.H11", 0, 11)):
        one, row = conditions["a"].sel(layer=layer, head=head), table.loc[name, "a"]
        assert row[["effect", "low", "high", "q"]].tolist() == [
            float(one[key]) for key in ("effect", "low", "high", "q")
        ]
        assert (row["rank"], row["heads"], bool(row["significant"])) == (int(one["rank"]), 144, bool(one.significant))
    assert table.xs("b", level="condition").there.to_dict() == {"L5.H3": False, "L3.H0": False, "L0.H11": True}
    assert pd.isna(table.loc["L5.H3", "b"]["rank"])


def test_a_plan_is_not_changed_once_it_was_fixed(tmp_path):
    first = {"role": "correct", "metric": "logit_diff_change"}
    path = fix(first, tmp_path)
    before = path.read_text()
    assert fix(first, tmp_path).read_text() == before
    with pytest.raises(ValueError, match=r"is of another plan: role differ"):
        fix({**first, "role": "noun"}, tmp_path)
    assert path.read_text() == before


def test_data_sets_that_are_not_there(tmp_path):
    """The message says what was expected, and where."""
    with pytest.raises(
        FileNotFoundError, match=r"holds none of the data sets: expected svo_probes\.csv with the folder"
    ):
        read_raw(tmp_path, None, Settings())  # pyright: ignore[reportArgumentType]
    (tmp_path / "svo_probes.csv").write_text("sentence\n")
    with pytest.raises(FileNotFoundError, match=r"svo_probes\.csv has no pictures: expected them by id in .*images"):
        read_raw(tmp_path, None, Settings())  # pyright: ignore[reportArgumentType]


@pytest.mark.large
def test_from_the_raw_data_sets_to_the_papers_heads(tmp_path):
    """A random model of four layers of six heads: it has L3.H0, and neither of the others."""
    model, images = save_random_checkpoint(tmp_path / "model"), raw_folder(tmp_path / "raw")
    command = ["replicate", "notice-blip", "--data", str(images), "--model", str(model)]
    command += ["--pairs", "4", "--unfiltered", "--quiet"]
    out = tmp_path / "out"
    result = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    said = result.stdout
    assert said.index("fixed before it runs") < said.index("both rules, by condition:")
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert (plan["role"], plan["metric"]) == ("correct", "logit_diff_change")
    assert set(plan["pairs"]) == {"SVO-Probes", "MIT-States", "faces"}
    for difference in PRESETS["notice-blip"].differences:
        assert difference in said
    assert "this model has no L5.H3, L0.H11" in said
    assert "L3.H0 in MIT-States, text: rank " in said
    table = pd.read_csv(out / "tables" / "paper_heads.csv")
    assert set(table.condition) == set(pd.read_csv(out / "tables" / "heads.csv").condition)
    check_the_papers_numbers(out, said)
    assert table.groupby("head").there.all().to_dict() == {"L0.H11": False, "L3.H0": True, "L5.H3": False}
    wrong = CliRunner().invoke(main, [*command, "--out", str(out), "--seed", "1"])
    assert wrong.exit_code == 1
    assert "is of another plan" in wrong.stderr


def check_the_papers_numbers(out, said):
    """Heads by the paper's rule and modules by layer, for each condition and for Gaussian noise, beside ours."""
    heads, modules = (pd.read_csv(out / "tables" / f"{name}.csv") for name in ("paper_rule", "modules"))
    conditions = {"SVO-Probes, image", "MIT-States, image", "MIT-States, noise", "faces, noise"}
    assert conditions <= set(heads.condition)
    assert set(heads.condition) == set(modules.condition)
    assert set(pd.read_csv(out / "tables" / "heads.csv").condition) == {
        own for own in heads.condition if "noise" not in own
    }
    for name, own in heads.groupby("condition"):
        assert len(own) == 24
        threshold = own.magnitude.mean() + 2 * own.magnitude.std(ddof=0)
        assert own.selected.tolist() == (own.magnitude >= threshold).tolist()
        assert own.effect.isna().all() == ("noise" in name)
        for row in own[own.selected].itertuples():
            assert f"L{row.layer}.H{row.head} {row.magnitude:.4f} [{row.low:.4f}, {row.high:.4f}]" in said
    kinds = {"text.hook_attn_out", "text.hook_cross_attn_out", "text.hook_mlp_out"}
    for _, own in modules.groupby("condition"):
        assert kinds <= set(own.site)
        assert set(own.layer) == {0, 1, 2, 3}
    assert (modules.low <= modules.magnitude).all()
    assert "the paper's own rule, mean |change of the answer's probability|" in said
    assert "the same of modules" in said


def test_llava_is_read_at_the_end_of_the_prompt(tmp_path):
    """On MIT-States alone; a tiny model has none of the paper's heads, and its own are at `last`."""
    states = {f"{state}_{noun}": 3 for state in STATES for noun in ("box", "car")}
    folders(tmp_path / "raw" / "mit-states", **states)
    model, out = tiny_llava(tmp_path / "model"), tmp_path / "out"
    command = ["replicate", "notice-llava", "--data", str(tmp_path / "raw"), "--model", str(model), "--out", str(out)]
    result = CliRunner().invoke(main, [*command, "--pairs", "4", "--unfiltered", "--quiet"])
    assert result.exit_code == 0, result.output
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert (plan["preset"], plan["role"]) == ("notice-llava", "last")
    assert plan["heads_looked_up"] == [f"L{layer}.H{head}" for layer, head in LLAVA_HEADS]
    assert "this model has no L28.H2, L31.H27, L18.H10, L16.H24, L21.H30, L19.H15, L18.H30" in result.stdout
    heads, modules = (pd.read_csv(out / "tables" / f"{name}.csv") for name in ("paper_rule", "modules"))
    assert set(heads.condition) == set(modules.condition)
    assert len(heads[heads.condition == "MIT-States, text"]) == 12
    assert set(modules.site) == {"language.hook_attn_out", "language.hook_mlp_out", "language.hook_resid_post"}
