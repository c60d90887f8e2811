"""Loading: folders and in-memory models, every key and field accounted for, nothing of the caller's touched."""

import copy
import io
import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import KINDS, as_tuple, make_pair, relative_error
from made_up import made_up_pairs
from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import processor, random_blip, random_hf, save_random_checkpoint
from notice_lens.models.blip.weights import translate
from oracle import Oracle


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", request.param)


@pytest.fixture
def vqa_folder(tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", "vqa")


def edit_config(folder, part: str | None, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(fields)
    path.write_text(json.dumps(config))


def edit_weights(folder, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def same_weights(a: HookedBLIP, b: HookedBLIP) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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
        (None, {"architectures": [["BlipModel"]]}, r"names \[\['BlipModel'\]\] architectures; expected one of"),
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


def test_no_such_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder, or no config.json in it"):
        HookedBLIP.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such model on the hub, or, without a network, none in its cache"):
        HookedBLIP.from_pretrained("nobody/no-such-model")


def test_no_weights(vqa_folder):
    (vqa_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights in .*; looked for model.safetensors"):
        HookedBLIP.from_pretrained(vqa_folder)


def test_shards_and_pickles(vqa_folder):
    expected = HookedBLIP.from_pretrained(vqa_folder)
    weights = load_file(vqa_folder / "model.safetensors")
    (vqa_folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: weights[name] for name in inside}, vqa_folder / shard)
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (vqa_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same_weights(HookedBLIP.from_pretrained(vqa_folder), expected)
    (vqa_folder / "model.safetensors.index.json").unlink()
    torch.save(weights, vqa_folder / "pytorch_model.bin")
    assert same_weights(HookedBLIP.from_pretrained(vqa_folder), expected)


@pytest.mark.parametrize("shard", ["../model.safetensors", "a/../../model.safetensors", "/model.safetensors"])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_names_weights_beside_it_only(vqa_folder, index, shard):
    weights = vqa_folder / "model.safetensors"
    names = load_file(weights)
    weights.rename(vqa_folder.parent / "model.safetensors")
    if shard.startswith("/"):
        shard = str(vqa_folder.parent / "model.safetensors")
    (vqa_folder / index).write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
    with pytest.raises(ValueError, match="the path '.*model.safetensors' leads out of the folder"):
        HookedBLIP.from_pretrained(vqa_folder)


def test_an_index_does_not_name_an_index(vqa_folder):
    (vqa_folder / "model.safetensors").unlink()
    name = "model.safetensors.index.json"
    (vqa_folder / name).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=f"names another index, {name}; expected files of weights"):
        HookedBLIP.from_pretrained(vqa_folder)


def test_weights_that_are_links_out_of_their_folder(vqa_folder):
    """As every file of a hub's cache is."""
    expected = HookedBLIP.from_pretrained(vqa_folder)
    weights = load_file(vqa_folder / "model.safetensors")
    blob = (vqa_folder / "model.safetensors").rename(vqa_folder.parent / "blob")
    (vqa_folder / "part.safetensors").symlink_to(blob)
    index = {"weight_map": dict.fromkeys(weights, "part.safetensors")}
    (vqa_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same_weights(HookedBLIP.from_pretrained(vqa_folder), expected)


def test_a_pickle_with_code_in_it_is_not_run(vqa_folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("pwned").touch, ())

    (vqa_folder / "model.safetensors").unlink()
    torch.save({"weights": Attack()}, vqa_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no pickle of weights alone, and code in it is not run"):
        HookedBLIP.from_pretrained(vqa_folder)
    assert not (tmp_path / "pwned").exists()


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


# Files that cannot be read, and what is no model


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1446\n"
SAFETENSORS = "model.safetensors"


def as_pickle(folder, data: bytes) -> None:
    (folder / SAFETENSORS).unlink()
    (folder / "pytorch_model.bin").write_bytes(data)


def as_index(folder, data: bytes) -> None:
    (folder / SAFETENSORS).rename(folder / "model-1.safetensors")
    (folder / f"{SAFETENSORS}.index.json").write_bytes(data)


def pickled(what) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getvalue()


BROKEN = {
    "safetensors cut short": (SAFETENSORS, lambda data: data[:-10], "incomplete"),
    "safetensors cut in the header": (SAFETENSORS, lambda data: data[:100], "header"),
    "safetensors of LFS": (SAFETENSORS, lambda data: LFS_POINTER, "Git LFS pointer .*git lfs pull"),
    "safetensors that is a page": (SAFETENSORS, lambda data: b"<!DOCTYPE html><html>not found</html>", "header"),
    "no safetensors in it": (SAFETENSORS, lambda data: b"", "it is empty"),
    "config of LFS": ("config.json", lambda data: LFS_POINTER, "Git LFS pointer"),
    "config cut short": ("config.json", lambda data: data[:50], r"line \d"),
    "config a list": ("config.json", lambda data: b"[1]", "expected a JSON object, got list"),
    "config in UTF-16": ("config.json", lambda data: data.decode().encode("utf-16"), "codec can't decode"),
    "tokenizer cut short": ("tokenizer.json", lambda data: data[:200], r"line \d"),
    "tokenizer without a model": ("tokenizer.json", lambda data: b"{}", "Model missing"),
    "tokenizer of LFS": ("tokenizer.json", lambda data: LFS_POINTER, "Git LFS pointer"),
    "tokenizer's config": ("tokenizer_config.json", lambda data: b"null", "expected a JSON object, got NoneType"),
    "processor's config": ("processor_config.json", lambda data: b"{", "Expecting property name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(vqa_folder, case):
    name, edit, why = BROKEN[case]
    path = vqa_folder / name
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{name} cannot be read: .*{why}"):
        HookedBLIP.from_pretrained(vqa_folder)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"garbage", "no pickle of weights alone"),
        (LFS_POINTER, "Git LFS pointer"),
        (pickled({"model": {"a": torch.zeros(2)}}), "something else than weights by name"),
        (pickled([torch.zeros(2)]), "something else than weights by name"),
        (pickled({"a": torch.zeros(9)})[:-40], "zip archive"),
    ],
)
def test_a_broken_pickle_is_named(vqa_folder, data, why):
    as_pickle(vqa_folder, data)
    with pytest.raises(ValueError, match=rf"pytorch_model.bin cannot be read: .*{why}"):
        HookedBLIP.from_pretrained(vqa_folder)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b'{"weight_map": ', "Expecting value"),
        (b'{"metadata": {}}', "it has no 'weight_map'"),
        (b'{"weight_map": ["model-1.safetensors"]}', "list"),
        (b'{"weight_map": {"a": 1}}', "expected a path as text, got int"),
        (b'{"weight_map": {"a": "../secret.safetensors"}}', "leads out of the folder"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "leads out of the folder"),
    ],
)
def test_a_broken_index_is_named(vqa_folder, data, why):
    as_index(vqa_folder, data)
    with pytest.raises(ValueError, match=rf"index.json cannot be read: .*{why}"):
        HookedBLIP.from_pretrained(vqa_folder)


def test_a_shard_that_is_broken_or_not_there_is_named(vqa_folder):
    as_index(vqa_folder, b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"names model-2.safetensors, which is not there"):
        HookedBLIP.from_pretrained(vqa_folder)
    (vqa_folder / "model-2.safetensors").write_bytes(LFS_POINTER)
    with pytest.raises(ValueError, match=r"model-2.safetensors cannot be read: .*LFS"):
        HookedBLIP.from_pretrained(vqa_folder)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("text_config", {"num_attention_heads": "12"}, "config.json cannot be read: .*num_attention_heads.* got str"),
        ("text_config", {"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number from 1"),
        ("vision_config", {"patch_size": 0}, "patch_size is 0; expected a whole number from 1"),
        ("vision_config", {"hidden_size": -96}, "hidden_size is -96; expected a whole number"),
        ("vision_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; .* 1 to 1,000"),
        ("text_config", {"hidden_act": "gelu_nw"}, "hidden_act 'gelu_nw'; did you mean 'gelu_new'"),
        ("text_config", {"bos_token_id": 99_999}, "bos_token_id is 99999; expected the id of a token, 0 to"),
        (
            None,
            {"architectures": "BlipForQuestionAnswering"},
            "names BlipForQuestionAnswering arch.*; expected one of",
        ),
        (None, {"quantization_config": {"load_in_8bit": True, "quant_method": "bitsandbytes"}}, "is quantised"),
    ],
)
def test_a_value_of_the_config_that_cannot_be_is_named(vqa_folder, part, fields, message):
    edit_config(vqa_folder, part, **fields)
    with pytest.raises(ValueError, match=message):
        HookedBLIP.from_pretrained(vqa_folder)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("blip-vqa-base", "Salesforce/blip-vqa-base"),
        ("BLIP-VQA-capfilt-large", "Salesforce/blip-vqa-capfilt-large"),
        ("blip-image-captioning-bse", "Salesforce/blip-image-captioning-base"),
        ("salesforce/blip-itm-base-coc", "Salesforce/blip-itm-base-coco"),
    ],
)
def test_a_name_close_to_a_published_one_is_guessed(name, meant):
    with pytest.raises(FileNotFoundError, match=f"did you mean {meant}"):
        HookedBLIP.from_pretrained(name)
    with pytest.raises(FileNotFoundError) as error:
        HookedBLIP.from_pretrained("gpt2")
    assert "did you mean" not in str(error.value)


def test_adapters_alone_are_no_model(vqa_folder):
    (vqa_folder / "config.json").rename(vqa_folder / "adapter_config.json")
    with pytest.raises(FileNotFoundError, match=r"adapters and not a model: load their base model, merge them"):
        HookedBLIP.from_pretrained(vqa_folder)


def spoiled(weights, value, name="text_encoder.embeddings.LayerNorm.weight"):
    weights[name] = torch.full_like(weights[name], value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_said_at_once(vqa_folder, value):
    edit_weights(vqa_folder, partial(spoiled, value=value))
    with pytest.raises(ValueError, match=r"1 of \d+ weights are NaN or infinite, such as text.ln_embed.weight"):
        HookedBLIP.from_pretrained(vqa_folder)
    hf = random_hf()
    with torch.no_grad():
        hf.vision_model.embeddings.class_embedding[..., 3] = value
    with pytest.raises(ValueError, match=r"weights are NaN or infinite, such as vision.class_embedding"):
        HookedBLIP.from_hf(hf)


def test_whole_numbers_are_quantised_weights(vqa_folder):
    def as_bytes(weights):
        name = "text_encoder.encoder.layer.0.attention.self.query.weight"
        weights[name] = (weights[name] * 100).to(torch.int8)

    edit_weights(vqa_folder, as_bytes)
    with pytest.raises(ValueError, match=r"1 of \d+ weights are of torch.int8, .*quantised"):
        HookedBLIP.from_pretrained(vqa_folder)


class PeftModel(torch.nn.Module):
    """As peft wraps a model."""

    def __init__(self, base_model):
        super().__init__()
        self.base_model = base_model


class PeftModelForSeq2Seq(PeftModel):
    pass


class Lora(torch.nn.Module):
    """As peft puts adapters into a model."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.lora_A = base_layer, torch.nn.ModuleDict({"default": torch.nn.Linear(2, 2)})


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on importing its compiler
@pytest.mark.parametrize(
    ("wrap", "cause", "way_out"),
    [
        (torch.compile, "OptimizedModule", "model._orig_mod"),
        (torch.nn.DataParallel, "DataParallel", "model.module"),
        (PeftModel, "PeftModel", r"model.merge_and_unload\(\)"),
        (PeftModelForSeq2Seq, "PeftModel", r"model.merge_and_unload\(\)"),
    ],
)
def test_a_wrapped_model_says_how_to_unwrap_it(vqa, wrap, cause, way_out):
    with pytest.raises(TypeError, match=rf"wrapped in {cause}: .* Give {way_out} instead"):
        HookedBLIP.from_hf(wrap(vqa.hf), vqa.model.processor)
    if wrap is not torch.compile:
        with pytest.raises(TypeError, match=rf"wrapped in {cause}"):
            patching.sweep(wrap(vqa.model), made_up_pairs("vqa"), "text.attn", progress=False)


def test_a_model_without_plain_weights_says_so():
    with_adapters = random_hf()
    with_adapters.text_encoder.pooler = Lora(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"adapters in it, such as text_encoder.pooler.base_layer.weight: merge them"):
        HookedBLIP.from_hf(with_adapters)
    with pytest.raises(ValueError, match=r"\d+ of \d+ weights are on the meta device, .*without device_map"):
        HookedBLIP.from_hf(random_hf().to("meta"))
    offloaded = random_hf()
    offloaded.text_decoder.to("meta")
    with pytest.raises(ValueError, match=r"weights are on the meta device, .* such as text_decoder"):
        HookedBLIP.from_hf(offloaded)
    quantised = random_hf()
    quantised.itm = torch.nn.ParameterDict(
        {"weight": torch.nn.Parameter(torch.zeros(3, 1, dtype=torch.uint8), requires_grad=False)}
    )
    with pytest.raises(ValueError, match=r"weights are quantised, such as itm.weight: .* without quantization_config"):
        HookedBLIP.from_hf(quantised)


def test_a_processor_of_ones_own(vqa_folder, tmp_path):
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    mine, elsewhere = processor(), tmp_path / "processor"
    expected = HookedBLIP.from_pretrained(vqa_folder).generate(image, "is this red?")
    mine.save_pretrained(elsewhere)
    for file in vqa_folder.glob("*token*"):
        file.unlink()
    assert HookedBLIP.from_pretrained(vqa_folder).processor is None
    assert HookedBLIP.from_pretrained(vqa_folder, processor=mine).processor is mine
    assert HookedBLIP.from_pretrained(vqa_folder, processor=elsewhere).generate(image, "is this red?") == expected
    with pytest.raises(TypeError, match=r"processor is a BertTokenizer; expected a BlipProcessor"):
        HookedBLIP.from_pretrained(vqa_folder, processor=mine.tokenizer)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*there is no tokenizer.json"):
        HookedBLIP.from_pretrained(vqa_folder, processor=tmp_path / "nowhere")


def test_words_added_to_the_tokenizer_alone_are_found(vqa_folder, tmp_path):
    longer = processor()
    longer.tokenizer.add_tokens(["florble", "gnarf"])
    with pytest.raises(ValueError, match=r"has 267 words and the model's embedding 265: florble, gnarf have no embedd"):
        HookedBLIP.from_pretrained(vqa_folder, processor=longer)
    with pytest.raises(ValueError, match="florble, gnarf have no embedding"):
        HookedBLIP.from_hf(random_hf(tokenizer=processor().tokenizer), longer)
    model = HookedBLIP.from_pretrained(vqa_folder)
    model.tokenizer.add_tokens(["zzyzx"])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for question, answer in (("is this zzyzx?", "red"), ("is this red?", "zzyzx")):
        with pytest.raises(ValueError, match="has a word 'zzyzx' that the model has no embedding for"):
            model.prepare(image, question, answer)


def test_a_word_in_the_place_of_dec_is_found(bert):
    """Published tokenizers end where the model's [DEC] begins: an added word would read [DEC]'s embedding."""
    published = random_hf(tokenizer=processor().tokenizer, text={"vocab_size": 30_524, "bos_token_id": 30_522})
    mine = processor()
    mine.tokenizer = bert
    assert HookedBLIP.from_hf(published, mine).cfg.dec_token_id == len(bert)
    mine.tokenizer = copy.deepcopy(bert)
    mine.tokenizer.add_tokens(["florble"])
    with pytest.raises(ValueError, match="florble has no embedding"):
        HookedBLIP.from_hf(published, mine)
