"""The lens: its names, its config, its bound inputs, and what it says when asked for the wrong thing."""

import copy

import pytest
import torch
from transformer_lens import ActivationCache, patching
from transformer_lens.model_protocol import TransformerLensModel, TransformerLensModelWithWeights

from conftest import make_pair, relative_error
from notice_lens.models.stack_view import LENSES


def nothing(activation, hook):
    return None


@pytest.mark.parametrize("name", LENSES)
def test_a_lens_runs_the_model(vqa, name):
    inputs = vqa.inputs(batch=2)
    lens = vqa.model.lens(name, inputs)
    assert isinstance(lens, TransformerLensModel)
    assert isinstance(lens, TransformerLensModelWithWeights)
    assert relative_error(lens(lens.tokens), vqa.model(inputs)) < 1e-5
    logits, cache = lens.run_with_cache(lens.tokens)
    assert isinstance(cache, ActivationCache)
    assert relative_error(logits, vqa.model(inputs)) < 1e-5
    assert cache["z", -1].shape[2:] == (6, 16)
    assert cache["blocks.1.attn.hook_pattern"].shape[2] == lens.tokens.shape[1]


def test_the_config_is_transformer_lenss(vqa):
    cfg = vqa.model.lens("text.cross_attn", vqa.inputs()).cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.n_key_value_heads, cfg.d_model, cfg.d_head) == (4, 6, 6, 96, 16)
    assert (cfg.device, cfg.use_split_qkv_input, cfg.use_attn_result) == ("cpu", False, False)


def test_a_hook_sees_the_alias_and_its_layer(vqa):
    lens = vqa.model.lens("text.cross_attn", vqa.inputs())
    seen = []
    lens.run_with_hooks(
        lens.tokens,
        fwd_hooks=[(lambda name: name.endswith("attn.hook_z"), lambda z, hook: seen.append((hook.name, hook.layer())))],
    )
    assert seen == [(f"blocks.{layer}.attn.hook_z", layer) for layer in range(4)]


@pytest.mark.parametrize(
    ("alias", "full"),
    [
        ("blocks.1.attn.hook_z", "text.blocks.1.cross_attn.hook_z"),
        ("blocks.1.hook_attn_out", "text.blocks.1.hook_cross_attn_out"),
        ("blocks.1.hook_resid_mid", "text.blocks.1.hook_resid_mid_cross"),
        ("blocks.1.hook_resid_pre", "text.blocks.1.hook_resid_pre"),
        ("blocks.1.hook_mlp_out", "text.blocks.1.hook_mlp_out"),
        ("blocks.1.ln2.hook_scale", "text.blocks.1.ln2.hook_scale"),
        ("hook_embed", "text.hook_embed"),
    ],
)
def test_names_of_a_cross_attention_lens(vqa, alias, full):
    inputs = vqa.inputs()
    lens = vqa.model.lens("text.cross_attn", inputs)
    _, cache = lens.run_with_cache(lens.tokens)
    _, whole = vqa.model.run_with_cache(inputs)
    assert torch.allclose(cache[alias], whole[full], atol=1e-5)
    assert lens.full_names[alias] == full


def test_two_cross_attentions_are_not_confused(vqa):
    inputs = vqa.inputs(answer_length=2)
    question, answer = (vqa.model.lens(f"{stack}.cross_attn", inputs) for stack in ("text", "decoder"))
    _, question_cache = question.run_with_cache()
    _, answer_cache = answer.run_with_cache()
    assert question_cache["pattern", 0].shape == (1, 6, 9, 17)
    assert answer_cache["pattern", 0].shape == (1, 6, 2, 9)
    assert question.blocks[0].attn is vqa.model.text.blocks[0].cross_attn
    assert answer.blocks[0].attn is vqa.model.decoder.blocks[0].cross_attn


def test_the_other_axis_explains_itself(vqa):
    query = vqa.model.lens("text.cross_attn", vqa.inputs())
    source = vqa.model.lens("text.cross_attn", vqa.inputs(), axis="source")
    message = "query view of `text.cross_attn` has no keys and values: they live on the source axis"
    with pytest.raises(KeyError, match=message):
        query.run_with_hooks(query.tokens, fwd_hooks=[("blocks.0.attn.hook_k", nothing)])
    _, cache = query.run_with_cache(query.tokens)
    with pytest.raises(KeyError, match=message):
        cache["v", 0]
    with pytest.raises(KeyError, match="source view of `text.cross_attn` has keys and values only; .* axis='query'"):
        source.run_with_hooks(source.tokens, fwd_hooks=[("blocks.0.attn.hook_z", nothing)])
    assert set(source.hook_dict) == {f"blocks.{layer}.attn.hook_{which}" for layer in range(4) for which in "kv"}
    with pytest.raises(ValueError, match="`vision.attn` looks at its own positions"):
        vqa.model.lens("vision.attn", vqa.inputs(), axis="source")


def test_another_batch_or_length_explains_itself(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())
    with pytest.raises(ValueError, match=r"tokens of shape \[1, 8\]; this lens is bound to .* \[1, 9\]"):
        lens(lens.tokens[:, :8])


def test_names_that_are_not_there(vqa, caption):
    lens = vqa.model.lens("text.cross_attn", vqa.inputs())
    with pytest.raises(KeyError, match=r"a lens drops the stack's name: blocks.0.hook_mlp_out instead of 'text"):
        lens.run_with_cache(lens.tokens, names_filter="text.blocks.0.hook_mlp_out")
    with pytest.raises(ValueError, match="tokens that are a str; this lens is bound"):
        lens("text")
    with pytest.raises(KeyError, match="layer 4 asked for; this lens has layers 0 to 3"):
        lens.run_with_cache(lens.tokens, names_filter="blocks.4.attn.hook_z")
    with pytest.raises(KeyError, match="nearest: blocks.0.attn.hook_pattern"):
        lens.run_with_cache(lens.tokens, names_filter="blocks.0.attn.hook_patern")
    with pytest.raises(KeyError, match="no lens 'text.cross'; did you mean 'text.cross_attn'"):
        vqa.model.lens("text.cross", vqa.inputs())
    with pytest.raises(KeyError, match="no stack 'text': a model of kind 'caption' has vision, decoder"):
        caption.model.lens("text.attn", caption.inputs())
    with pytest.raises(ValueError, match="no axis 'key'"):
        vqa.model.lens("text.cross_attn", vqa.inputs(), axis="key")


@pytest.mark.parametrize("name", ["text.attn", "text.cross_attn", "decoder.attn", "decoder.cross_attn"])
def test_split_inputs_are_refused_on_post_norm_stacks(vqa, name):
    lens = vqa.model.lens(name, vqa.inputs())
    with pytest.raises(ValueError, match="is post-LayerNorm: what a head writes is rescaled"):
        lens.set_use_split_qkv_input(True)
    lens.set_use_split_qkv_input(False)


def test_hooks_left_on_a_lens_are_removed_by_the_lens_alone(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())
    lens.add_hook("blocks.0.attn.hook_z", nothing)
    vqa.model.add_hook("text.blocks.0.attn.hook_z", nothing)
    assert len(vqa.model.list_hooks()["text.blocks.0.attn.hook_z"]) == 2
    lens.reset_hooks()
    assert len(vqa.model.list_hooks()["text.blocks.0.attn.hook_z"]) == 1
    assert not lens.list_hooks()
    vqa.model.reset_hooks()


def test_padding_stays_masked_on_a_lens(vqa):
    inputs = vqa.model.prepare(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ["is this red?", "is this a red apple?"])
    expected = vqa.model(inputs)
    for name in LENSES:
        assert relative_error(vqa.model.lens(name, inputs)(), expected) < 1e-5, name


def test_making_a_lens_does_not_touch_the_training_mode():
    model = make_pair("vqa").model.train()
    lens = model.lens("text.attn", make_pair("vqa").inputs())
    assert model.training
    assert model.text.training
    assert not lens.training


def test_a_lens_leaves_the_model_where_and_how_it_is(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())
    with pytest.raises(ValueError, match=r"a lens does not move: move the model \(model.to\)"):
        lens.to(torch.float64)
    lens.train()
    lens.setup()
    assert not vqa.model.training
    assert vqa.model.hook_dict["text.hook_embed"].name == "text.hook_embed"
    assert not list(lens.parameters())
    assert set(lens.hook_dict)
    assert repr(lens).startswith("Lens('text.attn', query axis, of HookedBLIP")


def test_a_model_that_moved_since_says_so():
    pair = make_pair("vqa")
    lens = pair.model.lens("text.cross_attn", pair.inputs())
    pair.model.to(torch.float64)
    with pytest.raises(ValueError, match=r"bound when the model was torch.float32 on cpu; it is now torch.float64"):
        lens(lens.tokens)


def test_transformer_lens_sees_that_the_model_trains():
    pair = make_pair("vqa")
    lens = pair.model.lens("text.cross_attn", pair.inputs())
    _, cache = lens.run_with_cache(lens.tokens)
    pair.model.train()
    with pytest.raises(ValueError, match="found training mode at original_model"):
        patching.get_act_patch_resid_pre(lens, lens.tokens, cache, lambda logits: logits.sum())


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_through_a_lens_again_and_again(vqa, inference):
    with torch.inference_mode(inference):
        lens = vqa.model.lens("text.cross_attn", vqa.inputs(), axis="source")
    gradients = []
    for _ in range(2):
        with lens.hooks(bwd_hooks=[("blocks.1.attn.hook_k", lambda gradient, hook: gradients.append(gradient))]):
            lens()[0, 0, 3].backward()
    vqa.model.zero_grad()
    assert gradients[0].abs().max() > 0
    assert torch.equal(gradients[0], gradients[1])
    copy.deepcopy(lens.source)


def test_split_inputs_of_the_whole_model_and_a_lens():
    pair = make_pair("vqa")
    inputs = pair.inputs()
    expected = pair.model(inputs)
    before = pair.model.lens("text.cross_attn", inputs)
    pair.model.set_use_split_qkv_input(True)
    assert relative_error(pair.model.lens("text.cross_attn", inputs)(), expected) < 1e-5
    assert pair.model.generate(torch.zeros(3, 64, 64, dtype=torch.uint8), "is this red?", max_new_tokens=2)
    with pytest.raises(ValueError, match="these were projected already"):
        before()


def test_two_lenses_at_once(vqa):
    inputs = vqa.inputs()
    text, cross = (vqa.model.lens(name, inputs) for name in ("text.attn", "text.cross_attn"))
    seen = []
    with text.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: seen.append("text"))]):
        cross.run_with_hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: seen.append("cross"))])
        text()
    text()
    assert seen == ["text", "cross", "text"]


def test_context_and_lists_are_the_models(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())
    point = lens.hook_dict["blocks.0.attn.hook_z"]
    with lens.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: hook.ctx.update(kept=1))]):
        assert point.has_hooks()
        assert point.has_hooks("fwd")
        assert not point.has_hooks("bwd")
        lens()
    assert point.ctx == {"kept": 1}
    lens.reset_hooks()
    assert vqa.model.hook_dict["text.blocks.0.attn.hook_z"].ctx == {}
    lens.add_hook("blocks.0.attn.hook_z", nothing)
    assert lens.list_hooks()
    assert point.layer() == 0
    vqa.model.reset_hooks()
    assert not lens.list_hooks()
    assert "AliasPoint('blocks.0.attn.hook_z'" in repr(point)


def test_hooks_on_a_lens_do_not_survive_an_exception(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())

    def broken(activation, hook):
        raise RuntimeError("broken hook")

    with pytest.raises(RuntimeError, match="broken hook"):
        lens.run_with_hooks(fwd_hooks=[("blocks.0.attn.hook_z", broken)])
    assert not vqa.model.list_hooks()


def test_labels_of_positions(vqa):
    inputs = vqa.model.prepare(torch.zeros(3, 64, 64, dtype=torch.uint8), "is this red?")
    assert vqa.model.lens("text.attn", inputs).to_str_tokens() == ["[CLS]", "is", "this", "red", "?", "[SEP]"]
    assert vqa.model.lens("decoder.attn", inputs).to_str_tokens() == ["[DEC]"]
    assert vqa.model.lens("decoder.cross_attn", inputs, "source").to_str_tokens()[3] == "red"
    patches = vqa.model.lens("text.cross_attn", inputs, "source").to_str_tokens()
    assert patches[:3] == ["[CLS]", "0,0", "0,1"]
    assert patches == vqa.model.lens("vision.attn", inputs).to_str_tokens()


def test_tokens_of_a_text(vqa):
    lens = vqa.model.lens("text.attn", vqa.inputs())
    assert lens.to_tokens("is this red?").shape == (1, 6)
    assert lens.to_single_token("red") == vqa.model.tokenizer.convert_tokens_to_ids("red")
    with pytest.raises(ValueError, match="'xyz' has 3 tokens; expected a single one"):
        lens.to_single_token("xyz")


@pytest.mark.parametrize("kind", ["caption", "match"])
def test_lenses_of_the_other_models(kind):
    pair = make_pair(kind)
    inputs = pair.inputs(batch=2)
    for name in LENSES:
        if name.split(".")[0] in pair.model.cfg.stacks:
            assert relative_error(pair.model.lens(name, inputs)(), pair.model(inputs)) < 1e-5


def test_the_table_of_a_lens(vqa):
    table = vqa.model.lens("text.cross_attn", vqa.inputs()).names_table()
    row = table.frame.set_index("hook point").loc["blocks.L.attn.hook_z"]
    assert row["full name"] == "text.blocks.L.cross_attn.hook_z"
    assert row["Hugging Face"] == "> text_encoder.encoder.layer.L.crossattention.self [0]"
