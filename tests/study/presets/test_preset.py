"""What is common to all presets: the list, wrong names and missing options, plans, the spelling of answers."""

import json

import pytest
from click.testing import CliRunner

import tiny_vlms
from notice_lens import HookedVLM
from notice_lens.cli.commands import main
from notice_lens.pairs.builders.visual_counterfact import visual_counterfact
from notice_lens.study.presets import PRESETS
from notice_lens.study.presets.preset import percent_between
from notice_lens.study.presets.spoken import spellings, spoken
from notice_lens.viz.selection import MINUS
from preset_folders import counterfact_folder, tokenizer


def ran(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["replicate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_without_a_name_the_presets_are_listed_with_what_they_need():
    said = ran()
    for preset in PRESETS.values():
        for text in (f"{preset.name}: {preset.title}", preset.paper, preset.model, preset.layout):
            assert text in said


def test_a_wrong_name_and_missing_options_are_named(tmp_path):
    assert "no preset 'notice-lava'; did you mean 'notice-llava'?" in ran("notice-lava", code=1)
    for options in ((), ("--data", tmp_path), ("--out", tmp_path / "out")):
        said = ran("vision-default", *options, code=1)
        assert "vision-default needs --data and --out; --data holds the data set mgolov/Visual-Counterfact" in said
    assert "lies in" in ran("vision-default", "--data", tmp_path, "--out", tmp_path / "out", code=1)


def test_presets_are_data_that_can_be_printed():
    """Names are those of their keys; all that a plan has is plain values."""
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert json.loads(json.dumps([preset.heads, preset.differences, preset.rule, preset.paper_rule]))
        assert preset.paper.startswith("https://arxiv.org/abs/")
        assert all(one.endswith(".") for one in preset.differences)


def test_shares_are_printed_in_percent_with_their_interval():
    assert percent_between(-0.0512, -0.2, 0.01) == "-5.1 % [-20.0, 1.0]".replace("-", MINUS)


def test_answers_are_taken_in_the_spelling_that_the_model_says(tmp_path, monkeypatch):
    hf, processor = tiny_vlms.make(tiny_vlms.llava(tokenizer()))
    model = HookedVLM.from_hf(hf, processor)
    pairs = visual_counterfact(counterfact_folder(tmp_path), n=4)
    assert spellings(["red", "blue", "red"]) == ["red", "Red", "blue", "Blue"]
    said = ["Red", "blue", "green", "red"]
    ids = [model.answer_ids(pairs["clean_prompt"][0], word) for word in said]
    assert len({tuple(own) for own in ids}) == 4, "a capital letter is another token"
    seen = []

    def greedy(inputs, most):
        seen.append((len(inputs["input_ids"]), most))
        return [[*own, 7] for own in ids]

    monkeypatch.setattr(model, "greedy_ids", greedy)
    candidates = [spellings(["red", "blue"])] * 4
    assert spoken(model, pairs, candidates, progress=False) == ["Red", "blue", None, "red"]
    assert seen == [(4, max(len(model.answer_ids(pairs["clean_prompt"][0], one)) for one in candidates[0]))]


@pytest.mark.parametrize("name", ["vision-default", "cross-modal-flow"])
def test_models_that_do_not_fit_are_refused_before_the_data_are_read(name, tmp_path):
    said = ran(name, "--data", tmp_path, "--model", "mini", "--out", tmp_path.parent / f"{name}-out", code=1)
    assert f"{name} needs a" in said
