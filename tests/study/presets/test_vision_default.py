"""Vision-default on made-up files of Visual CounterFact: the scores of heads and knock-outs against plain hooks."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import tiny_vlms
from notice_lens import HookedVLM
from notice_lens.cli.commands import main
from notice_lens.patching import run_variants
from notice_lens.study.presets import PRESETS, PresetRun
from notice_lens.study.presets import vision_default as preset
from notice_lens.study.presets.preset import Settings
from preset_folders import counterfact_folder, tiny_llava, tokenizer

SETTINGS = Settings(pairs=6, filtered=False, progress=False)


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A tiny LLaVA in float64, its pairs, and the tables; of twelve heads some lie one standard deviation out."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preset, "COMPONENT_SIGMAS", 1.0)
        return run_tiny(tmp_path_factory)


def run_tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("vision-default")
    hf, processor = tiny_vlms.make(tiny_vlms.llava(tokenizer()))
    model = HookedVLM.from_hf(hf.double(), processor)
    tasks = preset.read_color_pairs(counterfact_folder(root / "data"), model, SETTINGS)
    said: list[str] = []
    run = PresetRun(PRESETS["vision-default"], model, tasks, root / "out", SETTINGS, said.append)
    return model, tasks["color"], preset.carry_out_knockouts(run), run


def margin(model, pair, logits):
    """Logit of the known colour minus that of the shown one, at the last position."""
    known, shown = (
        model.answer_ids(pair.clean_prompt, answer)[0] for answer in (pair.correct_answer, pair.incorrect_answer)
    )
    return float(logits[0, -1, known] - logits[0, -1, shown])


def runs_of(model, pair):
    """The inputs of the prior and the visual run: one picture, two questions."""
    return [model.prepare(pair.clean_image, question) for question in (pair.clean_prompt, pair.corrupt_prompt)]


def with_head(model, inputs, layer, head, value):
    """Logits with one head's output at the last position replaced, by a plain hook."""

    def replace(z, hook):
        z[:, -1, head] = value
        return z

    return model.run_with_hooks(inputs, fwd_hooks=[(f"language.blocks.{layer}.attn.hook_z", replace)])


def test_scores_are_those_of_a_forward_pass_for_each_patch(carried_out):
    """Every head, both directions, every pair: the mean over pairs of the share of the gap, and the paper's rule."""
    model, pairs, outcome, _ = carried_out
    scores = np.zeros((2, 12, len(pairs)))
    for number in range(len(pairs)):
        pair = pairs[number]
        prior, visual = runs_of(model, pair)
        caches = [model.run_with_cache(inputs) for inputs in (prior, visual)]
        gaps = [margin(model, pair, logits) for logits, _ in caches]
        for place in range(12):
            layer, head = divmod(place, 4)
            z_prior, z_visual = (cache[f"language.blocks.{layer}.attn.hook_z"][0, -1, head] for _, cache in caches)
            p2v = margin(model, pair, with_head(model, visual, layer, head, z_prior))
            v2p = margin(model, pair, with_head(model, prior, layer, head, z_visual))
            scores[0, place, number] = (p2v - gaps[1]) / (gaps[0] - gaps[1])
            scores[1, place, number] = (v2p - gaps[0]) / (gaps[1] - gaps[0])
    table = outcome.tables["heads"]
    means = scores.mean(-1)
    np.testing.assert_allclose(table["p2v"], means[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["v2p"], means[1], rtol=1e-4, atol=1e-6)
    # The first component by the covariance's eigenvectors, as a second way to it.
    axis = np.linalg.eigh(np.cov(means))[1][:, -1]
    component = (means - means.mean(1, keepdims=True)).T @ (axis if axis.sum() > 0 else -axis)
    np.testing.assert_allclose(table["component"], component, rtol=1e-4, atol=1e-6)
    far = component.std()
    expected = ["promoting" if one > far else "suppressing" if one < -far else "" for one in component]
    assert table["chosen"].tolist() == expected
    assert any(expected)


def test_knock_outs_are_those_of_plain_hooks(carried_out):
    """Flips and margins of each set, in both runs, with the heads' outputs zero at the last token alone."""
    model, pairs, outcome, _ = carried_out
    rows = outcome.tables["knockouts"].to_dict("records")
    assert {row["run"] for row in rows} == {"prior", "visual"}
    for row in rows:
        heads = [tuple(map(int, one[1:].split(".H"))) for one in row["heads"].split()]
        after = []
        for number in range(len(pairs)):
            inputs = runs_of(model, pairs[number])[row["run"] == "visual"]

            def zeroed(head):
                def zero(z, hook):
                    z[:, -1, head] = 0
                    return z

                return zero

            hooks = [(f"language.blocks.{layer}.attn.hook_z", zeroed(head)) for layer, head in heads]
            after.append(margin(model, pairs[number], model.run_with_hooks(inputs, fwd_hooks=hooks)))
        own = np.array(after) if row["run"] == "prior" else -np.array(after)
        assert row["flipped"] == int((own < 0).sum())
        assert row["rate"] == pytest.approx((own < 0).mean())
        assert row["low"] <= row["rate"] <= row["high"]
        assert row["margin_after"] == pytest.approx(own.mean(), rel=1e-4, abs=1e-6)


def test_planted_heads_are_chosen_by_the_first_component():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.01, (60, 2))
    points[7], points[31], points[50] = (0.5, 0.6), (0.4, 0.5), (-0.5, -0.4)
    component, chosen = preset.component_rule(points)
    assert np.flatnonzero(chosen == "promoting").tolist() == [7, 31]
    assert np.flatnonzero(chosen == "suppressing").tolist() == [50]
    assert component.mean() == pytest.approx(0, abs=1e-12)
    mirrored = preset.component_rule(-points)[1]
    assert np.flatnonzero(mirrored == "promoting").tolist() == [50]


def test_sets_are_disjoint_and_random_heads_lie_in_the_same_layers():
    chosen = [""] * 12
    chosen[1] = chosen[5] = chosen[6] = "promoting"
    chosen[11] = "suppressing"
    heads = pd.DataFrame({
        "layer": np.repeat(range(3), 4), "head": np.tile(range(4), 3), "chosen": chosen,
        "effect_p2v": [0.1] * 8 + [-0.1] * 4,
        "significant": pd.array([None, True] + [False] * 8 + [True] * 2, "boolean"),
    })  # fmt: skip
    sets = preset.chosen_sets(heads)
    assert sets["promoting"] == [(0, 1), (1, 1), (1, 2)]
    assert sets["significant"] == [(0, 1)], "a head that argues against the answer does not count"
    assert sorted(layer for layer, _ in sets["random"]) == [0, 1, 1]
    assert not {*sets["random"]} & {*sets["promoting"], *sets["suppressing"]}
    assert list(sets)[4:] == ["L0.H1", "L1.H1", "L1.H2", "L2.H3"]


def test_ties_are_the_priors_answer_in_either_run(carried_out):
    """As the authors count: the visual answer is predicted only where its logit is the larger one."""
    model, pairs, _, _ = carried_out
    lost = run_variants(
        model, pairs[:2], {"set": preset.knocked_out(model, [(0, 0)])}, corruption="text", direction="denoise",
        metrics=["logit_diff_change"], controls=(), progress=False,
    )  # fmt: skip
    for question, flipped in (("prior", 0), ("visual", 2)):
        run, base = preset.BASE_RUNS[question]
        tie = lost.assign(logit_diff_change=-lost[f"logit_diff_{base}"].expand_dims(variant=lost.variant, axis=1))
        assert preset.flips(tie, question, {"set": [(0, 0)]})[0]["flipped"] == flipped, run


def test_pairs_are_kept_in_the_models_words_where_both_runs_answer_as_expected(tmp_path, monkeypatch):
    hf, processor = tiny_vlms.make(tiny_vlms.llava(tokenizer()))
    model = HookedVLM.from_hf(hf, processor)
    folder = counterfact_folder(tmp_path)
    every = preset.read_color_pairs(folder, model, Settings(filtered=False, progress=False))["color"]
    asked = every["clean_prompt"][0]
    said = [[one.capitalize() for one in every["correct_answer"]], list(every["incorrect_answer"])]
    said[0][3], said[1][5] = "yellow", "yellow"  # what neither of these two pairs expects
    replies = iter([[model.answer_ids(asked, word) for word in own] for own in said])
    monkeypatch.setattr(model, "greedy_ids", lambda inputs, most: next(replies))
    kept = preset.read_color_pairs(folder, model, Settings(progress=False))["color"]
    assert len(kept) == len(every) - 2
    assert kept.manifest.dropped == {preset.NOT_PRIOR: 1, preset.NOT_VISUAL: 1}
    assert all(one[0].isupper() for one in kept["correct_answer"])
    assert kept["corrupt_answer"] == kept["incorrect_answer"]


def test_the_command_resumes_and_prints_the_papers_rule_beside_ours(tmp_path, monkeypatch):
    """Stopped in the second direction, the same command goes on; whole or in two parts the tables are the same."""
    data, model = counterfact_folder(tmp_path / "data"), tiny_llava(tmp_path / "model")
    command = ["replicate", "vision-default", "--data", str(data), "--model", str(model), "--unfiltered", "--quiet"]
    command += ["--pairs", "6"]
    monkeypatch.setattr(preset, "COMPONENT_SIGMAS", 1.0)
    once = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "once")])
    assert once.exit_code == 0, once.output

    def stopped(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("notice_lens.patching.run_variants", stopped)
        cut = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "twice")])
    assert cut.exit_code == 130
    assert {path.name for path in (tmp_path / "twice" / "conditions").iterdir()} == {
        f"{name}.zarr" for name in preset.DIRECTIONS_OF
    }
    assert "the same command resumes" in cut.stderr
    again = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "twice"), "--json"])
    found = json.loads(again.stdout)
    assert found["plan"]["preset"] == "vision-default"
    assert [row["set"] for row in found["tables"]["knockouts"]]
    for name in ("heads", "knockouts"):
        first, second = ((tmp_path / out / "tables" / f"{name}.csv").read_text() for out in ("once", "twice"))
        assert first == second
    plan = json.loads((tmp_path / "once" / "plan.json").read_text(encoding="utf-8"))
    assert plan["role"] == "last"
    said = once.stdout
    assert said.index("fixed before it runs") < said.index("the paper's rule, first component") < said.index("our rule")
    assert f"(the paper: {preset.PAPER_SHARE})" in said
    assert f"(the paper: {preset.PAPER_FLIPS['prior']})" in said
    for difference in PRESETS["vision-default"].differences:
        assert difference in said


def test_it_runs_on_the_family_of_its_own_checkpoint(tmp_path):
    model = tiny_vlms.write(tiny_vlms.qwen2_5_vl(tokenizer(tiny_vlms.QWEN_MARKS, {})), tmp_path / "model")
    command = [
        "replicate",
        "vision-default",
        "--data",
        str(counterfact_folder(tmp_path / "data")),
        "--model",
        str(model),
    ]
    command += ["--out", str(tmp_path / "out"), "--pairs", "3", "--unfiltered", "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "heads.csv")) == 12


def test_a_model_that_answers_otherwise_leaves_nothing_and_says_why(tmp_path):
    data, model = counterfact_folder(tmp_path / "data"), tiny_llava(tmp_path / "model")
    command = ["replicate", "vision-default", "--data", str(data), "--model", str(model), "--quiet"]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert (
        "of 12 pairs are left, and 2 are needed at least; dropped are no known colour in the prior run" in result.stderr
    )
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
