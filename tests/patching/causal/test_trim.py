"""Positions at which a patch changes nothing are dropped, and only these."""

import numpy as np
import pytest

from hosted_pairs import made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import patching
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.plan import DecoderEdit
from notice_lens.patching.engine.causal.record import record
from notice_lens.patching.engine.causal.trim import Trim, trimmed
from notice_lens.patching.engine.causal.wave import CausalWave

pytestmark = LIBRARY_WARNINGS


def runs(family: str):
    """The corrupted and the clean run of a pair of questions, and the first position at which they differ."""
    model = tiny_model(family).model
    pair = made_pairs(single_tokens(model))[1]
    decoder = Decoder.of(model)
    inputs = [model.prepare(pair.clean_image, prompt) for prompt in (pair.corrupt_prompt, pair.clean_prompt)]
    ids = [own["input_ids"][0] for own in inputs]
    first = int((ids[0] != ids[1]).nonzero()[0, 0])
    base, other = (record(decoder, own, ("hook_z", "hook_q")) for own in inputs)
    return base, other, first


@pytest.mark.parametrize("leaf", ["hook_z", "hook_q", "hook_resid_pre"])
def test_what_lies_in_front_of_the_first_word_that_differs_is_dropped(leaf: str) -> None:
    base, other, first = runs("llava")
    everywhere = tuple(range(base.length))
    (found,) = trimmed(base, [(DecoderEdit(leaf, 1, everywhere, None),)], {"other": other})
    assert found[0].positions == tuple(range(first, base.length))
    (nothing,) = trimmed(base, [(DecoderEdit(leaf, 1, tuple(range(first)), None),)], {"other": other})
    assert nothing[0].positions == ()
    wave = CausalWave(base, [(DecoderEdit(leaf, 1, tuple(range(first)), None),)], {"other": other}, 2**20)
    assert (wave.readouts()[0] == base.out[-1][list(base.readouts)]).all()


def test_a_position_that_an_earlier_edit_reaches_is_kept() -> None:
    """The new value there is the base run's, and takes back what the earlier edit did."""
    base, other, first = runs("llava")
    early = DecoderEdit("hook_z", 0, (2,), 0, "zero")
    late = DecoderEdit("hook_z", 2, (1, 2, 3, first), 0)
    (found,) = trimmed(base, [(late, early)], {"other": other})
    assert [edit.positions for edit in found] == [(2,), (2, 3, first)]
    alone = Trim(base, {"other": other}).variant((late,))
    assert [edit.positions for edit in alone] == [(first,)]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "paligemma"])
def test_effects_are_those_of_untrimmed_patches(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    asked = {
        "all heads": [patching.Edit("language.attn.z", layer, head) for layer in (0, 1, 2) for head in range(4)],
        "some": [patching.Edit("language.attn.z", 0, 1, positions=["image"]), patching.Edit("language.mlp_out", 1)],
    }
    quiet = {"corruption": "text", "progress": False}
    found = (
        patching.run_variants(model, pairs, asked, **quiet),
        patching.patch_heads(model, pairs, positions="all", **quiet),
    )
    path = "notice_lens.patching.engine.causal.wave.trimmed"
    monkeypatch.setattr(path, lambda base, variants, sources: list(variants))
    whole = (
        patching.run_variants(model, pairs, asked, **quiet),
        patching.patch_heads(model, pairs, positions="all", **quiet),
    )
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(one.logit_diff_change, other.logit_diff_change, atol=1e-12)
        np.testing.assert_allclose(one.logit_diff_change_mismatched, other.logit_diff_change_mismatched, atol=1e-12)


def test_patches_of_the_run_itself_are_carried_out() -> None:
    """They measure the noise floor: what the engine's own rounding moves."""
    base, _, _ = runs("llava")
    asked = (DecoderEdit("hook_z", 1, tuple(range(base.length)), 0, "self"),)
    assert trimmed(base, [asked], {"self": base}) == [asked]
    model = tiny_model("llava").model
    effects = patching.patch_heads(model, made_pairs(single_tokens(model)), positions="all", progress=False)
    assert (effects.noise_floor > 0).any()
