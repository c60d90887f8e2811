"""A second, plain implementation: PyTorch hooks on the Hugging Face model, one activation at a time.

It shares no code with the package. `SITES` says by hand where each activation is in Hugging Face's modules. Three kinds
have no tensor there and are written as edits of what is next to them: the embeddings' two parts (`_attach_embedding`),
scores (the pattern is recomputed from queries and keys, `_attach_scores`), and what each head writes (the difference is
added to what all of them wrote, `_attach_result`).
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
# Hooks of one module run in the order in which they were attached: that of the forward pass.
ORDER = ("hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_q", "hook_k", "hook_v", "hook_attn_scores")
ORDER += ("hook_pattern", "hook_z", "hook_result", "hook_attn_out", "hook_cross_attn_out", "hook_resid_mid")


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
            for name in sorted(edits, key=_place):
                for handle in self._attach(name, edits[name]):
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
        if ".blocks." not in name:
            return self._attach_embedding(*name.split("."), edit)
        stack, _, layer, leaf = name.split(".", 3)
        block = self.layers(stack)[int(layer)]
        if leaf.endswith(".hook_attn_scores"):
            return self._attach_scores(stack, block, leaf.partition(".")[0], edit)
        if leaf.endswith(".hook_result"):
            return self._attach_result(stack, block, leaf.partition(".")[0], edit)
        site = SITES[stack][leaf]
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

    def _attach_embedding(self, stack: str, leaf: str, edit: Edit) -> list:
        if stack != "vision":
            bert = self.hf.text_encoder if stack == "text" else self.hf.text_decoder.bert
            embeddings = bert.embeddings
            part = embeddings.word_embeddings if leaf == "hook_embed" else embeddings.position_embeddings
            return [part.register_forward_hook(lambda m, args, out: edit(out.clone()))]

        def change(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            # The sum of a part that only the image decides on and one that nothing does: each as it was before edits.
            (pixels,) = args
            patches = module.patch_embedding(pixels).flatten(2).transpose(1, 2)
            parts = {
                "hook_embed": torch.cat([module.class_embedding.expand(len(pixels), 1, -1), patches], 1),
                "hook_pos_embed": module.position_embedding.expand_as(out),
            }
            return out + edit(parts[leaf].clone()) - parts[leaf]

        return [self.hf.vision_model.embeddings.register_forward_hook(change)]

    def _attention(self, stack: str, block: nn.Module, which: str) -> tuple[nn.Module, nn.Module]:
        """Where heads look, and where they write."""
        if stack == "vision":
            return block.self_attn, block.self_attn.projection
        attention = block.attention if which == "attn" else block.crossattention
        return attention.self, attention.output.dense

    def _attach_scores(self, stack: str, block: nn.Module, which: str, edit: Edit) -> list:
        attention, _ = self._attention(stack, block, which)
        n_heads = self.n_heads(stack)
        seen: dict[str, Tensor] = {}

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)

        def change(module: nn.Module, args: tuple, pattern: Tensor) -> Tensor:
            q, k = seen["qkv"].chunk(3, -1)[:2] if stack == "vision" else (seen["query"], seen["key"])
            q, k = heads(q), heads(k)
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if stack == "decoder" and which == "attn":
                future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(future, torch.finfo(scores.dtype).min)
            torch.testing.assert_close(scores.softmax(-1), pattern)  # the scores are those of this pattern
            return edit(scores).softmax(-1)

        def keep(name: str) -> Callable:
            return lambda m, args, out: seen.update({name: out})

        projections = ("qkv",) if stack == "vision" else ("query", "key")
        handles = [attention.get_submodule(name).register_forward_hook(keep(name)) for name in projections]
        return [*handles, attention.dropout.register_forward_hook(change)]

    def _attach_result(self, stack: str, block: nn.Module, which: str, edit: Edit) -> list:
        _, writes = self._attention(stack, block, which)
        n_heads = self.n_heads(stack)

        def change(module: Any, args: tuple, out: Tensor) -> Tensor:
            z = args[0].unflatten(-1, (n_heads, -1))
            weights = module.weight.unflatten(-1, (n_heads, -1)).unbind(1)  # of each head [d_model, d_head]
            result = torch.stack([z[:, :, head] @ weight.T for head, weight in enumerate(weights)], 2)
            return out + (edit(result.clone()) - result).sum(2)

        return [writes.register_forward_hook(change)]


def _place(name: str) -> int:
    leaf = name.rsplit(".", 1)[1]
    return ORDER.index(leaf) if leaf in ORDER else len(ORDER)
