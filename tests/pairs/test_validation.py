"""Pairs before a model: lengths, first tokens, unknown words, roles, kinds."""

import re

import numpy as np
import pytest
import torch

from notice_lens import HookedVLM
from notice_lens.coco import run_lengths
from notice_lens.mini.generate import GROUPS
from notice_lens.pairs import MinimalPairs, PairsError, mini_world
from notice_lens.pairs.regions import SmallRegion
from notice_lens.patching import patch_heads
from pair_rows import make_row

OPEN = {"clean_prompt": "what is it?", "corrupt_prompt": ..., "roles": ...}
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
    "answer without tokens": (
        {**OPEN, "correct_answer": "\u200b"}, r"correct_answer '\u200b' has no tokens: the tokenizer drops all of its",
    ),
    "corrupt answer without tokens": (
        {**OPEN, "corrupt_answer": "\x07"}, r"corrupt_answer '\x07' has no tokens",
    ),
    "question without tokens": (
        {**OPEN, "clean_prompt": "\u200b\u200d"}, r"clean_prompt '\u200b\u200d' has no tokens",
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


def test_answers_that_both_have_no_tokens(bert):
    pairs = MinimalPairs.from_rows([make_row(0, **OPEN, correct_answer="\u200b", incorrect_answer="\u200d")])
    with pytest.raises(PairsError, match="text without tokens: 2"):
        pairs.validate(bert)


TALL = {"clean_prompt": "is it " + "very " * 42 + "tall?", "corrupt_prompt": ..., "roles": ...}
LONG = {
    "question": (
        {**TALL, "clean_prompt": f"very {TALL['clean_prompt']}"}, "clean_prompt", "makes 49 tokens", "model reads 48",
    ),
    "answer": ({**OPEN, "correct_answer": "red " * 48}, "correct_answer", "makes 49 tokens", "the model reads 48"),
    "corrupt answer": (
        {**OPEN, "corrupt_answer": "blue " * 99}, "corrupt_answer", "makes 100 tokens", "the model reads 48",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LONG)
def test_what_is_longer_than_the_model_reads_is_said_before_the_work(mini, case):
    changes, *said = LONG[case]
    pairs = MinimalPairs.from_rows([make_row(0), make_row(1, **changes)])
    with pytest.raises(PairsError, match=".* ".join(map(re.escape, said))):
        pairs.validate(mini)
    assert pairs.validate(mini, on_error="drop")["id"] == ["pair-0"]
    # A tokenizer by itself does not say how many tokens its model reads.
    assert "longer than" not in str(pairs.validate(mini.tokenizer, on_error="drop").manifest.dropped)


def test_the_longest_that_the_model_reads_is_read(mini):
    longest = MinimalPairs.from_rows(
        [
            make_row(0, **TALL),
            make_row(1, **OPEN, incorrect_answer=" ".join(["red"] * 47), correct_answer="green"),
        ]
    )
    kept = longest.validate(mini, on_error="drop")
    assert "text longer than the model reads" not in kept.manifest.dropped
    assert (
        longest[:1].prepare(mini).input_ids.shape[1]
        == 48
        == longest[1:].prepare(mini, answer="incorrect").answer_ids.shape[1]
    )
    mini(longest[:1].prepare(mini))
    mini(longest[1:].prepare(mini, answer="incorrect"))


def test_captions_are_read_with_their_answers(caption):
    most = caption.model.cfg.decoder.n_ctx
    rows = [
        make_row(
            n, kind="caption", clean_prompt="a " * (most - extra), corrupt_prompt=..., roles=..., incorrect_answer="b"
        )
        for n, extra in enumerate([2, 1])
    ]
    rows.append(make_row(2, kind="caption", clean_prompt="", corrupt_prompt=..., roles=...))
    dropped = MinimalPairs.from_rows(rows).validate(caption.model, on_error="drop").dropped.to_list()
    assert [row["id"] for row in dropped if "makes" in row["detail"]] == ["pair-1"]


def test_a_model_of_another_kind(caption):
    with pytest.raises(PairsError, match="the pair is of kind 'vqa', the model 'caption'"):
        MinimalPairs.from_rows([make_row()]).validate(caption.model)
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


def test_regions_that_fill_half_of_no_patch_are_named(mini):
    """Patches are of 8 pixels: a line of 3 lies in every patch that it crosses, and fills half of none."""
    pairs = mini_world("states", 3)
    line, dot, most = np.zeros((64, 64), bool), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    line[8:11], dot[9:12, 9:12], most[8:12, 8:16] = True, True, True
    regions = [[{"region": "line", **run_lengths(line)}, {"region": "most", **run_lengths(most)}]] * 2
    pairs = pairs.with_column("clean_regions", [*regions, [{"region": "dot", **run_lengths(dot)}]])
    with pytest.warns(SmallRegion) as said:
        masks = pairs.patch_masks(mini)
    assert len(said) == 1
    first, second, third = pairs["id"]
    for named in (
        f"{first!r}, region 'line' (38% of",
        f"{second!r}, region 'line'",
        f"{third!r}, region 'dot' (14% of",
    ):
        assert named in str(said[0].message)
    assert "'most'" not in str(said[0].message)
    assert [own.sum().item() for mask in masks for own in mask.values()] == [0, 1, 0, 1, 0]
    with pytest.warns(SmallRegion, match="region 'line'"):
        effects = patch_heads(mini, pairs, "vision.attn", positions="regions", layers=0, heads=0, progress=False)
    assert effects.patching_effect.isnull().values.ravel().tolist() == [False, False, True]
    # Whoever asks for words, or for other regions, hears nothing of these.
    patch_heads(mini, pairs, "vision.attn", positions=["most"], layers=0, heads=0, progress=False)
    patch_heads(mini, pairs, positions=["correct"], layers=0, heads=0, progress=False)
    llava = mini_world("faces", n=6, seed=2, world="pictures")
    patch_heads(HookedVLM.mini(), llava, positions=["last"], layers=0, heads=0, progress=False)


def test_many_small_regions_are_counted(mini):
    with pytest.warns(SmallRegion, match=r"region 'nose' .*; and \d+ more$") as said:
        mini_world("faces", 4, seed=0).patch_masks(mini)
    warned = said[0].message
    assert isinstance(warned, SmallRegion)
    short, n = warned.in_short(), len(warned.regions)
    assert short.startswith(f"{n} regions of 4 pairs (")
    assert "; and" not in short
    assert all(name in short for name in ("eyes", "brows", "mouth", "nose"))
    one = SmallRegion("long", [("first", "line")]).in_short()
    assert one.startswith("1 region of 1 pair (line) covers half of no patch")


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
