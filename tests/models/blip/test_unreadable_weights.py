"""Checkpoints that cannot be read: broken, linked or dangerous files, and numbers that are no weights."""

import io
import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import edit_config, edit_weights, same_weights
from notice_lens import HookedBLIP
from notice_lens.models.blip.random_blip import random_hf, save_random_checkpoint


@pytest.fixture
def vqa_folder(tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", "vqa")


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
            "names BlipForQuestionAnswering arch.*; expected one of|Field 'architectures' expected a list, got str",
        ),
        (None, {"quantization_config": {"load_in_8bit": True, "quant_method": "bitsandbytes"}}, "is quantised"),
    ],
)
def test_a_value_of_the_config_that_cannot_be_is_named(vqa_folder, part, fields, message):
    edit_config(vqa_folder, part, **fields)
    with pytest.raises(ValueError, match=message):
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
