"""Every family: numbers are Hugging Face's, every hook point fires, is in the table, and does what it says."""

from types import SimpleNamespace

import pytest
import torch

import tiny_vlms
from hosted_vlms import LIBRARY_WARNINGS, QUESTION, Tiny, tiny_model
from notice_lens.models.hook_names import HookName
from notice_lens.models.vlm.check import check, inert
from notice_lens.models.vlm.families import FAMILIES, unread_vision_layers
from notice_lens.models.vlm.hooked_vlm import HookedVLM

SIZES = {
    "llava": (17, 16),
    "vipllava": (17, 16),
    "llava_next": (17, 16),
    "llava_onevision": (16, 16),
    "qwen2_vl": (64, 16),
    "qwen2_5_vl": (64, 16),
    "qwen3_vl": (64, 16),
    "gemma3": (16, 4),
    "paligemma": (16, 16),
    "idefics3": (16, 4),
    "smolvlm": (16, 4),
    "internvl": (17, 4),
    "mllama": (48, 34),
    "blip-2": (17, 8),
    "instructblip": (17, 8),
    "glm4v": (64, 16),
}
"""Positions in the tower and behind the projector, for each image or tile; written down by hand."""
WITHOUT_CODE = "glm4v"
pytestmark = LIBRARY_WARNINGS


@pytest.fixture(params=list(tiny_vlms.FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return tiny_model(request.param)


@pytest.fixture
def llava() -> Tiny:
    return tiny_model("llava")


def test_the_logits_are_hugging_faces_to_the_last_bit(tiny: Tiny) -> None:
    assert torch.equal(tiny.model(tiny.clean), tiny.logits())


def test_watching_every_hook_point_leaves_the_logits_and_fires_everywhere(tiny: Tiny) -> None:
    logits, cache = tiny.model.run_with_cache(tiny.clean)
    torch.testing.assert_close(logits, tiny.logits(), atol=1e-12, rtol=0)
    off = {name for name in tiny.model.hook_dict if tiny.model.switched_off(name)}
    assert set(cache) == set(tiny.model.hook_dict) - off
    assert off == {name for name in tiny.model.hook_dict if name.endswith("hook_result")}


def test_the_self_check_passes(tiny: Tiny) -> None:
    every = tiny.family in ("llava", "mllama")  # elsewhere the first and the last layers, which are two of three
    report = check(tiny.model, tiny.clean, progress=False, all_layers=every)
    assert report.passed, str(report)
    assert len(report.results) == 6


def test_shapes_are_what_the_words_say(tiny: Tiny) -> None:
    """Axes of equal name are of equal length, whatever the family's own tensors look like."""
    tiny.model.set_use_attn_result(True)
    try:
        _, cache = tiny.model.run_with_cache(tiny.clean)
    finally:
        tiny.model.set_use_attn_result(False)
    patches, image_positions = SIZES[tiny.family]
    text = tiny.hf.config.get_text_config()
    lengths: dict[tuple[str, str], int] = {
        ("language", "batch"): 1,
        ("language", "pos"): tiny.clean["input_ids"].shape[1],
        ("language", "d_model"): text.hidden_size,
        ("language", "head"): text.num_attention_heads,
        ("language", "kv_head"): getattr(text, "num_key_value_heads", text.num_attention_heads),
        ("language", "d_mlp"): getattr(text, "ffn_dim", None) or text.intermediate_size,
        ("language", "image_pos"): image_positions,
        ("projector", "image_pos"): image_positions,
        ("projector", "d_model"): text.hidden_size,
        ("vision", "patch"): patches,
        ("qformer", "learned"): image_positions,
        ("qformer", "patch"): patches,
        ("qformer", "pos"): image_positions + tiny.clean.get("qformer_input_ids", torch.empty(1, 0)).shape[1],
    }
    for name, activation in cache.items():
        stack = HookName.parse(name).stack or ""
        axes = tiny.model.hook_dict[name].shape.split()
        assert activation.ndim == len(axes), name
        for axis, length in zip(axes, activation.shape, strict=True):
            key = (stack, axis.removeprefix("query_").removeprefix("key_"))
            assert lengths.setdefault(key, length) == length, (name, axis)


def test_the_table_names_every_hook_point(tiny: Tiny) -> None:
    table = tiny.model.hooks_table()
    shown = {str(name).replace(f"blocks.{HookName.parse(name).layer}.", "blocks.L.") for name in tiny.model.hook_dict}
    assert set(table.frame["hook point"]) == shown
    assert len(table) == len(shown)
    modules = dict(tiny.hf.named_modules())
    for tensor in table.frame["Hugging Face"]:
        path = tensor.split(": ")[0].split(", ")[0].split("[")[0].removeprefix("in ").lstrip("<> ")
        assert any(path.replace(".L.", f".{layer}.").replace("..", ".") in modules for layer in range(4)), tensor


def test_a_checkpoint_is_loaded_with_its_processor_and_says_the_same(tiny: Tiny, tmp_path) -> None:
    folder = tiny_vlms.write(tiny.family, tmp_path)
    loaded = HookedVLM.from_pretrained(folder, dtype=torch.float64)
    inputs = loaded.prepare(tiny_vlms.picture(1, 56), QUESTION)
    assert set(inputs) == set(tiny.clean)
    for name, weight in tiny.hf.named_parameters():
        assert torch.equal(loaded.hf_model.get_parameter(name), weight), name
    assert torch.equal(loaded(inputs), loaded.hf_model(**inputs).logits)


def test_unequal_prompts_padded_on_the_left_say_what_each_says_alone(tiny: Tiny) -> None:
    model = tiny.model
    picture = tiny_vlms.picture(1, 56)
    prompts = [QUESTION, "what colour is the book on the table ?"]
    together = model(model.prepare(picture, prompts))
    for row, prompt in enumerate(prompts):
        alone = model(model.prepare(picture, prompt))
        # Rotary angles are float32 in transformers, and padding shifts the positions.
        torch.testing.assert_close(together[row, -1], alone[0, -1], atol=1e-5, rtol=0)


def test_a_family_is_hosted_without_a_word_about_it_in_the_package() -> None:
    assert WITHOUT_CODE not in FAMILIES
    assert tiny_model(WITHOUT_CODE).model.family.name == WITHOUT_CODE
    assert len(FAMILIES) == 15  # Idefics3 and SmolVLM counted apart


def test_layers_that_a_model_of_several_states_does_not_read_are_inert() -> None:
    tiny = tiny_model("vipllava")
    assert "[-2, -3]" in inert(tiny.model, "vision.blocks.3.attn.hook_z")
    assert not inert(tiny.model, "vision.blocks.2.attn.hook_z")


@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_layers"])
def test_the_states_that_are_read_have_a_name_in_the_singular_or_plural(name: str) -> None:
    assert unread_vision_layers(SimpleNamespace(**{name: [-2, -3]}), 4) == range(3, 4)


def test_layers_that_llava_does_not_read_are_inert_by_name(llava: Tiny) -> None:
    """CLIP's last block is run, and its states are not read: the config says so."""
    assert "-2" in inert(llava.model, "vision.blocks.2.attn.hook_z")
    assert not inert(llava.model, "vision.blocks.1.attn.hook_z")

    def noise(z, hook):
        return z + torch.randn_like(z)

    for layer, moves in ((1, True), (2, False)):
        edited = llava.model.run_with_hooks(llava.clean, fwd_hooks=[(f"vision.blocks.{layer}.attn.hook_z", noise)])
        assert torch.equal(edited, llava.logits()) != moves
