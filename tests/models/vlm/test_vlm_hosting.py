"""Hugging Face's model is hosted, not owned: nothing is left on it, and nothing of the caller's is touched."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_vlms
from hosted_vlms import Tiny, tiny_model
from notice_lens.models.vlm.attention import NAME, configs_of
from notice_lens.models.vlm.hooked_vlm import HookedVLM

Z = "language.blocks.1.attn.hook_z"
PATTERN = "vision.blocks.1.attn.hook_pattern"


@pytest.fixture
def llava() -> Tiny:
    return tiny_model("llava")


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def implementations(model: nn.Module) -> set[Any]:
    return {config._attn_implementation for config in configs_of(model)}


def zero(activation: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(activation)


def fail(activation: Tensor, hook: Any) -> None:
    raise KeyboardInterrupt


def test_the_very_modules_are_hosted(llava: Tiny) -> None:
    hf, _ = tiny_vlms.make("llava")
    before = {name: (id(weight), weight.data_ptr()) for name, weight in hf.named_parameters()}
    model = HookedVLM.from_hf(hf)
    assert model.hf_model is hf
    assert {name: (id(weight), weight.data_ptr()) for name, weight in hf.named_parameters()} == before
    assert [id(weight) for weight in model.parameters()] == [id(weight) for weight in hf.parameters()]
    assert not any(hasattr(module, "name") for module in hf.modules())
    assert hooks_on(hf) == 0


@pytest.mark.parametrize("hook", [zero, fail])
@pytest.mark.parametrize("name", [Z, PATTERN, "language.blocks.0.hook_resid_mid"])
def test_nothing_is_left_behind(llava: Tiny, name: str, hook: Any) -> None:
    """However a run ends. transformers' own recorders, which it installs once, are there before and after."""
    llava.logits()
    before, expected = hooks_on(llava.hf), llava.logits()
    try:
        edited = llava.model.run_with_hooks(llava.clean, fwd_hooks=[(name, hook)])
        assert not torch.equal(edited, expected)
    except KeyboardInterrupt:
        assert hook is fail
    assert hooks_on(llava.hf) == before
    assert implementations(llava.hf) == {"sdpa"}
    assert not any(point.watched for point in llava.model.hook_dict.values())
    assert torch.equal(llava.model(llava.clean), expected)


def test_during_a_run_only_watched_attention_is_written_out(llava: Tiny) -> None:
    seen = []

    def look(activation: Tensor, hook: Any) -> None:
        seen.append(implementations(llava.hf))

    llava.model.run_with_hooks(llava.clean, fwd_hooks=[(Z, look)])
    llava.model.run_with_hooks(llava.clean, fwd_hooks=[(PATTERN, look)])
    assert seen == [{"sdpa"}, {NAME}]


def test_the_caller_s_hooks_stay_and_fire() -> None:
    hf, processor = tiny_vlms.make("llava")
    calls = []
    handle = hf.model.language_model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    model = HookedVLM.from_hf(hf, processor)
    inputs = model.prepare(tiny_vlms.picture(1), "is this apple red ?")
    model.run_with_cache(inputs)
    model.reset_hooks()
    model(inputs)
    assert len(calls) == 2
    handle.remove()


def test_another_implementation_comes_back_after_a_run() -> None:
    """The language model and the tower may have been loaded with different ones."""
    hf, processor = tiny_vlms.make("llava")
    hf.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    before = [config._attn_implementation for config in configs_of(hf)]
    assert set(before) >= {"eager", "sdpa"}
    model = HookedVLM.from_hf(hf, processor)
    model.run_with_cache(model.prepare(tiny_vlms.picture(1), "is this apple red ?"))
    assert [config._attn_implementation for config in configs_of(hf)] == before


def test_permanent_hooks_and_blocks(llava: Tiny) -> None:
    expected = llava.logits()
    with llava.model.hooks(fwd_hooks=[(Z, zero)]):
        inside = llava.model(llava.clean)
    llava.model.add_hook(Z, zero)
    try:
        assert torch.equal(llava.model(llava.clean), inside)
    finally:
        llava.model.reset_hooks()
    assert torch.equal(llava.model(llava.clean), expected)
    assert not torch.equal(inside, expected)


def test_a_copy_has_hook_points_of_its_own(llava: Tiny) -> None:
    other = copy.deepcopy(llava.model)
    edited = other.run_with_hooks(llava.clean, fwd_hooks=[(Z, zero)])
    assert not torch.equal(edited, llava.logits())
    assert not any(a is b for a, b in zip(other.hf_model.parameters(), llava.hf.parameters(), strict=True))
    assert other.block("language", 0).attention.parts.module is other.hf_model.get_decoder().layers[0].self_attn


def test_hooks_that_do_not_fire_are_an_error(llava: Tiny) -> None:
    """A prompt without a picture does not come by the tower."""
    text = llava.model.tokenizer("is this apple red ?", return_tensors="pt")
    with pytest.raises(RuntimeError, match=r"vision.blocks.1.attn.hook_pattern .* did not fire.*picture"):
        llava.model.run_with_hooks(text, fwd_hooks=[(PATTERN, zero)])
    edited = llava.model.run_with_hooks(text, fwd_hooks=[(Z, zero)])
    assert not torch.equal(edited, llava.model(text))


def test_a_hook_that_gives_another_shape_is_an_error(llava: Tiny) -> None:
    for name in (Z, PATTERN, "projector.hook_out"):
        with pytest.raises(ValueError, match=rf"{name} gave a tensor of shape .*expected"):
            llava.model.run_with_hooks(llava.clean, fwd_hooks=[(name, lambda activation, hook: activation[..., :1])])


def test_generate_is_hugging_faces_and_its_hooks_fire_at_every_step(llava: Tiny) -> None:
    lengths = []

    def note(activation: Tensor, hook: Any) -> None:
        lengths.append(activation.shape[1])

    expected = llava.hf.generate(**llava.clean, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with llava.model.hooks(fwd_hooks=[(Z, note)]):
        ids = llava.model.generate_ids(llava.clean, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(ids, expected)
    assert lengths == [llava.clean["input_ids"].shape[1], 1, 1, 1]
    (answer,) = llava.model.generate(
        tiny_vlms.picture(1, 56), "is this apple red ?", max_new_tokens=4, min_new_tokens=4
    )
    n_prompt = llava.clean["input_ids"].shape[1]
    assert answer == llava.model.tokenizer.decode(expected[0, n_prompt:], skip_special_tokens=True).strip()
    with llava.model.hooks(fwd_hooks=[("language.blocks.0.attn.hook_pattern", zero)]):
        edited = llava.model.generate_ids(llava.clean, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert not torch.equal(edited, expected)


def test_weights_are_read_where_they_are(llava: Tiny) -> None:
    attention = llava.hf.model.language_model.layers[1].self_attn
    model, x = llava.model, torch.randn(5, 32, dtype=torch.float64)
    assert model.W_Q.shape == model.W_O.transpose(-1, -2).shape == (3, 4, 32, 8)
    assert model.W_K.shape == model.W_V.shape == (3, 2, 32, 8)  # as many as there are key-value heads
    for ours, projection in (
        (model.W_Q, attention.q_proj),
        (model.W_K, attention.k_proj),
        (model.W_V, attention.v_proj),
    ):
        found = torch.einsum("pm,hmd->phd", x, ours[1]).flatten(1)
        torch.testing.assert_close(found, projection(x), atol=1e-12, rtol=0)
    found = torch.einsum("phd,hdm->pm", x.unflatten(1, (4, 8)), model.W_O[1])
    torch.testing.assert_close(found, attention.o_proj(x), atol=1e-12, rtol=0)
    assert torch.equal(model.W_U, llava.hf.lm_head.weight.T)
    fused = tiny_model("qwen2_vl")
    qkv = fused.hf.model.visual.blocks[0].attn.qkv
    x = torch.randn(5, 16, dtype=torch.float64)
    keys = torch.einsum("pm,hmd->phd", x, fused.block(0, "vision").attn.W_K).flatten(1)
    torch.testing.assert_close(keys, (qkv(x) - qkv.bias)[:, 16:32], atol=1e-12, rtol=0)
    assert tiny_model("mllama").model.W_Q.shape[0] == 2  # layers of self-attention


def test_bfloat16_runs_and_takes_its_softmax_in_float32() -> None:
    hf, processor = tiny_vlms.make("llava")
    model = HookedVLM.from_hf(hf.to(torch.bfloat16), processor)
    inputs = model.prepare(tiny_vlms.picture(1), "is this apple red ?")
    assert inputs["pixel_values"].dtype == torch.bfloat16
    logits, cache = model.run_with_cache(inputs)
    plain = model(inputs)
    assert (logits - plain).abs().max() < 0.1 * plain.abs().max()
    name = "language.blocks.1.attn.hook_"
    expected = cache[name + "attn_scores"].float().softmax(-1).to(torch.bfloat16)
    assert torch.equal(cache[name + "pattern"], expected)
    assert model.check(inputs, progress=False).passed
