"""Cross-modal flow on made-up folders of GQA: knock-outs against plain hooks, tests on planted numbers, the command."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

import tiny_vlms
from notice_lens import HookedVLM
from notice_lens.cli.commands import main
from notice_lens.study.presets import PRESETS, PresetRun
from notice_lens.study.presets import cross_modal_flow as preset
from notice_lens.study.presets.preset import Settings
from preset_folders import gqa_json, gqa_tables, tiny_llava, tokenizer

SETTINGS = Settings(filtered=False, progress=False)
IMAGE_TOKENS = 16


def groups(model, pair) -> dict[str, list[int]]:
    """Positions of the prompt's parts, found apart from the library: image tokens, words up to the question mark."""
    ids = model.prepare(pair.clean_image, pair.clean_prompt)["input_ids"][0].tolist()
    words = model.tokenizer
    image = [at for at, one in enumerate(ids) if one == words.convert_tokens_to_ids("<image>")]
    text = pair.clean_prompt.partition("?")[0] + "?"
    start = next(at for at in range(image[-1] + 1, len(ids)) if words.decode(ids[at : at + 1]).strip())
    end = next(at for at in range(start, len(ids)) if words.decode(ids[start : at + 1]).strip() == text) + 1
    # The box is the left half, rows 7 to 21 of 28, and the grid is 4 x 4.
    box = [image[4 * row + column] for row in (1, 2) for column in (0, 1)]
    return {
        "question": list(range(start, end)), "image": image, "last": [len(ids) - 1], "object": box,
        "rest of the image": [one for one in image if one not in box],
    }  # fmt: skip


def test_every_flow_is_a_forward_pass_with_those_scores_at_minus_infinity(tmp_path):
    """In float64, all six flows; the window of nine holds all three layers."""
    hf, processor = tiny_vlms.make(tiny_vlms.llava(tokenizer()))
    model = HookedVLM.from_hf(hf.double(), processor)
    tasks = preset.read_questions(gqa_tables(tmp_path / "data"), model, SETTINGS)
    assert list(tasks) == ["ChooseAttr", "LogicalObj", "QueryAttr"]
    run = PresetRun(
        PRESETS["cross-modal-flow"], model, {"QueryAttr": tasks["QueryAttr"]}, tmp_path, SETTINGS, lambda text: None
    )
    table = preset.carry_out_flows(run).tables["flows"].set_index(["flow", "layer"])
    pairs = tasks["QueryAttr"]
    assert len(groups(model, pairs[0])["image"]) == IMAGE_TOKENS
    for flow in preset.SIX_FLOWS:
        looked_at, looks = flow.split(" -> ")
        changes = []
        for number in range(len(pairs) - 1 if looked_at in ("object", "rest of the image") else len(pairs)):
            pair = pairs[number]
            where = groups(model, pair)
            token = model.answer_ids(pair.clean_prompt, pair.correct_answer)[0]

            def cut(scores, hook, rows=where[looks], columns=where[looked_at]):
                scores[:, :, torch.tensor(rows)[:, None], torch.tensor(columns)] = -torch.inf
                return scores

            inputs = model.prepare(pair.clean_image, pair.clean_prompt)
            hooks = [(f"language.blocks.{layer}.attn.hook_attn_scores", cut) for layer in range(3)]
            with torch.no_grad():
                base, after = (
                    float(logits[0, -1].softmax(-1)[token])
                    for logits in (model(inputs), model.run_with_hooks(inputs, fwd_hooks=hooks))
                )
            changes.append((after - base) / base)
        own = table.loc[flow]
        assert own["questions"].tolist() == [len(changes)] * 3
        np.testing.assert_allclose(own["change"], np.mean(changes), rtol=1e-6)


def planted(n_pairs: int = 40) -> xr.Dataset:
    """Base probabilities of 0.2 to 0.8; the first flow takes half of them in layer 1, nothing else does anything."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.8, n_pairs)
    after = base[:, None, None] * (1 + rng.normal(0, 0.02, (n_pairs, 2, 3)))
    after[:, 0, 1] = base / 2
    after[:4, 1] = np.nan
    digests = {f"{which}_digest": ("pair", [f"{which}{n}" for n in range(n_pairs)]) for which in ("clean", "corrupt")}
    return xr.Dataset(
        {"answer_prob": (("pair", "flow", "layer"), after), "answer_prob_clean": ("pair", base)},
        {"pair": range(n_pairs), "flow": ["a -> b", "c -> b"], "layer": [0, 1, 2], **digests},
    )


def test_a_planted_flow_is_found_and_no_other():
    table = preset.relative_changes(planted())
    found = table[table["significant"]]
    assert found[["flow", "layer"]].to_numpy().tolist() == [["a -> b", 1]]
    assert found["change"].item() == pytest.approx(-0.5)
    assert found["change_of_sums"].item() == pytest.approx(-0.5)
    assert table["questions"].tolist() == [40] * 3 + [36] * 3
    [one, other] = preset.deepest(table.assign(type="t").to_dict("records"))
    assert (one["layer"], one["layers_significant"], one["layers"]) == (1, 1, 3)
    assert other["layers_significant"] == 0


def test_few_questions_are_not_tested():
    table = preset.relative_changes(planted(16))
    assert table["q"].notna().tolist() == [True] * 3 + [False] * 3, "12 of 16 have the second flow"
    assert table["significant"].isna().tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("layout", [gqa_tables, gqa_json])
def test_the_command_runs_on_either_layout(layout, tmp_path):
    data, model, out = layout(tmp_path / "data"), tiny_llava(tmp_path / "model"), tmp_path / "out"
    command = ["replicate", "cross-modal-flow", "--data", str(data), "--model", str(model), "--out", str(out)]
    result = CliRunner().invoke(main, [*command, "--unfiltered", "--quiet"])
    assert result.exit_code == 0, result.output
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert (plan["metric"], list(plan["pairs"])) == ("answer_prob", ["ChooseAttr", "LogicalObj", "QueryAttr"])
    flows = pd.read_csv(out / "tables" / "flows.csv")
    assert set(flows.flow) == set(preset.SIX_FLOWS)
    assert len(flows) == 3 * 6 * 3
    assert (flows.low <= flows.change).all()
    assert (flows.change <= flows.high).all()
    deepest = pd.read_csv(out / "tables" / "deepest.csv")
    assert len(deepest) == 18
    for row in deepest.itertuples():
        own = flows[(flows.type == row.type) & (flows.flow == row.flow)]
        assert row.change == own.change.min()
    assert "image -> last: layer " in result.stdout
    assert "not tested, 4 clusters" in result.stdout
    for difference in PRESETS["cross-modal-flow"].differences:
        assert difference in result.stdout
    before = (out / "tables" / "flows.csv").read_text()
    assert CliRunner().invoke(main, [*command, "--unfiltered", "--quiet"]).exit_code == 0
    assert (out / "tables" / "flows.csv").read_text() == before
    other = CliRunner().invoke(main, [*command, "--unfiltered", "--quiet", "--pairs", "3"])
    assert other.exit_code == 1
    assert "is of another plan: pairs differ" in other.stderr


def test_a_type_without_boxes_has_the_flows_that_need_none(tmp_path):
    data = gqa_json(tmp_path / "data")
    (data / "val_sceneGraphs.json").unlink()
    model, out = tiny_llava(tmp_path / "model"), tmp_path / "out"
    command = ["replicate", "cross-modal-flow", "--data", str(data), "--model", str(model), "--out", str(out)]
    result = CliRunner().invoke(main, [*command, "--unfiltered", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "no boxes, so without object -> question and rest of the image -> question" in result.stderr
    assert len(set(pd.read_csv(out / "tables" / "flows.csv").flow)) == 4


def test_questions_that_the_model_answers_otherwise_are_dropped(tmp_path, monkeypatch):
    hf, processor = tiny_vlms.make(tiny_vlms.llava(tokenizer()))
    model = HookedVLM.from_hf(hf, processor)
    folder = gqa_tables(tmp_path)

    def right_but_one(inputs, most):
        return [model.answer_ids("", word) for word in ("Right", "left", "left", "Left")]

    monkeypatch.setattr(model, "greedy_ids", right_but_one)
    kept = preset.read_questions(folder, model, Settings(progress=False))
    assert list(kept) == ["QueryAttr"], "the other types have less than two right answers"
    assert kept["QueryAttr"]["correct_answer"] == ["Right", "left", "Left"]
    assert kept["QueryAttr"].manifest.dropped == {preset.WRONG: 1}
    monkeypatch.setattr(model, "greedy_ids", lambda inputs, most: [[7]] * len(inputs["input_ids"]))
    with pytest.raises(ValueError, match=r"no type has two questions left: ChooseAttr, 0 of 4 left"):
        preset.read_questions(folder, model, Settings(progress=False))
