"""A second, plain implementation: PyTorch hooks on the Hugging Face model, one activation at a time.

It shares no code with the package. `SITES` says by hand where each activation is in Hugging Face's modules.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Site:
    """Where an activation is: a module of a layer, its input or its output, and how to see heads in it."""

    module: str
    side: str  # "in" or "out"
    heads: bool = False
    third: int | None = None  # of a fused query-key-value projection
    added_to_input: bool = False  # the stream: what the module puts out plus the layer's input


VISION = {
    "hook_resid_pre": Site("", "in"),
    "attn.hook_q": Site("self_attn.qkv", "out", heads=True, third=0),
    "attn.hook_k": Site("self_attn.qkv", "out", heads=True, third=1),
    "attn.hook_v": Site("self_attn.qkv", "out", heads=True, third=2),
    "attn.hook_pattern": Site("self_attn.dropout", "out"),
    "attn.hook_z": Site("self_attn.projection", "in", heads=True),
    "hook_attn_out": Site("self_attn.projection", "out"),
    "hook_resid_mid": Site("self_attn.projection", "out", added_to_input=True),
    "mlp.hook_pre": Site("mlp.fc1", "out"),
    "mlp.hook_post": Site("mlp.fc2", "in"),
    "hook_mlp_out": Site("mlp.fc2", "out"),
    "hook_resid_post": Site("", "out"),
}


def bert_attention(ours: str, theirs: str, out: str, mid: str) -> dict[str, Site]:
    return {
        f"{ours}.hook_q": Site(f"{theirs}.self.query", "out", heads=True),
        f"{ours}.hook_k": Site(f"{theirs}.self.key", "out", heads=True),
        f"{ours}.hook_v": Site(f"{theirs}.self.value", "out", heads=True),
        f"{ours}.hook_pattern": Site(f"{theirs}.self.dropout", "out"),
        f"{ours}.hook_z": Site(f"{theirs}.output.dense", "in", heads=True),
        out: Site(f"{theirs}.output.dense", "out"),
        mid: Site(f"{theirs}.output.LayerNorm", "in"),
    }


TEXT = {
    "hook_resid_pre": Site("", "in"),
    **bert_attention("attn", "attention", "hook_attn_out", "hook_resid_mid"),
    **bert_attention("cross_attn", "crossattention", "hook_cross_attn_out", "hook_resid_mid_cross"),
    "mlp.hook_pre": Site("intermediate.dense", "out"),
    "mlp.hook_post": Site("output.dense", "in"),
    "hook_mlp_out": Site("output.dense", "out"),
    "hook_resid_post": Site("output.LayerNorm", "in"),
    "hook_normalized_resid_post": Site("", "out"),
}
SITES = {"vision": VISION, "text": TEXT, "decoder": TEXT}


class Oracle:
    def __init__(self, hf: Any, kind: str):
        self.hf, self.kind = hf, kind

    def layers(self, stack: str) -> Any:
        if stack == "vision":
            return self.hf.vision_model.encoder.layers
        return (self.hf.text_encoder if stack == "text" else self.hf.text_decoder.bert).encoder.layer

    def n_heads(self, stack: str) -> int:
        config = self.hf.config.vision_config if stack == "vision" else self.hf.config.text_config
        return config.num_attention_heads

    @torch.no_grad()
    def logits(self, pixel_values: Tensor, input_ids: Tensor, answer_ids: Tensor | None = None) -> Tensor:
        """The logits by Hugging Face's own modules; no padding, so no masks."""
        image = self.hf.vision_model(pixel_values=pixel_values).last_hidden_state
        if self.kind == "caption":
            return self.hf.text_decoder(input_ids=input_ids, encoder_hidden_states=image).logits
        states = self.hf.text_encoder(input_ids=input_ids, encoder_hidden_states=image).last_hidden_state
        if self.kind == "match":
            return self.hf.itm_head(states[:, 0])
        if answer_ids is None:
            answer_ids = torch.full((len(states), 1), self.hf.config.text_config.bos_token_id)
        return self.hf.text_decoder(input_ids=answer_ids, encoder_hidden_states=states).logits

    def run(self, inputs: tuple, edits: dict[str, Edit]) -> Tensor:
        """The logits with activations edited, `{full hook name: edit}`."""
        with ExitStack() as hooks:
            for name, edit in edits.items():
                for handle in self._attach(name, edit):
                    hooks.callback(handle.remove)
            return self.logits(*inputs)

    def record(self, inputs: tuple, names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits and a copy of each of these activations."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Edit:
            def edit(activation: Tensor) -> Tensor:
                found[name] = activation.clone()
                return activation

            return edit

        logits = self.run(inputs, {name: keep(name) for name in names})
        return logits, found

    def _attach(self, name: str, edit: Edit) -> list:
        stack, _, layer, leaf = name.split(".", 3)
        site = SITES[stack][leaf]
        block = self.layers(stack)[int(layer)]
        module = block.get_submodule(site.module)
        n_heads = self.n_heads(stack)
        residual: list[Tensor] = []

        def change(x: Tensor) -> Tensor:
            whole, part = x, x
            if site.third is not None:
                part = whole.chunk(3, -1)[site.third]
            if site.added_to_input:
                part = part + residual[-1]
            new = edit(part.unflatten(-1, (n_heads, -1)).clone() if site.heads else part.clone())
            new = new.flatten(-2) if site.heads else new
            if site.added_to_input:
                new = new - residual[-1]
            if site.third is not None:
                thirds = list(whole.chunk(3, -1))
                thirds[site.third] = new
                new = torch.cat(thirds, -1)
            return new

        handles = []
        if site.added_to_input:
            handles.append(block.register_forward_pre_hook(lambda m, args: residual.append(args[0])))
        if site.side == "in":
            handles.append(module.register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:])))
        else:
            handles.append(module.register_forward_hook(lambda m, args, out: change(out)))
        return handles
