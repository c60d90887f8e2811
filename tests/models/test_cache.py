"""Caches: short names by stack, and the decompositions that a pre-LayerNorm stream allows."""

from dataclasses import replace

import pytest
import torch

from conftest import make_pair, relative_error
from notice_lens.models.cache import BLIPCache


@pytest.fixture
def run(vqa):
    inputs = vqa.inputs(batch=2)
    with torch.no_grad():
        logits, cache = vqa.model.run_with_cache(inputs)
    return inputs, logits, cache


def test_short_names(run):
    _, _, cache = run
    cross = cache.stack("text", "cross_attn")
    assert torch.equal(cross["pattern", 3], cache["text.blocks.3.cross_attn.hook_pattern"])
    assert torch.equal(cross["attn_out", -1], cache["text.blocks.3.hook_cross_attn_out"])
    assert torch.equal(cross["k", 0], cache["text.blocks.0.cross_attn.hook_k"])
    assert torch.equal(cache.stack("decoder")["q", 1], cache["decoder.blocks.1.attn.hook_q"])
    assert torch.equal(cache.stack("vision")["resid_post", 2], cache["vision.blocks.2.hook_resid_post"])
    assert torch.equal(cross.stack_activation("pattern")[2], cross["pattern", 2])
    assert torch.equal(cache["pattern", 3, "text.cross_attn"], cross["pattern", 3])
    assert torch.equal(cache["attn_out", 3, "text.cross_attn"], cross["attn_out", 3])
    assert torch.equal(cache["q", 1, "decoder"], cache["decoder.blocks.1.attn.hook_q"])
    assert torch.equal(cache["resid_post", 2, "vision"], cache["vision.blocks.2.hook_resid_post"])


def test_names_that_are_not_there(vqa, run):
    _, _, cache = run
    with pytest.raises(
        KeyError, match=r"does not say which stack: cache.stack\('text', 'cross_attn'\)\['pattern', 3\]"
    ):
        cache["pattern", 3]
    with pytest.raises(KeyError, match="nearest: text.blocks.3.cross_attn.hook_pattern"):
        cache["text.blocks.3.cross_attn.hook_patern"]
    with pytest.raises(KeyError, match=r"or cache\['pattern', 3, 'text.cross_attn'\]"):
        cache["pattern", 3]
    with pytest.raises(KeyError, match="layer 7 asked for; `text` has layers 0 to 3"):
        cache["pattern", 7, "text.cross_attn"]
    with pytest.raises(KeyError, match="'txt'.* does not say which stack"):
        cache["pattern", 1, "txt"]
    for layer in (7, -5):
        with pytest.raises(IndexError, match=f"layer {layer} asked for; `text` has layers 0 to 3"):
            cache.stack("text")["pattern", layer]
    with pytest.raises(KeyError, match="hook_result is not in this cache: names_filter left it out, or it is switched"):
        cache.stack("text")["result", 0]
    with pytest.raises(KeyError, match="no lens 'text.cros_attn'; did you mean 'text.cross_attn'"):
        cache.stack("text", "cros_attn")
    _, small = vqa.model.run_with_cache(vqa.inputs(), names_filter="text.hook_embed")
    with pytest.raises(KeyError, match="text.hook_pos_embed is not in this cache"):
        small["text.hook_pos_embed"]


def test_the_image_stream_is_the_sum_of_its_components(run):
    _, _, cache = run
    vision = cache.stack("vision")
    components, labels = vision.decompose_resid(return_labels=True)
    assert labels[:3] == ["embed", "pos_embed", "0_attn_out"]
    assert relative_error(components.sum(0), vision["resid_post", -1]) < 1e-5
    everything, _ = vision.get_full_resid_decomposition(expand_neurons=False, return_labels=True)
    assert relative_error(everything.sum(0), vision["resid_post", -1]) < 1e-5
    neurons = vision.get_full_resid_decomposition()
    assert relative_error(neurons.sum(0), vision["resid_post", -1]) < 1e-5
    heads = vision.stack_head_results(layer=2, incl_remainder=True)
    assert relative_error(heads.sum(0), vision["resid_post", 1]) < 1e-5
    scaled = vision.apply_ln_to_stack(components)
    assert relative_error(scaled.sum(0), cache["vision.ln_final.hook_normalized"]) < 1e-4
    assert torch.equal(vision.accumulated_resid()[-1], vision["resid_post", -1])


def test_logit_attributions_are_first_order():
    """The gradient of the logit along each component, against finite differences in float64."""
    pair = make_pair("vqa", torch.float64)
    inputs = pair.inputs(batch=2)
    with torch.no_grad():
        logits, cache = pair.model.run_with_cache(inputs)
    vision = cache.stack("vision")
    components = vision.decompose_resid()
    attributions = vision.logit_attrs(components, tokens=torch.tensor([7, 9]), incorrect_tokens=torch.tensor([3, 4]))
    assert attributions.shape == (8, 2, 17)

    def difference(logits):
        return logits[:, 0].gather(1, torch.tensor([[7], [9]])) - logits[:, 0].gather(1, torch.tensor([[3], [4]]))

    step = 1e-6
    scaled = vision.apply_ln_to_stack(components)
    for component in (0, 2, 7):
        with torch.no_grad():
            moved = pair.model.run_with_hooks(
                inputs,
                fwd_hooks=[("vision.ln_final.hook_normalized", lambda x, hook, c=component: x + step * scaled[c])],
            )
        slope = (difference(moved) - difference(logits))[:, 0] / step
        assert torch.allclose(attributions[component].sum(-1), slope, rtol=1e-3, atol=1e-6)
    some = vision.logit_attrs(components[..., 3:5, :], 7, pos_slice=(3, 5))
    assert torch.allclose(some, vision.logit_attrs(components, 7)[..., 3:5])
    first = vision.logit_attrs(components, 7, batch_slice=0)
    assert torch.allclose(first, vision.logit_attrs(components, 7)[:, 0])


@pytest.mark.parametrize("stack", ["text", "decoder"])
@pytest.mark.parametrize("attn", ["attn", "cross_attn"])
def test_post_norm_stacks_refuse_with_the_reason(run, stack, attn):
    _, _, cache = run
    view = cache.stack(stack, attn)
    for refused in (
        view.decompose_resid,
        view.get_full_resid_decomposition,
        view.accumulated_resid,
        lambda: view.apply_ln_to_stack(view.stack_activation("resid_pre")),
        lambda: view.logit_attrs(view.stack_activation("resid_pre"), 7),
        lambda: view.stack_head_results(incl_remainder=True),
        lambda: view.stack_neuron_results(2, incl_remainder=True),
        lambda: view.apply_slice_to_batch_dim(0).decompose_resid(),
    ):
        with pytest.raises(ValueError, match=f"`{stack}` is post-LayerNorm, so each addition is rescaled"):
            refused()
    assert view.stack_head_results().shape[:2] == (24, 2)


def test_the_whole_cache_sends_decompositions_to_a_stack(run):
    _, _, cache = run
    with pytest.raises(ValueError, match=r"decompose_resid is about one residual stream: cache.stack\('vision'\)"):
        cache.decompose_resid()
    with pytest.raises(ValueError, match="the logit lens reads the stream by the unembedding"):
        cache.stack("vision").logit_lens()


def test_without_the_batch_axis(vqa):
    logits, cache = vqa.model.run_with_cache(vqa.inputs(), remove_batch_dim=True)
    assert logits.shape[0] == 1
    vision = cache.stack("vision")
    assert vision["pattern", 0].shape == (6, 17, 17)
    attributions = vision.logit_attrs(vision.decompose_resid(), 7, has_batch_dim=False)
    assert attributions.shape == (8, 17)
    with pytest.raises(ValueError, match="remove_batch_dim=True needs a single example; this batch has 2"):
        vqa.model.run_with_cache(vqa.inputs(batch=2), remove_batch_dim=True)


@pytest.mark.parametrize("rows", [1, [1], slice(1, 2)])
def test_some_of_the_examples(run, rows):
    """Slicing keeps the views, and the inputs that logit directions are taken on."""
    _, _, cache = run
    vision = cache.stack("vision")
    expected = vision.logit_attrs(vision.decompose_resid(), 7)[:, 1]
    for sliced in (cache.apply_slice_to_batch_dim(rows).stack("vision"), vision.apply_slice_to_batch_dim(rows)):
        found = sliced.logit_attrs(sliced.decompose_resid(), 7, has_batch_dim=sliced.has_batch_dim)
        assert torch.allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_inputs_by_keyword_and_inference_mode(vqa):
    inputs = vqa.inputs()
    with torch.inference_mode():
        _, cache = vqa.model.run_with_cache(inputs=inputs)
        vision = cache.stack("vision")
        attributions = vision.logit_attrs(vision.decompose_resid(), "red", "green")
    assert torch.equal(attributions, vision.logit_attrs(vision.decompose_resid(), ["red"], ["green"]))
    with pytest.raises(ValueError, match="on known inputs"):
        BLIPCache(cache.cache_dict, vqa.model).stack("vision").model.tokens_to_residual_directions(7)


def test_a_plain_dict_and_other_options(vqa):
    inputs = vqa.inputs()
    _, plain = vqa.model.run_with_cache(inputs, return_cache_object=False, names_filter=["text.hook_embed"])
    assert type(plain) is dict
    _, cache = vqa.model.run_with_cache(inputs, pos_slice=2, names_filter="text.blocks.0.attn.hook_z")
    assert cache["text.blocks.0.attn.hook_z"].shape == (1, 1, 6, 16)


def test_the_first_answer_token_of_a_caption_is_behind_its_prompt(caption):
    model = caption.model
    inputs = model.prepare(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ["a picture of", "a"])
    _, cache = model.run_with_cache(inputs)
    padded = cache.stack("vision").model.tokens_to_residual_directions(9)
    for row, prompt in enumerate(("a picture of", "a")):
        alone = model.prepare(torch.zeros(3, 64, 64, dtype=torch.uint8), prompt)
        _, cache = model.run_with_cache(replace(alone, attention_mask=None))
        direction = cache.stack("vision").model.tokens_to_residual_directions(9)
        assert relative_error(padded[row], direction[0]) < 1e-4
