"""Paths from the vision tower and the projector, against four forward passes a path by torch's own hooks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from causal.test_decoder_paths import PathOracle
from causal.test_vision_tower import WRITES
from forward_oracle import Patch, activations, logits
from hosted_pairs import FAMILIES, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits, patching
from notice_lens.patching.engine.causal import pair_runs, tower_paths

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
        self.tower: dict[str, list[Any]] = {
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
            handle = module.register_forward_hook(lambda *given: change(given[-1]), prepend=True)
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
    return {
        "positions": "all" if sent.positions is None else list(sent.positions),
        **layers,
        **heads,
        "progress": False,
    }


BOTH_WAYS = [(family, *way) for family in THOROUGH for way in (("denoise", False), ("noise", True))]
ONE_WAY = [(family, "denoise", True) for family in FAMILIES if family not in (*WITHOUT, *THOROUGH)]


@pytest.mark.parametrize(("family", "direction", "freeze_mlp"), [*BOTH_WAYS, *ONE_WAY])
def test_paths_of_the_image_equal_four_forward_passes(
    family: str, direction: Literal["denoise", "noise"], freeze_mlp: bool
) -> None:
    """To the logits with the language model free, and to its queries, keys, values and MLPs with it frozen."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = TowerOracle(model, pairs, 0, noise=direction == "noise")
    tolerance = 1e-9 * max(oracle.gap, 1.0)
    # GLM-4.1V's MLP has both halves in one matrix, which the oracle has no name for.
    leaves = ("q", "k", "v", "mlp") if family in THOROUGH else ("q", "v")
    moved = dict.fromkeys(("logits", *leaves), 0.0)
    layer = model.cfg.n_layers - 1
    more: dict[str, Any] = {"direction": direction, "freeze_mlp": freeze_mlp}
    for sent in senders_of(model, pairs):
        found = patching.patch_paths(model, pairs, sent.name, **options_of(sent), **more)
        expected = oracle.to_logits(sent, freeze_mlp)
        assert float(found.logit_diff_change.squeeze()) == pytest.approx(expected, abs=tolerance), sent
        assert float(found.noise_floor.max()) <= tolerance
        moved["logits"] = max(moved["logits"], abs(expected))
        for leaf in leaves:
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
    assert moved["logits"] > 1e-4, "paths that move nothing prove nothing"
    assert all(moved[leaf] > 1e-7 for leaf in leaves if leaf in "kv"), moved


@pytest.mark.parametrize("family", ["qwen3_vl", "blip-2", "instructblip"])
def test_the_projector_sends_where_the_tower_does_not(family: str) -> None:
    """What enters before the first block: deep features and the Q-Former's attention stay what they are."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = PathOracle(model, pairs, 0)
    tolerance = 1e-9 * max(oracle.gap, 1.0)
    clean, corrupt, module = oracle.other, oracle.base, model.projector.module
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda *given: kept.append(given[-1]))
    logits(model.hf_model, clean, [], 0.0)
    handle.remove()
    everywhere, layer, moved = tuple(range(corrupt["input_ids"].shape[1])), model.cfg.n_layers - 1, 0.0
    more: dict[str, Any] = {"receiver_layers": layer, "receiver_heads": HEAD, "progress": False}
    for leaf in "qkv":
        found = patching.patch_paths(model, pairs, "projector.out", f"language.attn.{leaf}", **more)
        handle = module.register_forward_hook(lambda *_: kept[0])
        with oracle._frozen(Patch("nothing", 0, everywhere), True):
            taken = {leaf: activations(model.hf_model, corrupt, leaf)}
        handle.remove()
        expected = oracle.difference(logits(model.hf_model, corrupt, [Patch(leaf, layer, everywhere, HEAD)], taken))
        assert float(found.logit_diff_change.squeeze()) == pytest.approx(expected - oracle.before, abs=tolerance)
        moved = max(moved, abs(expected - oracle.before))
    assert moved > 1e-7
    whole = patching.sweep(model, pairs, "projector.out", progress=False)
    sent = patching.patch_paths(model, pairs, "projector.out", progress=False)
    np.testing.assert_allclose(sent.logit_diff_change, whole.logit_diff_change, atol=tolerance)


@pytest.mark.parametrize("family", ["llava_next", "gemma3", "qwen2_5_vl"])
def test_all_parts_of_the_tower_send_the_other_picture(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    embedded = patching.Site.of(model, "vision.resid_pre", layers=0, positions="all")
    heads, outs = (
        patching.Site.of(model, name, heads=None, positions="all") for name in ("vision.attn", "vision.mlp_out")
    )
    found = patching.patch_paths(model, pairs, [embedded, heads, outs], joint=True, progress=False)
    np.testing.assert_allclose(found.patching_effect, 1, atol=1e-9)


def test_small_memory_and_one_walk_for_many_senders_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    plain = tower_paths.sent_streams

    def counted(given: Any, rows: Any, *more: Any) -> Tensor:
        passes.append(len(rows))
        return plain(given, rows, *more)

    monkeypatch.setattr(pair_runs, "sent_streams", counted)
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    asked: dict[str, Any] = {"receiver": "language.attn.v", "positions": [0, 3], "progress": False, "controls": ()}
    whole = patching.patch_paths(model, pairs, "vision.attn", **asked)
    n_senders = 2 * model.cfg.vision.n_layers * model.cfg.vision.n_heads
    assert passes == [n_senders], "senders are shared by all their receivers"
    some = patching.patch_paths(model, pairs, "vision.attn", **asked, memory=2**17)
    assert len(passes) > 2
    np.testing.assert_allclose(whole.logit_diff_change, some.logit_diff_change, atol=1e-12)
    assert {"sender_layer", "sender_head", "position", "receiver_layer", "receiver_head"} < {*map(str, whole.dims)}


@pytest.mark.parametrize(
    ("family", "asked", "message"),
    [
        (
            "qwen3_vl",
            {"sender": "vision.attn"},
            "no paths from vision.attn.hook_z: .* later blocks too .*projector.out",
        ),
        ("mllama", {"sender": "vision.attn"}, "no paths from vision.attn.hook_z: .* by cross-attention"),
        ("mllama", {"sender": "projector.out"}, "no paths from projector.hook_out: .* by cross-attention"),
        (
            "blip-2",
            {"sender": "vision.mlp_out"},
            "no paths from vision.hook_mlp_out: .* is a Q-Former, .*projector.out",
        ),
        ("blip-2", {"sender": "qformer.attn"}, "no paths from qformer.attn.hook_z: .* is a Q-Former"),
        (
            "llava",
            {"sender": "vision.attn", "receiver": "language.output"},
            "receivers of `vision` are vision.output or",
        ),
        ("llava", {"sender": "vision.attn", "receiver": "projector.output"}, "no path from vision to projector.output"),
        ("llava", {"sender": "vision.attn", "receiver": "vision.attn.q"}, "no receiver .*'language.attn.q'"),
        ("llava", {"sender": ["vision.attn", "language.attn"]}, "senders of one call are in one stack"),
    ],
)
def test_paths_of_the_image_that_are_not_there(family: str, asked: dict[str, Any], message: str) -> None:
    model = tiny_model(family).model
    with pytest.raises(ValueError, match=message):
        patching.patch_paths(model, made_pairs(single_tokens(model)), progress=False, **asked)


def test_the_graph_of_a_circuit_has_the_edges_from_the_tower() -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))
    nodes = ["vision.attn.L0.H1", "vision.attn.L1.H0", "language.attn.L2.H3"]
    graph = circuits.circuit_graph(model, pairs, nodes, labels=["last"], progress=False)
    asked: dict[str, Any] = {"sender_layers": 0, "sender_heads": 1, "receiver_layers": 2, "positions": "all"}
    told = [str(via) for one, via in zip(graph.source.values, graph.via.values, strict=True) if one == nodes[0]]
    assert told == ["q", "k", "v"], "heads of the tower receive nothing"
    for via, head in (("q", 3), ("k", 1), ("v", 1)):
        path = patching.patch_paths(
            model, pairs, "vision.attn", f"language.attn.{via}", receiver_heads=head, freeze_mlp=False, **asked,
            progress=False,
        )  # fmt: skip
        expected = float(
            path.logit_diff_change.squeeze().sum() / (path.logit_diff_clean - path.logit_diff_corrupt).sum()
        )
        ends = (graph.source == nodes[0]) & (graph.target == nodes[2]) & (graph.via == via)
        assert float(graph.effect.values[ends.values].item()) == pytest.approx(expected, abs=1e-12)
