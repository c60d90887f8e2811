"""Loading: Hugging Face's weights, every key and every config field accounted for.

Hugging Face's names are translated one by one; what is left over on either side is an error that lists it. Two kinds of
key that older checkpoints carry and today's classes do not have are let through: position ids (a constant), and the
second copies of tied weights, which count where they differ.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from notice_lens.files import inside
from notice_lens.models.config import KINDS, BLIPConfig, Kind, read_config

if TYPE_CHECKING:
    from notice_lens.models.hooked_blip import HookedBLIP

# Hugging Face's names, piece by piece, in our words. The first rule that fits a key is used.
_BERT = [
    (r"embeddings\.word_embeddings\.(\w+)", r"word_embedding.\1"),
    (r"embeddings\.position_embeddings\.(\w+)", r"position_embedding.\1"),
    (r"embeddings\.LayerNorm\.(\w+)", r"ln_embed.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.output.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(\w+)", r"blocks.\1.ln1.\2"),
    (r"encoder\.layer\.(\d+)\.crossattention\.self\.(query|key|value)\.(\w+)", r"blocks.\1.cross_attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.crossattention\.output\.dense\.(\w+)", r"blocks.\1.cross_attn.output.\2"),
    (r"encoder\.layer\.(\d+)\.crossattention\.output\.LayerNorm\.(\w+)", r"blocks.\1.ln2.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.input.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.output.\2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)", r"blocks.\1.ln3.\2"),
]
_RULES = [
    (r"vision_model\.embeddings\.(class_embedding|position_embedding|patch_embedding\.\w+)", r"vision.\1"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.(\w+)", r"vision.blocks.\1.attn.output.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"vision.blocks.\1.ln\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"vision.blocks.\1.mlp.input.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"vision.blocks.\1.mlp.output.\2"),
    (r"vision_model\.post_layernorm\.(\w+)", r"vision.ln_final.\1"),
    *((r"text_encoder\." + theirs, "text." + ours) for theirs, ours in _BERT),
    *((r"text_decoder\.bert\." + theirs, "decoder." + ours) for theirs, ours in _BERT),
    (r"text_decoder\.cls\.predictions\.transform\.dense\.(\w+)", r"head.dense.\1"),
    (r"text_decoder\.cls\.predictions\.transform\.LayerNorm\.(\w+)", r"head.ln.\1"),
    (r"text_decoder\.cls\.predictions\.decoder\.weight", "head.unembed.weight"),
    (r"text_decoder\.cls\.predictions\.decoder\.bias", "head.unembed.bias"),
    (r"text_decoder\.cls\.predictions\.bias", "head.bias"),
    (r"itm_head\.(\w+)", r"head.match.\1"),
]
_QKV = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.(weight|bias)")

# Tied to another weight where a checkpoint leaves them out, as safetensors do. Where they are there, they count.
_TIED = {"head.unembed.weight": "decoder.word_embedding.weight", "head.unembed.bias": "head.bias"}

# Left over, by kind of model, and why that is right.
_POSITION_IDS = r"(vision_model|text_encoder|text_decoder\.bert)\.embeddings\.position_ids"
_LEFT_OVER = {
    "vqa": [_POSITION_IDS],  # a constant, 0 to n, that older versions saved
    "caption": [_POSITION_IDS],
    # The contrastive score of retrieval has no cross-attention and is not ported.
    "match": [_POSITION_IDS, r"(vision|text)_proj\.(weight|bias)"],
}

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def port(cls: "type[HookedBLIP]", hf_model: nn.Module, processor: Any, enc_token: bool) -> "HookedBLIP":
    """A `HookedBLIP` with a copy of the weights of an in-memory Hugging Face model."""
    ancestors = [ancestor.__name__ for ancestor in type(hf_model).__mro__]
    hf_class = next((name for name in ancestors if name in KINDS), ancestors[0])
    cfg = read_config(getattr(hf_model, "config", None), hf_class)
    weights = {name: weight.detach().clone() for name, weight in hf_model.state_dict().items()}
    return _build(cls, cfg, weights, processor, enc_token)


def load_pretrained(
    cls: "type[HookedBLIP]", name_or_path: str | PathLike[str], revision: str | None, enc_token: bool
) -> "HookedBLIP":
    """A `HookedBLIP` with the weights of a local folder or a hub id."""
    from transformers import BlipConfig

    files = _Files(str(name_or_path), revision)
    hf_config = BlipConfig.from_pretrained(str(name_or_path), revision=revision or "main")
    architectures = getattr(hf_config, "architectures", None) or []
    if len(architectures) != 1:
        raise ValueError(
            f"config.json of {name_or_path} names {architectures or 'no'} architectures; expected one of "
            + ", ".join(KINDS)
        )
    cfg = read_config(hf_config, architectures[0], name_or_path=str(name_or_path), revision=revision)
    return _build(cls, cfg, files.weights(), files.processor(), enc_token)


def _build(
    cls: "type[HookedBLIP]", cfg: BLIPConfig, weights: Mapping[str, Tensor], processor: Any, enc_token: bool
) -> "HookedBLIP":
    # On the meta device nothing is allocated or initialised before the weights are there.
    with torch.device("meta"):
        blip = cls(cfg, processor, enc_token=enc_token)
    translated = translate(weights, {name: weight.shape for name, weight in blip.state_dict().items()}, cfg.kind)
    # Tied weights and slices of fused ones get memory of their own.
    own = {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in translated.items()}
    blip.load_state_dict(own, strict=True, assign=True)
    return blip


def translate(weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size], kind: Kind) -> dict[str, Tensor]:
    """Hugging Face's weights under our names.

    Args:
        weights: Hugging Face's state dict.
        expected: Our names and shapes.
        kind: Of the model.

    Raises:
        ValueError: Weights are missing, unknown or of another shape; all of them are listed.
    """
    found: dict[str, Tensor] = {}
    unknown = []
    for name, weight in weights.items():
        ours = translate_one(name, weight, kind)
        if ours is None:
            unknown.append(name)
        else:
            found |= ours
    for name, source in _TIED.items():
        if name in expected and source in found:
            found.setdefault(name, found[source])
    found.pop("head.bias", None)
    missing = sorted(set(expected) - set(found))
    unknown += sorted(set(found) - set(expected))
    shapes = [
        f"{name} is {list(found[name].shape)}, the config says {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ValueError("weights do not fit the model. " + "; ".join(problems))
    return found


def translate_one(name: str, weight: Tensor, kind: Kind) -> dict[str, Tensor] | None:
    """Our names for one of Hugging Face's weights: none for what may be left over; None for an unknown key.

    Args:
        name: Hugging Face's name.
        weight: The weight; queries, keys and values that are one there are three here.
        kind: Of the model.
    """
    if any(re.fullmatch(pattern, name) for pattern in _LEFT_OVER[kind]):
        return {}
    if fused := _QKV.fullmatch(name):
        layer, which = fused.groups()
        parts = zip(("query", "key", "value"), weight.chunk(3), strict=True)
        return {f"vision.blocks.{layer}.attn.{part}.{which}": third for part, third in parts}
    for pattern, ours in _RULES:
        if match := re.fullmatch(pattern, name):
            return {match.expand(ours): weight}
    return None


class _Files:
    """The files of a checkpoint, in a local folder or on the hub."""

    def __init__(self, name_or_path: str, revision: str | None):
        self.name_or_path = name_or_path
        self.revision = revision
        # A hub id is `owner/model`; anything else can only be a folder.
        self.local = Path(name_or_path).is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path)
        if self.find("config.json") is None:
            missing = "no such folder, or no config.json in it"
            if not self.local:
                missing = "no such model on the hub, or, without a network, none in its cache"
            raise FileNotFoundError(f"cannot load {name_or_path!r}: {missing}")

    def find(self, file: str) -> str | None:
        """The local path of a file, fetched from the hub where necessary; None where there is none."""
        if self.local:
            path = Path(self.name_or_path) / file
            return str(path) if path.is_file() else None
        from transformers.utils.hub import cached_file

        return cached_file(
            self.name_or_path,
            file,
            revision=self.revision,
            _raise_exceptions_for_missing_entries=False,
        )

    def weights(self) -> dict[str, Tensor]:
        """The state dict: safetensors where there are any, else pickles read with `weights_only=True`."""
        for name in _WEIGHTS:
            path = self.find(name)
            if path is not None:
                return self._read(path)
        raise FileNotFoundError(f"no weights in {self.name_or_path!r}; looked for {', '.join(_WEIGHTS)}")

    def _read(self, path: str) -> dict[str, Tensor]:
        if path.endswith(".index.json"):
            import json

            shards = sorted(set(json.loads(Path(path).read_text())["weight_map"].values()))
            found: dict[str, Tensor] = {}
            for shard in shards:
                if inside(Path(path).parent, shard).name.endswith(".index.json"):
                    raise ValueError(f"{path} names another index, {shard}; expected files of weights")
                shard_path = self.find(shard)
                if shard_path is None:
                    raise FileNotFoundError(f"{path} names {shard}, which is not there")
                found |= self._read(shard_path)
            return found
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))

    def processor(self) -> Any:
        """The BlipProcessor beside the weights; None where there is no tokenizer."""
        from transformers import BlipProcessor

        has_tokenizer = self.find("tokenizer.json") or self.find("vocab.txt")
        if not has_tokenizer:
            return None
        return BlipProcessor.from_pretrained(self.name_or_path, revision=self.revision or "main")
