"""Differences between families of vision-language models, as data; public interfaces give everything else.

transformers says where the language model is (`get_decoder`), where the vision tower (`get_encoder("image")`), the
embeddings and the unembedding. Inside, families call the same thing by different names; `NAMES` lists them. A model of
a family that is not in `FAMILIES` is hosted all the same if its modules have these names; `HookedVLM.check` says
whether every hook point does what it promises.

What a module's name cannot say is in `FAMILIES`: notes for the table of hook points, how prompts are written where
there is no chat template, and whether the tests compare patches of the family with forward passes. What cannot be
hooked is in `REFUSED`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

NAMES: Mapping[str, tuple[str, ...]] = {
    # Of the whole model.
    "projector": ("multi_modal_projector", "connector", "merger", "language_projection"),
    "qformer": ("qformer",),
    "deepstack": ("deepstack_merger_list",),
    "ln_final": ("norm", "final_layernorm", "ln_f", "final_layer_norm"),
    # Of a block. The order counts: where there are norms on both sides, the one before the MLP comes first.
    "attn": ("self_attn", "attn", "attention"),
    "cross_attn": ("cross_attn", "crossattention"),
    "mlp": ("mlp", "feed_forward"),
    "resid_mid": (
        *("pre_feedforward_layernorm", "post_attention_layernorm", "layer_norm2", "norm2", "layernorm_after"),
        *("ffn_norm", "final_layer_norm"),
    ),
    "attn_out_norm": ("post_self_attn_layernorm",),
    "mlp_out_norm": ("post_feedforward_layernorm", "post_mlp_layernorm"),
    # Of attention.
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "qkv": ("qkv", "qkv_proj"),
    "o": ("o_proj", "out_proj", "projection_layer", "proj", "projection"),
    # Of an MLP: with a gate, or without.
    "gate": ("gate_proj",),
    "up": ("up_proj",),
    "gate_up": ("gate_up_proj",),
    "fc": ("fc1", "linear_fc1"),
    "down": ("down_proj", "fc2", "linear_fc2"),
    # Of a Q-Former's block: what its learned queries go through, and how BERT adds to the stream.
    "query_fc": ("intermediate_query",),
    "query_output": ("output_query",),
    "output": ("output",),
    "dense": ("dense",),
    "sum_norm": ("LayerNorm",),
}
"""Our name of a module to the names that families have for it."""

SANDWICH_NORMS = ("pre_feedforward_layernorm",)
"""Where a block has one of these, its `post_attention_layernorm` is what attention's output goes through."""

REFUSED: Mapping[str, str] = {
    "linear_attn": "a recurrent mixer (linear attention)",
    "mamba": "a recurrent mixer (Mamba)",
    "mixer": "a recurrent mixer",
    "conv": "a convolution instead of attention",
    "short_conv": "a convolution instead of attention",
}
"""Children of a block in place of attention, and what they are."""


@dataclass(frozen=True)
class Family:
    """The peculiarities of one family.

    Attributes:
        name: As people say it.
        tested: Whether the tests compare patches of this family with forward passes. Others are checked before their
            first result, whatever else is said of them here.
        inert: Leaf of a hook point, with its stack, to the reason why editing it may change nothing.
        notes: Leaf of a hook point, with its stack, to what a reader of the table should know.
        plain_prompt: The format of prompts where there is no chat template, with `{image}` and `{prompt}`.
        read_as: What the processor makes of such a prompt after the image, with `{start}` and `{prompt}`.
        answer_argument: The processor's argument for answers, where the text must not hold them: a prompt that sees
            itself both ways would see its answer.
        image_in_front: Whether the processor puts the image's tokens in front of the text by itself, even before the
            start token: the image's token is then taken out of a prompt again before the processor reads it.
    """

    name: str
    tested: bool = False
    inert: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    plain_prompt: str = ""
    read_as: str = ""
    answer_argument: str = ""
    image_in_front: bool = False


_WINDOWS = {"projector.hook_out": "in the order of the tower's windows; the model sorts them afterwards"}
_MLLAMA = {
    "language.hook_cross_attn_out": "before the block's gate",
    "language.cross_attn.hook_q": "before the norm of queries",
    "language.cross_attn.hook_k": "before the norm of keys; positions are the image's",
    "vision.hook_attn_out": "before the gate, in global layers",
    "vision.hook_mlp_out": "before the gate, in global layers",
}
_INTERNVL = {"vision.hook_attn_out": "before the layer scale", "vision.hook_mlp_out": "before the layer scale"}
_OPT = {"language.attn.hook_q": "before the scaling of queries, which OPT does first"}

FAMILIES: Mapping[str, Family] = {
    "llava": Family("LLaVA", tested=True),
    "vipllava": Family("VipLLaVA", tested=True),
    "llava_next": Family("LLaVA-NeXT", tested=True),
    "llava_onevision": Family("LLaVA-OneVision", tested=True),
    "qwen2_vl": Family("Qwen2-VL", tested=True),
    "qwen2_5_vl": Family("Qwen2.5-VL", tested=True, notes=_WINDOWS),
    "qwen3_vl": Family("Qwen3-VL", tested=True),
    "gemma3": Family("Gemma 3", tested=True),
    "paligemma": Family(
        "PaliGemma", tested=True, plain_prompt="{image}{prompt}", read_as="{start}{prompt}\n", answer_argument="suffix"
    ),
    "idefics3": Family("Idefics3", tested=True),
    "smolvlm": Family("SmolVLM", tested=True),
    "internvl": Family("InternVL", tested=True, notes=_INTERNVL),
    "mllama": Family("Llama-3.2-Vision", tested=True, notes=_MLLAMA),
    "blip-2": Family(
        "BLIP-2", tested=True, notes=_OPT, plain_prompt="{image}Question: {prompt} Answer:", image_in_front=True
    ),
    "instructblip": Family(
        "InstructBLIP", tested=True, plain_prompt="{image}Question: {prompt} Short answer:", image_in_front=True
    ),
}
"""By `config.model_type`."""


def family_of(config: Any) -> Family:
    """Return the family of a config; an unknown one has the name of its model type and no notes."""
    return FAMILIES.get(config.model_type, Family(config.model_type))


def child(module: nn.Module, role: str) -> nn.Module | None:
    """Return the child of `module` that plays `role`, by whatever name, or None."""
    for name in NAMES[role]:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    return None


def attention_output(block: nn.Module, attention: nn.Module) -> nn.Module:
    """Return the module whose output is added to the stream for attention: a norm after it, or itself."""
    if any(hasattr(block, name) for name in SANDWICH_NORMS):
        return block.get_submodule("post_attention_layernorm")
    return child(block, "attn_out_norm") or attention


def mlp_output(block: nn.Module, mlp: nn.Module) -> nn.Module:
    """Return the module whose output is added to the stream for the MLP: a norm after it, or itself."""
    return child(block, "mlp_out_norm") or mlp


def feature_layers(config: Any) -> Any:
    """Return the number or numbers of the tower's states that the model reads; None where the config does not say.

    VipLLaVA says them in the plural in earlier versions of transformers.
    """
    chosen = getattr(config, "vision_feature_layer", None)
    return getattr(config, "vision_feature_layers", None) if chosen is None else chosen


def unread_vision_layers(config: Any, n_layers: int) -> range:
    """Return the layers of the vision tower after the last one whose states the model reads: they have no effect."""
    chosen = feature_layers(config)
    if chosen is None:
        return range(0)
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    # States are counted from the embeddings on: -1, like n_layers, is what the last block gives.
    last = max(layer % (n_layers + 1) for layer in layers)
    return range(last, n_layers)


def image_token_id(config: Any) -> int | None:
    """Return the id that stands where the image's positions are; None where the config does not say."""
    for name in ("image_token_id", "image_token_index"):
        found = getattr(config, name, None)
        if found is not None:
            return int(found)
    return None


def learned_queries(config: Any) -> int:
    """Return how many learned queries a Q-Former turns a picture into; 0 for a model without a Q-Former."""
    return int(config.num_query_tokens) if getattr(config, "qformer_config", None) is not None else 0
