"""The logit lens against Hugging Face's hidden states, and direct logit attribution against what has to add up."""

from typing import Any

import numpy as np
import pytest
import torch

from forward_oracle import activations, attention, decoder_of, final_norm, places
from hosted_pairs import FAMILIES, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedBLIP, HookedVLM, patching
from notice_lens.pairs import Noise, mini_world

pytestmark = LIBRARY_WARNINGS

ADDED_BETWEEN = ("qwen3_vl",)
"""Families that add features of the image to the stream between blocks."""
BIASED = ("blip-2",)
"""Families whose output projections, MLPs and final norm have biases (OPT)."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_reads_hidden_states_as_the_model_reads_the_last(family: str) -> None:
    """What blocks are given and write, by torch's hooks, through the model's own norm and unembedding."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    found = patching.logit_lens(model, pairs, progress=False)
    hf: Any = model.hf_model
    for number, pair in enumerate(pairs):
        inputs = model.prepare(pair.clean_image, pair.clean_prompt)
        stream = [activations(hf, inputs, "resid_pre")[0], *activations(hf, inputs, "resid_post")]
        entries = [model.answer_ids(pair.clean_prompt, one)[0] for one in (pair.correct_answer, pair.incorrect_answer)]
        first, last = pairs.token_spans(model)[number]["object"]
        positions = {"last": [-1], "object": list(range(first, last))}
        with torch.no_grad():
            for blocks, states in enumerate(stream):
                logits = hf.get_output_embeddings()(final_norm(hf)(states))[0].double()
                probs = logits.softmax(-1)
                for role, some in positions.items():
                    own = found.isel(pair=number, blocks=blocks).sel(run="clean", role=role)
                    for name, values, entry in (
                        ("answer_logit", logits, entries[0]), ("foil_logit", logits, entries[1]),
                        ("answer_prob", probs, entries[0]), ("foil_prob", probs, entries[1]),
                    ):  # fmt: skip
                        assert float(own[name]) == pytest.approx(float(values[some, entry].mean()), abs=1e-9)
        with torch.no_grad():
            end = hf(**inputs).logits[0, -1]
        read = found.logit_diff.isel(pair=number, blocks=-1).sel(run="clean", role="last")
        assert float(read) == pytest.approx(float(end[entries[0]] - end[entries[1]]), abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_mlps_and_embedding_add_up_to_the_logit_difference(family: str) -> None:
    """No bias is in most of these models behind the stream: nothing is left but what is added between blocks."""
    model = tiny_model(family).model
    found = patching.logit_lens(model, made_pairs(single_tokens(model)), roles="last", progress=False)
    parts = found.head_logit_diff.sum(("layer", "head")) + found.mlp_logit_diff.sum("layer") + found.embed_logit_diff
    whole = found.logit_diff.isel(blocks=-1).sel(role="last")
    np.testing.assert_allclose(parts + found.rest_logit_diff, whole, rtol=0, atol=1e-9)
    scale = float(abs(found.head_logit_diff).sum(("layer", "head")).max())
    assert scale > 1e-3
    if family in (*ADDED_BETWEEN, *BIASED):
        return
    np.testing.assert_allclose(found.rest_logit_diff, 0, rtol=0, atol=1e-6 * scale)


def test_a_head_adds_what_its_output_gives_through_the_norm() -> None:
    """By hand: z through the head's columns of the output projection, over the root mean square of the last stream."""
    tiny = tiny_model("llava")
    model, hf = tiny.model, tiny.model.hf_model
    pairs = made_pairs(single_tokens(model))[:1]
    found = patching.logit_lens(model, pairs, progress=False)
    inputs = model.prepare(pairs[0].corrupt_image, pairs[0].clean_prompt)
    blocks: Any = decoder_of(hf).layers
    stream = activations(hf, inputs, "resid_post")[-1][0, -1]
    answer, foil = (
        model.answer_ids(pairs[0].clean_prompt, one)[0] for one in (pairs[0].correct_answer, pairs[0].incorrect_answer)
    )
    norm = final_norm(hf)
    head = hf.get_output_embeddings().weight
    direction = (head[answer] - head[foil]) * norm.weight / (stream.square().mean() + norm.variance_epsilon).sqrt()
    for layer, z in enumerate(activations(hf, inputs, "z")):
        width = attention(blocks[layer]).head_dim
        projection = places(blocks[layer])["z"][0].weight
        for number in range(model.cfg.n_heads):
            columns = slice(number * width, (number + 1) * width)
            expected = float(((projection[:, columns] @ z[0, -1, columns]) @ direction).detach())
            got = found.head_logit_diff.sel(run="corrupt").values[0, layer, number]
            assert got == pytest.approx(expected, abs=1e-6)  # the norm computes in float32


@pytest.mark.parametrize("corruption", ["text", Noise(samples=2)], ids=["text", "noise"])
def test_the_corrupted_run_is_that_of_a_sweep(corruption: Any) -> None:
    model = tiny_model("qwen2_5_vl").model
    pairs = made_pairs(single_tokens(model))
    read = patching.logit_lens(model, pairs, corruption=corruption, progress=False)
    effects = patching.patch_heads(model, pairs, corruption=corruption, controls=(), progress=False)
    end = read.logit_diff.isel(blocks=-1).sel(role="last")
    np.testing.assert_allclose(end.sel(run="clean"), effects.logit_diff_clean, atol=1e-9)
    if corruption == "text":
        np.testing.assert_allclose(end.sel(run="corrupt"), effects.logit_diff_corrupt, atol=1e-9)
    assert read.attrs["method"] == "logit lens"


def test_a_trained_model_says_its_answer_more_and_more_clearly() -> None:
    model, pairs = HookedVLM.mini(), mini_world("states", 12, seed=1, world="pictures")
    read = patching.logit_lens(model, pairs, progress=False).logit_diff.sel(role="last").mean("pair")
    assert float(read.sel(run="clean").isel(blocks=0)) == pytest.approx(0, abs=0.5)
    assert float(read.sel(run="clean").isel(blocks=-1)) > 5 > -5 > float(read.sel(run="corrupt").isel(blocks=-1))


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"HookedBLIP has no stream that a logit lens could read: every block .* ends"):
        patching.logit_lens(HookedBLIP.mini(), mini_world("states", 1))
    model = tiny_model("llava").model
    with pytest.raises(ValueError, match="no role 'objekt'; did you mean 'object'"):
        patching.logit_lens(model, made_pairs(single_tokens(model)), roles=["objekt"], progress=False)
