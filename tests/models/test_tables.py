"""The hooks table and the model's self-tests."""

import pytest
import torch

from conftest import make_pair
from notice_lens.models.blip.random_blip import random_hf
from notice_lens.models.check import check


def test_every_hook_point_is_in_the_table(pair):
    table = pair.model.hooks_table()
    listed = set(table.frame["hook point"])
    for name in pair.model.hook_dict:
        head, _, rest = name.partition(".blocks.")
        assert (f"{head}.blocks.L.{rest.split('.', 1)[1]}" if rest else name) in listed
    assert not table.frame.isna().any().any()
    assert table.frame["Hugging Face"].all(), "each has its place in Hugging Face's modules; describe.py says it"


def test_the_table_prints_well(vqa):
    table = vqa.model.hooks_table()
    line = next(line for line in str(table).splitlines() if line.startswith("text.blocks.L.cross_attn.hook_pattern"))
    assert line.split(maxsplit=1)[1].startswith(
        "[batch, head, query_pos, key_pos] > text_encoder.encoder.layer.L.cross"
    )
    assert "<table" in table._repr_html_()
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "| hook point | shape | Hugging Face | note |"
    assert len(markdown) == len(table) + 2


def test_a_good_model_passes(pair):
    report = pair.model.check()
    assert report.passed, str(report)
    assert str(report).endswith("all checks passed")
    assert report.failures == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_good_model_passes_in_other_precisions(dtype):
    report = make_pair("vqa").model.to(dtype=dtype).check()
    assert report.passed, str(report)


def test_a_model_that_does_not_see_the_image_fails(vqa):
    """Hugging Face's own initialisation: vision weights of 1e-10."""
    pair = make_pair("vqa")
    with torch.no_grad():
        for name, weight in pair.model.vision.named_parameters():
            if "embedding" in name:
                weight.mul_(1e-10)
        pair.model.vision.ln_final.weight.zero_()
    report = pair.model.check()
    assert [failure.name for failure in report.failures] == ["the image changes the answer"]
    assert str(report).endswith("1 of 4 checks failed")


def test_a_broken_softmax_is_named(monkeypatch):
    pair = make_pair("vqa")
    attention = pair.model.text.blocks[2].cross_attn
    monkeypatch.setattr(attention.hook_pattern, "forward", lambda pattern: pattern * 1.1)
    report = pair.model.check()
    assert report.failures[0].where == "text.blocks.2.cross_attn.hook_pattern"
    assert "FAIL  attention rows sum to one" in str(report)


def test_not_a_number_fails():
    pair = make_pair("vqa")
    with torch.no_grad():
        pair.model.head.unembed.bias[3] = float("nan")
    assert not pair.model.check().passed


def test_checks_run_on_what_a_processor_gives(vqa):
    inputs = vqa.inputs(batch=2)
    assert vqa.model.check({"pixel_values": inputs.pixel_values, "input_ids": inputs.input_ids}).passed


def test_a_self_patch_that_changes_something_is_named(monkeypatch):
    """A fault that a self-patch alone shows: as long as somebody looks, attention mixes other values."""
    pair = make_pair("vqa")
    attention = pair.model.decoder.blocks[3].cross_attn
    mix = attention._mix_looked_at
    monkeypatch.setattr(attention, "_mix_looked_at", lambda *args: mix(*args) * 1.01)
    failures = {failure.name: failure.where for failure in pair.model.check().failures}
    where = failures["a self-patch in the first or last layers changes nothing"]
    # What follows the faulty attention in its block carries the same error, so that rounding decides which is largest.
    behind = ("cross_attn.", "hook_cross_attn_out", "hook_resid_mid_cross", "ln2.")
    assert where.startswith(tuple(f"decoder.blocks.3.{name}" for name in behind))


def test_a_check_is_a_few_runs_of_the_model_and_shows_how_far_it_is(vqa, capsys):
    runs = []
    handle = vqa.model.vision.blocks[1].register_forward_hook(lambda *_: runs.append(None))
    assert vqa.model.check().passed
    handle.remove()
    assert len(runs) < 10, "the middle layer has no hook point that is checked, so each run of it is one of the model"
    shown = capsys.readouterr()
    assert "checking hook points" in shown.err
    assert not shown.out
    vqa.model.check(progress=False)
    assert not capsys.readouterr().err


def test_one_image_is_too_few(vqa):
    with pytest.raises(ValueError, match="needs two or more; got 1"):
        check(vqa.model, vqa.inputs())


def test_hugging_faces_own_initialisation_is_replaced():
    vision = random_hf("vqa").vision_model
    assert vision.embeddings.position_embedding.std() > 0.05
