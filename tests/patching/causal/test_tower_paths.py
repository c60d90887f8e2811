"""Paths from the vision tower and the projector, against four forward passes a path by torch's own hooks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal.test_decoder_paths import PathOracle
from causal.test_vision_tower import WRITES
from forward_oracle import Patch, activations, logits
from hosted_pairs import FAMILIES, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits, patching
from notice_lens.patching.engine.causal.tower_paths import frozen_hooks
from notice_lens.patching.engine.causal.upstream import Given

pytestmark = LIBRARY_WARNINGS

WITHOUT: tuple[str, ...] = ("qwen3_vl", "mllama", "blip-2", "instructblip")
"""Families whose tower reaches the language model by more than its embeddings."""
THOROUGH = ("llava", "gemma3", "qwen2_5_vl")
PROJECTORS = ("multi_modal_projector", "visual.merger", "connector")
HEAD = 1


class Sent(NamedTuple):
    """A sender: `z` of a head, what an MLP writes, or the projector's output; at some positions, or at all."""

    site: str
    layer: int = 0
    positions: Sequence[int] | None = None

    @property
    def name(self) -> str:
        return {"z": "vision.attn", "mlp_out": "vision.mlp_out", "out": "projector.out"}[self.site]


class TowerOracle(PathOracle):
    """Paths from a picture's parts: the tower frozen by hooks on Hugging Face's modules, as the language model is."""

    def __init__(self, model: HookedVLM, pairs: Any, number: int, **options: Any) -> None:
        super().__init__(model, pairs, number, **options)
        self.width = model.cfg.vision.d_head
        named = [name for name, _ in self.hf.named_modules() if ("vision" in name or "visual" in name)]
        attentions = [name.rpartition(".")[0] for name in named if name.endswith(WRITES)]
        writes = [name for name in named if name.endswith(WRITES)]
        self.tower: dict[str, list[nn.Module]] = {
            "z": [self.hf.get_submodule(name) for name in writes],
            "mlp_out": [self.hf.get_submodule(name.rpartition(".")[0]).mlp for name in attentions],
            "out": [next(module for name, module in self.hf.named_modules() if name.endswith(PROJECTORS))],
        }
        self.of_tower = {which: self._kept(inputs) for which, inputs in (("base", self.base), ("other", self.other))}

    def _watch(self, hooks: ExitStack, site: str, layer: int, change: Callable[[Tensor], Tensor]) -> None:
        """Let `change` see a tensor of the tower and return what takes its place."""
        module = self.tower[site][layer]
        if site == "z":
            handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
        else:
            handle = module.register_forward_hook(lambda _, __, out: change(out), prepend=True)
        hooks.callback(handle.remove)

    @torch.no_grad()
    def _kept(self, inputs: Any) -> dict[tuple[str, int], Tensor]:
        kept: dict[tuple[str, int], Tensor] = {}
        with ExitStack() as hooks:
            for site, modules in self.tower.items():
                for layer in range(len(modules)):

                    def keep(tensor: Tensor, at: tuple[str, int] = (site, layer)) -> Tensor:
                        kept[at] = tensor.clone()
                        return tensor

                    self._watch(hooks, site, layer, keep)
            self.hf(**inputs)
        return kept

    def tower_frozen(self, sent: Sent, freeze_mlp: bool) -> ExitStack:
        """Hooks that keep the tower at the base run, but for what is sent."""
        hooks, base = ExitStack(), self.of_tower["base"]
        frozen = {at: own for at, own in base.items() if at[0] == "z" or (at[0] == "mlp_out" and freeze_mlp)}
        at = (sent.site, sent.layer)
        # Nothing of the tower is behind the projector, and its MLPs before the sender are the base run's anyway.
        new = base[at].clone()
        rows, other = new.view(-1, new.shape[-1]), self.of_tower["other"][at].reshape(-1, new.shape[-1])
        columns = slice(HEAD * self.width, (HEAD + 1) * self.width) if sent.site == "z" else slice(None)
        lines = slice(None) if sent.positions is None else list(sent.positions)
        rows[lines, columns] = other[lines, columns]
        for (site, layer), value in {**frozen, at: new}.items():
            self._watch(hooks, site, layer, lambda tensor, value=value: value.reshape(tensor.shape).clone())
        return hooks

    def to_logits(self, sent: Sent, freeze_mlp: bool) -> float:
        """The language model runs free."""
        with self.tower_frozen(sent, freeze_mlp):
            at_last = self._logits()
        return self.difference(at_last) - self.before

    def to_receiver(self, sent: Sent, sites: tuple[str, ...], layer: int, head: int | None, freeze_mlp: bool) -> float:
        """What a receiver of the language model takes in with all between frozen, at all positions."""
        everywhere = tuple(range(self.base["input_ids"].shape[1]))
        nothing = Patch("nothing", 0, everywhere)
        with self.tower_frozen(sent, freeze_mlp), self._frozen(nothing, freeze_mlp):
            taken = {site: activations(self.hf, self.base, site) for site in sites}
        patches = [Patch(site, layer, everywhere, head) for site in sites]
        return self.difference(logits(self.hf, self.base, patches, taken)) - self.before


def senders_of(model: HookedVLM, pairs: Any) -> list[Sent]:
    last = model.image_length("vision", pairs[0].clean_image) - 1
    return [Sent("z"), Sent("z", 0, (last,)), Sent("mlp_out"), Sent("out")]


def options_of(sent: Sent) -> dict[str, Any]:
    layers = {} if sent.site == "out" else {"sender_layers": sent.layer}
    heads = {"sender_heads": HEAD} if sent.site == "z" else {}
    return {"positions": "all" if sent.positions is None else list(sent.positions), **layers, **heads, "progress": False}


@pytest.mark.parametrize("freeze_mlp", [True, False], ids=["MLPs frozen", "MLPs free"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT])
def test_paths_of_the_image_equal_four_forward_passes(
    family: str, direction: Literal["denoise", "noise"], freeze_mlp: bool
) -> None:
    """To the logits with the language model free, and to its queries, keys, values and MLPs with it frozen."""
    if family not in THOROUGH and (direction == "noise") != freeze_mlp:
        pytest.skip("the other families take one of the two")
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = TowerOracle(model, pairs, 0, noise=direction == "noise")
    tolerance = 1e-9 * max(oracle.gap, 1.0)
    moved = dict.fromkeys(("logits", "q", "k", "v", "mlp"), 0.0)
    layer = model.cfg.n_layers - 1
    more: dict[str, Any] = {"direction": direction, "freeze_mlp": freeze_mlp}
    for sent in senders_of(model, pairs):
        found = patching.patch_paths(model, pairs, sent.name, **options_of(sent), **more)
        expected = oracle.to_logits(sent, freeze_mlp)
        assert float(found.logit_diff_change.squeeze()) == pytest.approx(expected, abs=tolerance), sent
        assert float(found.noise_floor.max()) <= tolerance
        moved["logits"] = max(moved["logits"], abs(expected))
        for leaf in ("q", "k", "v", "mlp"):
            ends: dict[str, Any] = {"receiver": f"language.attn.{leaf}", "receiver_layers": layer}
            sites, head = (leaf,), None
            if leaf == "mlp":
                ends["receiver"] = "language.mlp.pre"
                gated = model.block("language", layer).mlp.parts.pre_linear is not None
                sites = ("mlp.pre", "mlp.pre_linear") if gated else ("mlp.pre",)
            else:
                ends["receiver_heads"] = head = HEAD
            found = patching.patch_paths(model, pairs, sent.name, **ends, **options_of(sent), **more)
            expected = oracle.to_receiver(sent, sites, layer, head, freeze_mlp)
            assert float(found.logit_diff_change.squeeze()) == pytest.approx(expected, abs=tolerance), (sent, leaf)
            moved[leaf] = max(moved[leaf], abs(expected))
    assert moved["logits"] > 1e-4 and min(moved["k"], moved["v"]) > 1e-7, f"paths that move nothing: {moved}"
