"""Names that do not exist, families that cannot be hosted, checkpoints that cannot be loaded: what is said of each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import tiny_vlms
from hosted_vlms import Tiny, tiny_model
from notice_lens.models.vlm.check import check
from notice_lens.models.vlm.hooked_vlm import _ELSEWHERE, HookedVLM


@pytest.fixture
def llava() -> Tiny:
    return tiny_model("llava")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("language.blocks.1.attn.hook_patern", "nearest: language.blocks.1.attn.hook_pattern"),
        ("language.blocks.7.attn.hook_z", "layer 7 asked for; `language` has layers 0 to 2"),
        ("blocks.1.attn.hook_z", "language.blocks.1.attn.hook_z, vision.blocks.1.attn.hook_z"),
        ("text.blocks.1.attn.hook_z", "here the stack is called language, language.blocks.1.attn.hook_z"),
        ("language.ln_final.hook_normalized", "language.ln_final.hook_out"),
        ("language.blocks.1.cross_attn.hook_z", "layer 1 is self-attention; nearest: language.blocks.1.attn.hook_z"),
        ("decoder.blocks.1.attn.hook_z", "this model has the stacks `vision`, `projector`, `language`"),
    ],
)
def test_a_misspelt_hook_raises_with_the_nearest_names(llava: Tiny, name: str, message: str) -> None:
    for use in (
        lambda: llava.model.run_with_hooks(llava.clean, fwd_hooks=[(name, lambda x, hook: x)]),
        lambda: llava.model.run_with_cache(llava.clean, names_filter=name),
        lambda: llava.model.run_with_cache(llava.clean, names_filter="language.hook_embed")[1][name],
    ):
        with pytest.raises(KeyError, match=message):
            use()


def test_cross_attention_is_a_layer_s_own() -> None:
    with pytest.raises(KeyError, match="layer 1 is cross-attention; nearest: language.blocks.1.cross_attn.hook_z"):
        tiny_model("mllama").model.run_with_cache({}, names_filter="language.blocks.1.attn.hook_z")


def test_a_result_that_is_switched_off_is_an_error(llava: Tiny) -> None:
    with pytest.raises(ValueError, match=r"set_use_attn_result\(True\)"):
        llava.model.run_with_cache(llava.clean, names_filter="language.blocks.1.attn.hook_result")


def test_a_head_of_keys_that_is_not_there_is_pytorch_s_error(llava: Tiny) -> None:
    """Keys have two heads here, and queries four."""

    def third(keys: Tensor, hook: Any) -> None:
        keys[:, :, 2] = 0

    with pytest.raises(IndexError):
        llava.model.run_with_hooks(llava.clean, fwd_hooks=[("language.blocks.1.attn.hook_k", third)])


@pytest.mark.parametrize("name", list(_ELSEWHERE))
def test_what_transformer_lens_users_type_says_what_to_write(llava: Tiny, name: str) -> None:
    with pytest.raises(AttributeError, match=f"no '{name}'; write "):
        getattr(llava.model, name)
    assert not hasattr(llava.model, "nothing_of_the_kind")


def test_a_predicate_that_matches_nothing_is_an_error(llava: Tiny) -> None:
    with pytest.raises(KeyError, match="matches none of the 96 hook points"):
        llava.model.run_with_cache(llava.clean, names_filter=lambda name: "nothing" in name)


def test_the_cache_knows_its_stacks(llava: Tiny) -> None:
    _, cache = llava.model.run_with_cache(llava.clean)
    full = cache["language.blocks.2.attn.hook_pattern"]
    assert cache.stack("language")["pattern", 2] is full
    assert cache["pattern", 2, "language"] is full
    assert cache.stack("vision")["z", 1].shape == (1, 17, 2, 8)
    with pytest.raises(KeyError, match=r"which stack: cache.stack\('language'\)\['pattern', 2\]"):
        cache["pattern", 2]
    with pytest.raises(ValueError, match="logit_lens takes the stream as the sum"):
        cache.logit_lens()
    cross = tiny_model("mllama")
    _, cache = cross.model.run_with_cache(cross.clean)
    assert cache.stack("language", "cross_attn")["pattern", 1] is cache["language.blocks.3.cross_attn.hook_pattern"]


def with_part(part: str) -> Any:
    hf, _ = tiny_vlms.make("llava")
    block = hf.model.language_model.layers[1]
    if part == "shared":
        hf.config.text_config.num_kv_shared_layers = 2
    elif part == "unknown":
        del block.self_attn.k_proj
    elif part == "width":
        del block.self_attn.head_dim
    else:
        setattr(block, part, nn.Identity())
    return hf


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("linear_attn", r"layer 1 \(LlamaDecoderLayer\) has a recurrent mixer.*`linear_attn`"),
        ("shared", "the last 2 layers of LlamaModel share the keys and values"),
        (
            "unknown",
            r"no `k` found in LlamaAttention: expected a child called k_proj or key; it has q_proj, v_proj, o_proj",
        ),
        ("width", r"LlamaAttention does not say how wide a head is \(`head_dim`\)"),
        ("cross_attn", "both self-attention and cross-attention"),
    ],
)
def test_what_cannot_be_hooked_is_refused_by_name(part: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HookedVLM.from_hf(with_part(part))


def test_what_is_no_vision_language_model_is_refused(tmp_path: Path) -> None:
    language = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny_vlms.TEXT, vocab_size=50))
    with pytest.raises(ValueError, match="no vision tower found in LlamaForCausalLM|no language model found"):
        HookedVLM.from_hf(language)
    with pytest.raises(TypeError, match=r"expected a model of transformers, got Linear.*model.module"):
        HookedVLM.from_hf(nn.Linear(1, 1))
    language.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'llama', which transformers does not know as a vision-language"):
        HookedVLM.from_pretrained(tmp_path)


def test_checkpoints_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        HookedVLM.from_pretrained(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no model 'nobody/nothing'"):
        HookedVLM.from_pretrained("nobody/nothing")
    hf, _ = tiny_vlms.make("llava")
    state = {name: weight for name, weight in hf.state_dict().items() if "layers.1.self_attn.q_proj" not in name}
    hf.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"weights are missing: .*layers.1.self_attn.q_proj.weight"):
        HookedVLM.from_pretrained(tmp_path)


def test_a_folder_without_a_processor_loads_and_says_why_at_prepare(tmp_path: Path) -> None:
    hf, _ = tiny_vlms.make("llava")
    hf.save_pretrained(tmp_path)
    model = HookedVLM.from_pretrained(tmp_path, dtype="float64")
    assert model.dtype == torch.float64
    with pytest.raises(ValueError, match="needs a processor.*none could be loaded beside the weights of"):
        model.prepare(tiny_vlms.picture(1), "is it red ?")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llava"


def test_the_self_check_finds_what_is_wrong(llava: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tap that loses edits, one that changes what passes, and gates that are shut."""
    from notice_lens.models.vlm.taps import Tap

    through = Tap.through

    def deaf(self: Tap, tensor: Tensor, fired: set[str]) -> Tensor:
        through(self, tensor, fired)
        return tensor

    def coarse(self: Tap, tensor: Tensor, fired: set[str]) -> Tensor:
        new = through(self, tensor, fired)
        return new + 0.1 if self.point.name == "language.blocks.1.hook_mlp_out" else new

    monkeypatch.setattr(Tap, "through", deaf)
    failed = check(llava.model, llava.clean, progress=False).failures
    assert [result.name for result in failed] == ["noise at every hook point moves the logits"]
    monkeypatch.setattr(Tap, "through", coarse)
    failed = check(llava.model, llava.clean, progress=False).failures
    assert "watched logits are the hosted model's" in [result.name for result in failed]
    monkeypatch.undo()
    hf, processor = tiny_vlms.make("mllama")
    for name, weight in hf.named_parameters():
        if "cross_attn" in name and "gate" in name:
            nn.init.zeros_(weight)
    report = HookedVLM.from_hf(hf.double(), processor).check(progress=False)
    assert "the image changes the logits" in [result.name for result in report.failures]
