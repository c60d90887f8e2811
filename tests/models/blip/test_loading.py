"""Loading: folders and in-memory models, every key and field accounted for, nothing of the caller's touched."""

import pytest
import torch

from checkpoints import edit_config, edit_weights, same_weights
from conftest import KINDS, as_tuple, make_pair, relative_error
from notice_lens import HookedBLIP
from notice_lens.models.blip.random_blip import random_blip, random_hf, save_random_checkpoint
from notice_lens.models.blip.weights import translate
from oracle import Oracle


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", request.param)


@pytest.fixture
def vqa_folder(tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", "vqa")


def test_a_folder_and_the_model_in_memory_are_the_same(folder):
    loaded = HookedBLIP.from_pretrained(folder)
    assert same_weights(loaded, random_blip(loaded.cfg.kind))
    assert loaded.cfg.name_or_path == str(folder)
    assert str(folder) in repr(loaded)
    if loaded.cfg.kind == "vqa":
        assert loaded.generate(torch.zeros(3, 64, 64, dtype=torch.uint8), "is this red?", max_new_tokens=2)


def test_hugging_face_loads_the_same_folder(vqa_folder):
    from transformers import BlipForQuestionAnswering

    ported = HookedBLIP.from_hf(BlipForQuestionAnswering.from_pretrained(vqa_folder))
    assert same_weights(ported, HookedBLIP.from_pretrained(vqa_folder))


def test_the_callers_model_is_never_touched():
    pair = make_pair("vqa")
    before = {name: weight.clone() for name, weight in pair.hf.state_dict().items()}
    with torch.no_grad():
        for weight in pair.model.parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in pair.hf.state_dict().items())


def test_tied_weights_are_not_shared_in_the_port(vqa):
    memory = [weight.data_ptr() for weight in vqa.model.parameters()]
    assert len(set(memory)) == len(memory)


def test_old_keys_of_hub_checkpoints_are_let_through(vqa_folder):
    def add_old_keys(weights):
        for stack in ("vision_model.embeddings", "text_encoder.embeddings", "text_decoder.bert.embeddings"):
            weights[f"{stack}.position_ids"] = torch.arange(5)[None]
        weights["text_decoder.cls.predictions.decoder.weight"] = weights[
            "text_decoder.bert.embeddings.word_embeddings.weight"
        ].clone()
        weights["text_decoder.cls.predictions.decoder.bias"] = weights["text_decoder.cls.predictions.bias"].clone()

    before = HookedBLIP.from_pretrained(vqa_folder)
    edit_weights(vqa_folder, add_old_keys)
    edit_config(vqa_folder, "text_config", torchscript=False, top_k=50, length_penalty=1.0, add_cross_attention=False)
    edit_config(vqa_folder, "text_config", position_embedding_type="absolute", pruned_heads={})
    edit_config(vqa_folder, "vision_config", dropout=0.0, num_channels=3, initializer_factor=1.0)
    assert same_weights(HookedBLIP.from_pretrained(vqa_folder), before)


def test_an_untied_output_counts_as_it_does_for_hugging_face(vqa_folder, vqa):
    from transformers import BlipForQuestionAnswering

    def untie(weights):
        noise = torch.Generator().manual_seed(0)
        for what, tied in (("weight", "bert.embeddings.word_embeddings.weight"), ("bias", "cls.predictions.bias")):
            copy = weights[f"text_decoder.{tied}"]
            weights[f"text_decoder.cls.predictions.decoder.{what}"] = copy + torch.randn(copy.shape, generator=noise)

    edit_weights(vqa_folder, untie)
    inputs = vqa.inputs()
    ours = HookedBLIP.from_pretrained(vqa_folder)(inputs)
    theirs = Oracle(BlipForQuestionAnswering.from_pretrained(vqa_folder).eval(), "vqa").logits(*as_tuple(inputs))
    assert relative_error(ours, theirs) < 1e-5


def test_every_wrong_weight_is_listed(vqa_folder):
    def spoil(weights):
        del weights["vision_model.post_layernorm.weight"]
        del weights["text_encoder.encoder.layer.2.crossattention.self.key.bias"]
        weights["text_encoder.pooler.dense.weight"] = torch.zeros(2, 2)
        weights["text_encoder.embeddings.LayerNorm.bias"] = torch.zeros(7)

    edit_weights(vqa_folder, spoil)
    with pytest.raises(ValueError, match="weights do not fit the model") as error:
        HookedBLIP.from_pretrained(vqa_folder)
    message = str(error.value)
    assert "2 missing: text.blocks.2.cross_attn.key.bias, vision.ln_final.weight" in message
    assert "1 unknown: text_encoder.pooler.dense.weight" in message
    assert "1 of another shape: text.ln_embed.bias is [7], the config says [96]" in message


def test_a_weight_of_another_class_is_unknown(caption):
    weights = dict(caption.hf.state_dict()) | {"itm_head.weight": torch.zeros(2, 96)}
    expected = {name: weight.shape for name, weight in caption.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"1 unknown: head\.match\.weight"):
        translate(weights, expected, "caption")
    weights = dict(caption.hf.state_dict()) | {
        "vision_proj.weight": torch.zeros(2, 2),
        "a.position_ids": torch.zeros(2),
    }
    with pytest.raises(ValueError, match=r"2 unknown: vision_proj\.weight, a\.position_ids"):
        translate(weights, expected, "caption")


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("text_config", {"rotary": True}, "text_config has fields that are not accounted for: rotary"),
        ("vision_config", {"registers": 4}, "vision_config has fields that are not accounted for: registers"),
        (None, {"use_qformer": True}, "config has fields that are not accounted for: use_qformer"),
        ("text_config", {"position_embedding_type": "relative_key"}, "is 'relative_key'; BLIP's is 'absolute'"),
        ("text_config", {"pruned_heads": {"1": [0]}}, "pruned_heads is not empty"),
        ("text_config", {"sep_token_id": None}, "sep_token_id is None; expected the id of a token"),
        ("text_config", {"hidden_size": 48}, "the text stacks are 48 wide and the image encoder 96"),
        ("vision_config", {"num_channels": 1}, "num_channels is 1; BLIP reads 3"),
        ("text_config", {"is_decoder": False}, "builds no cross-attention"),
        ("text_config", {"num_attention_heads": 7}, "hidden_size 96 is no multiple of num_attention_heads 7"),
        ("vision_config", {"image_size": [64, 32]}, r"must be square, got \[64, 32\]"),
        (None, {"architectures": ["BlipModel"]}, "BlipModel is not ported; HookedBLIP loads BlipForQuestionAnswering"),
        (
            None,
            {"architectures": [["BlipModel"]]},
            r"names \[\['BlipModel'\]\] arch.*; expected one of|Invalid item .* 'arch",
        ),
        (None, {"architectures": []}, "names no architectures; expected one of"),
    ],
)
def test_config_fields_are_accounted_for(vqa_folder, part, fields, message):
    edit_config(vqa_folder, part, **fields)
    with pytest.raises(ValueError, match=message):
        HookedBLIP.from_pretrained(vqa_folder)


def test_a_default_field_that_a_new_version_of_transformers_adds_breaks_nothing(vqa_folder, monkeypatch):
    """The library writes its defaults into every config: they are not what the checkpoint says."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipTextConfig

    for config in (BlipConfig, BlipTextConfig):
        plain = config.to_dict
        monkeypatch.setattr(config, "to_dict", lambda self, plain=plain: {**plain(self), "drop_path": 0.0})
    loaded = HookedBLIP.from_pretrained(vqa_folder)
    assert same_weights(HookedBLIP.from_hf(BlipForQuestionAnswering.from_pretrained(vqa_folder)), loaded)
    edit_config(vqa_folder, "text_config", drop_path=0.0)
    assert same_weights(HookedBLIP.from_pretrained(vqa_folder), loaded)
    edit_config(vqa_folder, "text_config", drop_path=0.5)
    with pytest.raises(ValueError, match="text_config has fields that are not accounted for: drop_path"):
        HookedBLIP.from_pretrained(vqa_folder)


def test_fields_of_a_config_in_memory_are_accounted_for():
    hf = random_hf("vqa")
    hf.config.text_config.rotary = True
    with pytest.raises(ValueError, match="text_config has fields that are not accounted for: rotary"):
        HookedBLIP.from_hf(hf)


def test_code_of_the_checkpoints_own_is_said_not_to_run(vqa_folder):
    before = HookedBLIP.from_pretrained(vqa_folder)
    edit_config(vqa_folder, None, auto_map={"AutoModel": "modeling_own.Own"})
    with pytest.warns(UserWarning, match="auto_map.*not run: it is loaded as BlipForQuestionAnswering"):
        loaded = HookedBLIP.from_pretrained(vqa_folder)
    assert same_weights(loaded, before)


def test_weights_are_copied_once(vqa, monkeypatch):
    """A large model in memory is there twice while it is ported, and not three times."""
    copied = []
    clone = torch.Tensor.clone

    def counting(self, *args, **kwargs):
        copied.append(self.numel())
        return clone(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "clone", counting)
    ported = HookedBLIP.from_hf(vqa.hf)
    assert sum(copied) == sum(weight.numel() for weight in ported.state_dict().values())


def test_a_wide_model_with_eight_heads_warns():
    from transformers import BlipConfig

    from notice_lens.models.blip.config import read_config

    with pytest.warns(UserWarning, match="8 heads of size 96; published BLIP checkpoints .* have 12 of size 64"):
        cfg = read_config(BlipConfig(), "BlipForQuestionAnswering")
    assert cfg.text.n_heads == 8
    assert (
        read_config(BlipConfig(text_config={"num_attention_heads": 12}), "BlipForQuestionAnswering").text.d_head == 64
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(vqa_folder, dtype):
    model = HookedBLIP.from_pretrained(vqa_folder, dtype=dtype)
    assert model.dtype == dtype
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert (
        relative_error(model.to(dtype=torch.float32).vision.class_embedding, random_blip().vision.class_embedding)
        < 0.01
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda(vqa_folder, vqa):
    model = HookedBLIP.from_pretrained(vqa_folder, device="cuda")
    logits = model(vqa.inputs())
    assert logits.device.type == "cuda"
    assert relative_error(logits.cpu(), vqa.model(vqa.inputs())) < 1e-4
    assert model.check().passed


def test_devices_and_dtypes_of_a_model_in_memory(vqa):
    model = HookedBLIP.from_hf(vqa.hf, dtype="bfloat16", device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert next(vqa.hf.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="no dtype 'int8' for a model; expected float32"):
        HookedBLIP.from_hf(vqa.hf, dtype="int8")
    with pytest.raises(ValueError, match="Linear is not ported; HookedBLIP loads"):
        HookedBLIP.from_hf(torch.nn.Linear(2, 2))


def test_a_class_derived_from_hugging_faces(vqa):
    class Mine(type(vqa.hf)):
        pass

    mine = Mine(vqa.hf.config).eval()
    mine.load_state_dict(vqa.hf.state_dict())
    assert same_weights(HookedBLIP.from_hf(mine), vqa.model)


def test_the_mini_model_sees():
    """The trained model that ships: the same numbers as Hugging Face's, and held-out answers that are right."""
    from transformers import BlipForQuestionAnswering

    from notice_lens.mini import mini_folder, rows

    model = HookedBLIP.mini()
    assert model.check().passed, str(model.check())
    pairs = [row for task in ("scenes", "states", "faces") for row in rows(task, 20, seed=4)]
    said = model.generate([pair.clean_image for pair in pairs], [pair.clean_prompt for pair in pairs])
    right = [answer == pair.correct_answer for answer, pair in zip(said, pairs, strict=True)]
    assert sum(right) >= 0.9 * len(right)
    inputs = model.prepare(pairs[0].clean_image, pairs[0].clean_prompt)
    theirs = BlipForQuestionAnswering.from_pretrained(mini_folder(), dtype=torch.float32).eval()
    expected = Oracle(theirs, "vqa").logits(inputs.pixel_values, inputs.input_ids)
    assert relative_error(model(inputs), expected) < 1e-5
