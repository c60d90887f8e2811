"""A full forward pass for each patch, with torch's own hooks on Hugging Face's modules: nothing of notice-lens."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Patch(NamedTuple):
    site: str
    layer: int
    positions: tuple[int, ...]
    head: int | None = None


def decoder_of(model: Any) -> Any:
    """The module that holds the language model's blocks, which may be inside of one that has the unembedding too."""
    language = model.get_decoder()
    while (inner := language.get_decoder()) is not language:
        language = inner
    return language


def final_norm(model: Any) -> Any:
    """The norm after the last block."""
    decoder = decoder_of(model)
    return decoder.norm if hasattr(decoder, "norm") else decoder.final_layer_norm


def attention(block: Any) -> Any:
    return block.self_attn if hasattr(block, "self_attn") else block.cross_attn


def places(block: Any) -> dict[str, tuple[Any, str]]:
    """The module and the side of it where each activation is."""
    own = attention(block)
    found = {
        "z": (getattr(own, "o_proj", None) or getattr(own, "out_proj", None), "in"),
        "q": (own.q_proj, "out"), "k": (own.k_proj, "out"), "v": (own.v_proj, "out"),
        "attn_out": (own, "out"), "resid_pre": (block, "in"), "resid_post": (block, "out"),
    }  # fmt: skip
    if not hasattr(block, "mlp"):  # OPT's block holds its MLP's layers itself
        return {**found, "mlp.pre": (block.fc1, "out"), "mlp.post": (block.fc2, "in"), "mlp_out": (block.fc2, "out")}
    found |= {"mlp_out": (block.mlp, "out"), "mlp.post": (block.mlp.down_proj, "in")}
    if hasattr(block.mlp, "gate_proj"):
        found["mlp.pre"] = (block.mlp.gate_proj, "out")
        found["mlp.pre_linear"] = (block.mlp.up_proj, "out")
    if hasattr(block, "post_self_attn_layernorm"):
        found["attn_out"] = (block.post_self_attn_layernorm, "out")
        found["mlp_out"] = (block.post_mlp_layernorm, "out")
    if hasattr(block, "pre_feedforward_layernorm"):
        found["attn_out"] = (block.post_attention_layernorm, "out")
        found["mlp_out"] = (block.post_feedforward_layernorm, "out")
    return found


def hook(module: Any, side: str, change_rows: Callable[[Tensor], Tensor]) -> Any:
    def change(tensor: Tensor) -> Tensor:
        """OPT's MLP sees the positions of all examples, here one, in one axis."""
        return change_rows(tensor[None])[0] if tensor.dim() == 2 else change_rows(tensor)

    if side == "in":
        return module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    return module.register_forward_hook(
        lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
    )


@torch.no_grad()
def activations(model: Any, inputs: Mapping[str, Any], site: str) -> list[Tensor]:
    """The activation of every layer, [batch, pos, width]."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor.clone())
        return tensor

    with ExitStack() as hooks:
        for block in decoder_of(model).layers:
            hooks.callback(hook(*places(block)[site], keep).remove)
        model(**inputs)
    return found


def put(tensor: Tensor, new: Tensor | float, patch: Patch, d_head: int) -> Tensor:
    tensor = tensor.clone()
    width = slice(None) if patch.head is None else slice(patch.head * d_head, (patch.head + 1) * d_head)
    at = list(patch.positions)
    tensor[:, at, width] = new[:, at, width] if isinstance(new, Tensor) else new
    return tensor


@torch.no_grad()
def logits(
    model: Any, inputs: Mapping[str, Any], patches: list[Patch], values: Mapping[str, list[Tensor]] | float
) -> Tensor:
    """The last position's logits of a run with patches made, in their order."""
    blocks = decoder_of(model).layers
    with ExitStack() as hooks:
        for patch in patches:
            block = blocks[patch.layer]
            new = values if isinstance(values, float) else values[patch.site][patch.layer]
            change = partial(put, new=new, patch=patch, d_head=attention(block).head_dim)
            hooks.callback(hook(*places(block)[patch.site], change).remove)
        return model(**inputs).logits[0, -1]
