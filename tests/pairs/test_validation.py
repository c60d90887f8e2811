"""Pairs before a model: lengths, first tokens, unknown words, roles, kinds."""

import re

import numpy as np
import pytest
import torch

from notice_lens.pairs import MinimalPairs, PairsError, mini_world
from notice_lens.world import GROUPS
from pair_rows import make_row

BAD = {
    "length": (
        {"corrupt_prompt": "is this apple caramelized or black?"},
        "'is this apple red or green?' has 7 tokens, corrupt_prompt 'is this apple caramelized or black?' 9",
    ),
    "donor's length": ({"donor_prompt": "is this apple?"}, "donor_prompt 'is this apple?' 4"),
    "first token": (
        {"clean_prompt": "what is it?", "corrupt_prompt": ..., "roles": ..., "correct_answer": "fire truck",
         "incorrect_answer": "fire place"},
        "correct_answer 'fire truck' and incorrect_answer 'fire place' both begin with 'fire'",
    ),
    "first token of the corrupt answer": (
        {"corrupt_answer": "red wine"}, "correct_answer 'red' and corrupt_answer 'red wine' both begin with 'red'",
    ),
    "unknown word": (
        {"clean_prompt": "is this ☃ red or green?", "roles": ...}, "'is this ☃ red or green?' has a word that",
    ),
    "unknown answer": (
        {"clean_prompt": "what is it?", "corrupt_prompt": ..., "roles": ..., "correct_answer": "☃"},
        "correct_answer '☃' has",
    ),
    "role": ({"roles": {"noun": (8, 11)}}, "role 'noun', 'app' in 'is this apple red or green?', cuts through a token"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_a_tokenizer_finds(bert, case):
    changes, message = BAD[case]
    pairs = MinimalPairs.from_rows([make_row(0), make_row(1, **changes), make_row(2)])
    with pytest.raises(PairsError, match=re.escape(message)) as caught:
        pairs.validate(bert)
    assert len(caught.value.problems) == 1
    kept = pairs.validate(bert, on_error="drop")
    assert kept["id"] == ["pair-0", "pair-2"]
    assert message in kept.dropped[0]["detail"]
    assert kept.manifest.dropped == {kept.dropped[0]["reason"]: 1}
    assert kept.validate(bert) is kept


def test_a_model_of_another_kind(caption):
    with pytest.raises(PairsError, match="the pair is of kind 'vqa', the model 'caption'"):
        MinimalPairs.from_rows([make_row()]).validate(caption.blip)
    with pytest.raises(TypeError, match="a tokenizer comes from a HookedBLIP, a Hugging Face tokenizer, a hub id or a"):
        MinimalPairs.from_rows([make_row()]).validate(7)


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_the_mini_world_is_what_it_says(mini, task):
    pairs = mini_world(task, 30, seed=5)
    assert pairs.validate(mini) is pairs
    for pair, spans in zip(pairs, pairs.token_spans(mini), strict=True):
        words = mini.tokenizer.convert_ids_to_tokens(mini.tokenizer(pair.clean_prompt)["input_ids"])
        other = mini.tokenizer.convert_ids_to_tokens(mini.tokenizer(pair.corrupt_prompt)["input_ids"])
        assert words[slice(*spans["correct"])] == [pair.correct_answer]
        assert words[slice(*spans["incorrect"])] == [pair.incorrect_answer]
        assert words[slice(*spans["?"])] == other[slice(*spans["?"])] == ["?"]
        assert len(words) == len(other)


def test_regions_become_patches(mini):
    pairs = mini_world("states", 4)
    cells = mini.cfg.image_size // mini.cfg.patch_size
    for of in ("clean", "corrupt"):
        for pair, masks in zip(pairs, pairs.patch_masks(mini, of), strict=True):
            for region, mask in getattr(pair, f"{of}_regions").items():
                by_hand = mask.reshape(cells, 8, cells, 8).mean((1, 3)) >= 0.5
                assert not masks[region][0]
                np.testing.assert_array_equal(masks[region][1:].view(cells, cells).numpy(), by_hand)
    with pytest.raises(ValueError, match="no of 'donor'; "):
        pairs.patch_masks(mini, "donor")


def test_runs_are_prepared(mini):
    pairs = mini_world("states", 3)
    by_hand = mini.prepare([pair.corrupt_image for pair in pairs], pairs["clean_prompt"], pairs["incorrect_answer"])
    inputs = pairs.prepare(mini, image="corrupt", answer="incorrect")
    for name in ("pixel_values", "input_ids", "attention_mask", "answer_ids"):
        assert torch.equal(getattr(inputs, name), getattr(by_hand, name))
    assert torch.equal(
        pairs.prepare(mini, prompt="donor").input_ids,
        mini.prepare(pairs[0].clean_image, pairs["donor_prompt"]).input_ids,
    )
    with pytest.raises(ValueError, match="no image 'corrupted'; did you mean 'corrupt'"):
        pairs.prepare(mini, image="corrupted")
    faces = mini_world("faces", 3)
    with pytest.raises(ValueError, match="3 of 3 pairs have no corrupt_answer, such as 'test-faces-0-0'"):
        faces.prepare(mini, answer="corrupt")
