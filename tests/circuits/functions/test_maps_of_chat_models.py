"""Where heads of chat models look: against Hugging Face's own attention weights, of one pair at a time."""

import numpy as np
import pytest
import torch

from hosted_pairs import made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits

pytestmark = LIBRARY_WARNINGS


def weights_of(model: HookedVLM, inputs) -> np.ndarray:
    """Return Hugging Face's attention weights of one example, [layer, head, query, key]."""
    hf, before = model.hf_model, model.hf_model.config._attn_implementation
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        found = hf(**inputs, output_attentions=True).attentions
    hf.set_attn_implementation(before)
    return torch.stack([layer[0] for layer in found]).numpy()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "paligemma", "glm4v"])
def test_maps_are_hugging_faces_weights_though_prompts_have_unequal_lengths(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    maps = circuits.attention_maps(model, pairs, progress=False)
    assert maps.role.values.tolist() == ["all", "object", "last"]  # neither `bos` nor `image`, which see no image
    layout = pairs.layout(model)
    for number, pair in enumerate(pairs):
        weights = weights_of(model, model.prepare(pair.clean_image, pair.clean_prompt))
        image, last = layout.positions("language", number, "image"), layout.read_out[number]
        own = maps.isel(pair=number).sel(maps="attention", role="last")
        np.testing.assert_allclose(own.weight, weights[:, :, last, image], atol=1e-4)
        np.testing.assert_allclose(own.elsewhere, 1 - weights[:, :, last, image].sum(-1), atol=1e-4)
        first = 0 if image[0] == 0 else weights[:, :, last, 0]
        np.testing.assert_allclose(own.sink, first * np.ones(own.sink.shape), atol=1e-4)
        words = range(*pairs.token_spans(model)[number]["object"])
        noun = maps.isel(pair=number).sel(maps="attention", role="object").weight
        np.testing.assert_allclose(noun, weights[:, :, list(words)][..., image].mean(2), atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_head_writes_the_value_of_its_group(family: str) -> None:
    """Four heads of queries share two of keys and values: each patch's value goes through each head's own W_O."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    maps = circuits.attention_maps(model, pairs, roles=["last"], progress=False)
    layout, layer = pairs.layout(model), 1
    inputs = pairs.prepare(model)
    _, cache = model.run_with_cache(inputs)
    image = layout.positions("language", 0, "image")
    attention = model.language.blocks[layer].attn
    values = cache[f"language.blocks.{layer}.attn.hook_v"][0, image]
    for head in range(attention.n_heads):
        written = values[:, head // (attention.n_heads // attention.n_kv_heads)] @ attention.W_O[head]
        pattern = cache[f"language.blocks.{layer}.attn.hook_pattern"][0, head, layout.read_out[0], image]
        own = maps.sel(maps="value_weighted", role="last", layer=layer, head=head).weight[0]
        np.testing.assert_allclose(own, (pattern * written.norm(dim=-1)).detach(), rtol=1e-4)


def test_norms_of_the_vision_tower_and_of_image_tokens() -> None:
    model = HookedVLM.mini()
    from notice_lens.pairs import mini_world

    pairs = mini_world("states", n=3, seed=1, world="pictures")
    last = f"vision.blocks.{model.cfg.vision.n_layers - 1}.hook_resid_post"
    _, cache = model.run_with_cache(pairs.prepare(model), names_filter=[last, "language.blocks.0.hook_resid_pre"])
    tower = circuits.attention_maps(model, pairs, roles=["last"], maps="attention", norm_hook=last, progress=False)
    np.testing.assert_allclose(tower.norm, cache[last][:, 1:].norm(dim=-1), rtol=1e-5)
    tokens = circuits.attention_maps(model, pairs, roles=["last"], maps="attention", progress=False)
    image = pairs.layout(model).positions("language", 0, "image")
    expected = cache["language.blocks.0.hook_resid_pre"][:, image].norm(dim=-1)
    np.testing.assert_allclose(tokens.norm, expected, rtol=1e-5)
    merged = tiny_model("qwen2_5_vl").model
    hook = "vision.blocks.0.hook_resid_post"
    with pytest.raises(ValueError, match=r"norm_hook=.* has 64 positions for an image of 16 patches; expected as many"):
        circuits.attention_maps(merged, made_pairs(single_tokens(merged)), norm_hook=hook, progress=False)
