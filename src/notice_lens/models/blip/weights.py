"""Loading: Hugging Face's weights, every key and every config field accounted for.

Hugging Face's names are translated one by one; what is left over on either side is an error that lists it. Two kinds of
key that older checkpoints carry and today's classes do not have are let through: position ids (a constant), and the
second copies of tied weights, which count where they differ.
"""

import difflib
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from notice_lens.errors import reading
from notice_lens.files import check_kinds, inside, read_json
from notice_lens.models.blip.config import STACKS_BY_CLASS, BLIPConfig, Kind, read_config
from notice_lens.models.bridge import refuse_bridge, without_bridges

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP

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

PUBLISHED = tuple(
    f"Salesforce/blip-{name}"
    for name in """vqa-base vqa-capfilt-large image-captioning-base image-captioning-large itm-base-coco itm-large-coco
    itm-base-flickr itm-large-flickr""".split()
)
"""Published checkpoints that can be loaded, for suggestions."""
_LFS = b"version https://git-lfs.github.com/spec/"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def port(cls: "type[HookedBLIP]", hf_model: nn.Module, processor: Any, enc_token: bool) -> "HookedBLIP":
    """A `HookedBLIP` with a copy of the weights of an in-memory Hugging Face model."""
    refuse_bridge(hf_model)
    hf_model = without_bridges(hf_model)
    refuse_wrapped(hf_model)
    ancestors = [ancestor.__name__ for ancestor in type(hf_model).__mro__]
    hf_class = next((name for name in ancestors if name in STACKS_BY_CLASS), ancestors[0])
    cfg = read_config(getattr(hf_model, "config", None), hf_class)
    return _build(cls, cfg, hf_model.state_dict(), processor, enc_token)


# Classes that wrap a model, and how to get at what is inside.
_WRAPPERS = {
    "OptimizedModule": ("torch.compile fuses steps, so that there is nothing to hook", "model._orig_mod"),
    "DataParallel": ("it copies the model to several GPUs for each run, and hooks are lost", "model.module"),
    "DistributedDataParallel": ("it is for distributed training", "model.module"),
    "FullyShardedDataParallel": ("each process holds a part of the weights only", "a model that is loaded whole"),
    "PeftModel": ("its adapters are no part of the weights", "model.merge_and_unload()"),
}
_ADAPTER = re.compile(r"(^|\.)(base_layer|lora_\w+|modules_to_save|adapter_\w+)\.")


def refuse_wrapped(model: nn.Module) -> None:
    """Refuse a model without plain weights of its own, with what it is and what to give instead.

    Raises:
        TypeError: It is compiled, parallel or wrapped by adapters.
        ValueError: Its weights are quantised, or on the meta device, which holds none.
    """
    for ancestor in type(model).__mro__:
        if ancestor.__name__ in _WRAPPERS:
            cause, inside = _WRAPPERS[ancestor.__name__]
            raise TypeError(f"the model is wrapped in {ancestor.__name__}: {cause}. Give {inside} instead")
    weights = model.state_dict()
    adapters = [name for name in weights if _ADAPTER.search(name)]
    if adapters:
        raise ValueError(
            f"the model has adapters in it, such as {adapters[0]}: merge them into its weights first "
            "(peft's merge_and_unload), or load it without them"
        )
    quantised = [
        name
        for name, weight in weights.items()
        if not isinstance(weight, Tensor) or not (weight.is_floating_point() or name.endswith("position_ids"))
    ]
    if quantised or getattr(model, "is_quantized", False):
        raise ValueError(
            f"the model's weights are quantised{f', such as {quantised[0]}' if quantised else ''}: hook points need "
            "plain ones, so load it without quantization_config, for instance with dtype=torch.bfloat16"
        )
    meta = [name for name, weight in weights.items() if weight.is_meta]
    if meta:
        raise ValueError(
            f"{len(meta)} of {len(weights)} weights are on the meta device, where there are no numbers, such as "
            f"{meta[0]}: load the model without device_map, or fill it by load_state_dict(..., assign=True)"
        )


def load_pretrained(
    cls: "type[HookedBLIP]",
    name_or_path: str | PathLike[str],
    revision: str | None,
    enc_token: bool,
    processor: Any = None,
) -> "HookedBLIP":
    """A `HookedBLIP` with the weights of a local folder or a hub id."""
    from transformers import BlipConfig

    files = _Files(str(name_or_path), revision)
    config = files.config()
    with reading(config):
        try:
            hf_config = BlipConfig.from_pretrained(str(name_or_path), revision=revision or "main")
        except Exception as error:  # which field it is stands in the second line
            raise ValueError(" ".join(str(error).split())) from error
    architectures = getattr(hf_config, "architectures", None) or []
    if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
        raise ValueError(
            f"config.json of {name_or_path} names {architectures or 'no'} architectures; expected one of "
            + ", ".join(STACKS_BY_CLASS)
        )
    cfg = read_config(
        hf_config,
        architectures[0],
        written=read_json(config),
        name_or_path=str(name_or_path),
        revision=revision,
    )
    if processor is None:
        processor = files.processor()
    elif isinstance(processor, str | PathLike):
        folder, processor = processor, _Files(str(processor), None).processor()
        if processor is None:
            raise FileNotFoundError(f"processor={str(folder)!r}: there is no tokenizer.json and no vocab.txt")
    return _build(cls, cfg, files.weights(), processor, enc_token)


def _build(
    cls: "type[HookedBLIP]", cfg: BLIPConfig, weights: Mapping[str, Tensor], processor: Any, enc_token: bool
) -> "HookedBLIP":
    # On the meta device nothing is allocated or initialised before the weights are there.
    with torch.device("meta"):
        blip = cls(cfg, processor, enc_token=enc_token)
    translated = translate(weights, {name: weight.shape for name, weight in blip.state_dict().items()}, cfg.kind)
    refuse_broken(translated)
    check_processor(processor, cfg)
    # Every weight gets memory of its own: it may be the caller's, a slice of a fused one, or a page of a file.
    own = {name: weight.detach().clone(memory_format=torch.contiguous_format) for name, weight in translated.items()}
    blip.load_state_dict(own, strict=True, assign=True)
    return blip


def refuse_broken(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError for weights that are integers, NaN or infinite."""
    whole = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if whole:
        raise ValueError(
            f"{len(whole)} of {len(weights)} weights are of {weights[whole[0]].dtype}, such as {whole[0]}: they are "
            "quantised, and hook points need plain ones, so load a checkpoint that is not quantised"
        )
    # Smallest and largest carry a NaN along, and take no memory.
    bad = [name for name, weight in weights.items() if not all(map(torch.isfinite, torch.aminmax(weight.detach())))]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(weights)} weights are NaN or infinite, such as {bad[0]}: the checkpoint is damaged, "
            "its training diverged, or its numbers are too large for this dtype (try float32 or bfloat16)"
        )


def check_processor(processor: Any, cfg: BLIPConfig) -> None:
    """Raise if a processor is invalid, or its tokenizer has words without an embedding in the model."""
    stack = cfg.text or cfg.decoder
    if processor is None or stack is None or stack.d_vocab is None:
        return
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise TypeError(
            f"processor is a {type(processor).__name__}; expected a BlipProcessor, which has an image processor and a "
            "tokenizer"
        )
    tokenizer = processor.tokenizer
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    beyond = [words[number] for number in sorted(words) if number >= stack.d_vocab]
    at_dec = words.get(cfg.dec_token_id)
    # Published tokenizers end where [DEC] begins: a word that is added to them gets its place, without a word.
    if (
        at_dec not in (None, "[DEC]")
        and at_dec in tokenizer.get_added_vocab()
        and at_dec not in tokenizer.all_special_tokens
    ):
        beyond.insert(0, at_dec)
    if beyond:
        raise ValueError(
            f"the tokenizer has {len(words)} words and the model's embedding {stack.d_vocab}: {', '.join(beyond[:5])} "
            f"{'has' if len(beyond) == 1 else 'have'} no embedding (or that of [DEC]). Words were added to the "
            "tokenizer alone: add them to the model too (resize_token_embeddings) and train it, or load it with its "
            "own tokenizer (processor=...)"
        )


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

    def config(self) -> str:
        """Return the path of config.json. Raises FileNotFoundError with what to load instead if it is missing."""
        if self.find("config.json") is not None:
            return self.checked_json("config.json")
        missing = "no such folder, or no config.json in it" + self._meant()
        if self.local and self.find("adapter_config.json") is not None:
            missing = (
                "there is an adapter_config.json and no config.json, so these are adapters and not a model: load their "
                "base model, merge them into it (peft's merge_and_unload), and give it to from_hf"
            )
        elif not self.local:
            missing = "no such model on the hub, or, without a network, none in its cache" + self._meant()
        raise FileNotFoundError(f"cannot load {self.name_or_path!r}: {missing}")

    def _meant(self) -> str:
        name = Path(self.name_or_path).name.lower()
        published = {own.partition("/")[2]: own for own in PUBLISHED}
        close = difflib.get_close_matches(name, published, 1, cutoff=0.8)
        return f"; did you mean {published[close[0]]}?" if close and published[close[0]] != self.name_or_path else ""

    def find(self, file: str) -> str | None:
        """Return the local path of a file, fetched from the hub where necessary, or None if it does not exist."""
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

    def checked(self, file: str) -> str | None:
        """Return the local path of a file that is there in full, or None.

        Raises:
            ValueError: It is empty, or stands for a file that Git LFS has not fetched.
        """
        path = self.find(file)
        if path is not None:
            with reading(path), open(path, "rb") as opened:
                begin = opened.read(len(_LFS))
                if begin == _LFS:
                    raise ValueError("it is a Git LFS pointer and not the file itself; `git lfs pull` fetches that")
                if not begin:
                    raise ValueError("it is empty")
        return path

    def checked_json(self, file: str) -> str:
        """Return the local path of a JSON file that holds a mapping. Raises ValueError if it holds anything else."""
        path = self.checked(file) or str(Path(self.name_or_path) / file)
        content = read_json(path)
        with reading(path):
            check_kinds(content, {})
        return path

    def weights(self) -> dict[str, Tensor]:
        """The state dict: safetensors where there are any, else pickles read with `weights_only=True`."""
        for name in _WEIGHTS:
            path = self.checked(name)
            if path is not None:
                return self._of_shards(name) if name.endswith(".index.json") else self._read(path)
        raise FileNotFoundError(f"no weights in {self.name_or_path!r}; looked for {', '.join(_WEIGHTS)}")

    def _of_shards(self, index: str) -> dict[str, Tensor]:
        path = self.checked_json(index)
        content = read_json(path)
        with reading(path):
            shards = sorted(set(content["weight_map"].values()))
            for shard in shards:
                if inside(Path(path).parent, shard).name.endswith(".index.json"):
                    raise ValueError(f"it names another index, {shard}; expected files of weights")
        found: dict[str, Tensor] = {}
        for shard in shards:
            shard_path = self.checked(shard)
            if shard_path is None:
                raise FileNotFoundError(f"{path} names {shard}, which is not there")
            found |= self._read(shard_path)
        return found

    @staticmethod
    def _read(path: str) -> dict[str, Tensor]:
        with reading(path):
            if path.endswith(".safetensors"):
                from safetensors.torch import load_file

                return load_file(path)
            try:
                found = torch.load(path, map_location="cpu", weights_only=True)
            except UnpicklingError as error:
                raise ValueError("it is no pickle of weights alone, and code in it is not run") from error
            if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
                raise ValueError("it holds something else than weights by name")
            return found

    def processor(self) -> Any:
        """The BlipProcessor beside the weights; None where there is no tokenizer."""
        from tokenizers import Tokenizer
        from transformers import BlipProcessor

        tokenizer = next((file for file in ("tokenizer.json", "vocab.txt") if self.find(file)), None)
        if tokenizer is None:
            return None
        for file in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"):
            if self.find(file):
                path = self.checked_json(file)
                with reading(path):
                    if file == "tokenizer.json":
                        Tokenizer.from_file(path)
        self.checked(tokenizer)
        with reading(self.name_or_path):
            return BlipProcessor.from_pretrained(self.name_or_path, revision=self.revision or "main")
