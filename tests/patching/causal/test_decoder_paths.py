"""Paths in the language models of all families, against four forward passes a path by torch's own hooks."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from forward_oracle import Patch, activations, attention, decoder_of, hook, logits, places, put
from hosted_pairs import FAMILIES, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedBLIP, HookedVLM, circuits, patching
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching.engine.causal.paths import PathWalk

pytestmark = LIBRARY_WARNINGS

HEAD = 1


class PathOracle:
    """The four runs of a path of one pair, each a forward pass of Hugging Face's model.

    Args:
        model: The model.
        pairs: The pairs.
        number: Of the pair.
        by_text: Whether the question is corrupted, rather than the picture.
        noise: Whether the clean run is patched, from the corrupted one.
    """

    def __init__(
        self, model: HookedVLM, pairs: MinimalPairs, number: int, by_text: bool = False, noise: bool = False
    ) -> None:
        pair, self.hf = pairs[number], model.hf_model
        clean = model.prepare(pair.clean_image, pair.clean_prompt)
        corrupt = (pair.clean_image, pair.corrupt_prompt) if by_text else (pair.corrupt_image, pair.clean_prompt)
        runs = [clean, model.prepare(*corrupt)]
        self.other, self.base = reversed(runs) if noise else runs
        other = self.other
        self.blocks: Any = decoder_of(self.hf).layers
        sites = ("z", "mlp_out", "resid_pre")
        self.base_values = {site: activations(self.hf, self.base, site) for site in sites}
        self.other_values = {site: activations(self.hf, other, site) for site in sites}
        answers = (pair.correct_answer, pair.incorrect_answer)
        self.correct, self.foil = (model.answer_ids(pair.clean_prompt, answer)[0] for answer in answers)
        length = self.base["input_ids"].shape[1]
        self.positions = {"last": (length - 1,), "object": tuple(range(*pairs.token_spans(model)[number]["object"]))}

    def difference(self, at_last: Tensor) -> float:
        return float(at_last[self.correct] - at_last[self.foil])

    @property
    def before(self) -> float:
        return self.difference(logits(self.hf, self.base, [], 0.0))

    @property
    def gap(self) -> float:
        return abs(self.difference(logits(self.hf, self.other, [], 0.0)) - self.before)

    @property
    def first(self) -> int:
        """The first layer in which the last token's head writes something else: not all see the image in layer 0."""
        at, width = self.positions["last"], attention(self.blocks[0]).head_dim
        columns = slice(HEAD * width, (HEAD + 1) * width)
        runs = zip(self.base_values["z"], self.other_values["z"], strict=True)
        return next(layer for layer, (old, new) in enumerate(runs) if (old != new)[0, at, columns].any())

    def direct(self, sender: Patch, freeze_mlp: bool) -> float:
        with self._frozen(sender, freeze_mlp):
            at_last = self._logits()
        return self.difference(at_last) - self.before

    def through(self, sender: Patch, sites: tuple[str, ...], layer: int, head: int | None, freeze_mlp: bool) -> float:
        with self._frozen(sender, freeze_mlp):
            taken = {site: activations_of(self.hf, self.base, site, layer) for site in sites}
        patches = [Patch(site, layer, sender.positions, head) for site in sites]
        values = {site: [new] * len(self.blocks) for site, new in taken.items()}
        return self.difference(logits(self.hf, self.base, patches, values)) - self.before

    @torch.no_grad()
    def _logits(self) -> Tensor:
        return self.hf(**self.base).logits[0, -1]

    def _frozen(self, sender: Patch, freeze_mlp: bool) -> ExitStack:
        """Hooks that keep all attention at the base run, and all MLPs, behind what is sent."""
        hooks = ExitStack()

        def freeze(site: str, layer: int, new: Tensor) -> None:
            hooks.callback(hook(*places(self.blocks[layer])[site], lambda tensor: new.clone()).remove)

        for layer, block in enumerate(self.blocks):
            z = self.base_values["z"][layer]
            if sender.site == "z" and sender.layer == layer:
                z = put(z, self.other_values["z"][layer], sender, attention(block).head_dim)
            freeze("z", layer, z)
            if layer >= sender.layer:
                out = self.base_values["mlp_out"][layer]
                if sender.site == "mlp_out" and sender.layer == layer:
                    freeze("mlp_out", layer, put(out, self.other_values["mlp_out"][layer], sender, 0))
                elif freeze_mlp:
                    freeze("mlp_out", layer, out)
            if sender.site == "resid_pre" and sender.layer == layer:
                new = self.other_values["resid_pre"][layer]
                hooks.callback(hook(block, "in", partial(put, new=new, patch=sender, d_head=0)).remove)
        return hooks


def activations_of(hf: Any, inputs: Any, site: str, layer: int) -> Tensor:
    """An activation of one layer: not all layers have all sites."""
    found: list[Tensor] = []
    block = decoder_of(hf).layers[layer]
    handle = hook(*places(block)[site], lambda tensor: found.append(tensor.clone()) or tensor)
    with torch.no_grad():
        hf(**inputs)
    handle.remove()
    return found[0]


def sender_of(site: str, layer: int, positions: tuple[int, ...]) -> Patch:
    return Patch(site, layer, positions, HEAD if site == "z" else None)


def stack_names(model: HookedVLM, layer: int) -> str:
    return "cross_attn" if model.block("language", layer).is_cross else "attn"


@pytest.mark.parametrize("freeze_mlp", [True, False], ids=["MLPs frozen", "MLPs free"])
@pytest.mark.parametrize("family", FAMILIES)
def test_paths_equal_four_forward_passes(family: str, freeze_mlp: bool) -> None:
    """Heads, MLPs and the stream of a layer to the logits and to queries, keys and values of the last layer."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    last = model.cfg.n_layers - 1
    roles = ["object", "last"]
    first = PathOracle(model, pairs, 0).first
    senders = {
        "z": f"language.{stack_names(model, first)}",
        "mlp_out": "language.mlp_out",
        "resid_pre": "language.resid_pre",
    }
    moved = dict.fromkeys(("direct", "q", "k", "v"), 0.0)
    oracles = [PathOracle(model, pairs, number) for number in range(len(pairs))]
    kind = stack_names(model, last)
    ends = {"receiver_layers": last, "receiver_heads": HEAD}
    for site, name in senders.items():
        more: dict[str, Any] = {"sender_layers": first, "positions": roles, "freeze_mlp": freeze_mlp, "progress": False}
        if site == "z":
            more |= {"sender_heads": HEAD}
        direct = patching.patch_paths(model, pairs, name, **more)
        heard = {
            leaf: patching.patch_paths(model, pairs, name, f"language.{kind}.{leaf}", **ends, **more)
            for leaf in ("q" if kind == "cross_attn" else "qkv")
        }
        for number, oracle in enumerate(oracles):
            gap = oracle.gap
            assert float(direct.noise_floor[number]) <= 1e-9 * gap
            for role in roles:
                sender = sender_of(site, first, oracle.positions[role])
                expected = {"direct": oracle.direct(sender, freeze_mlp)}
                expected |= {leaf: oracle.through(sender, (leaf,), last, HEAD, freeze_mlp) for leaf in heard}
                for way, found in {"direct": direct, **heard}.items():
                    got = float(found.logit_diff_change.isel(pair=number).sel(role=role).squeeze())
                    assert got == pytest.approx(expected[way], abs=1e-9 * gap), (site, way, role, number)
                    moved[way] = max(moved[way], abs(expected[way]) / gap)
    assert moved["direct"] > 0.01, "paths that move nothing prove nothing"
    assert all(moved[leaf] > 1e-6 for leaf in ("q" if kind == "cross_attn" else "qkv"))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "smolvlm"])
def test_paths_of_replaced_words_and_from_the_clean_run(family: str, direction: Literal["denoise", "noise"]) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = PathOracle(model, pairs, 0, by_text=True, noise=direction == "noise")
    layer, last = oracle.first, model.cfg.n_layers - 1
    more: dict[str, Any] = {"sender_layers": layer, "sender_heads": HEAD, "positions": ["object", "last"]}
    more |= {"corruption": "text", "direction": direction, "progress": False}
    ends: dict[str, Any] = {"receiver_layers": last, "receiver_heads": 0}
    direct = patching.patch_paths(model, pairs, "language.attn", **more).logit_diff_change
    heard = patching.patch_paths(model, pairs, "language.attn", "language.attn.v", **ends, **more).logit_diff_change
    for role in ("object", "last"):
        sender = sender_of("z", layer, oracle.positions[role])
        for found, expected in (
            (direct, oracle.direct(sender, freeze_mlp=True)),
            (heard, oracle.through(sender, ("v",), last, 0, freeze_mlp=True)),
        ):
            assert float(found.sel(role=role).squeeze()) == pytest.approx(expected, abs=1e-9 * oracle.gap), role
    assert float(abs(heard).max()) > 1e-6 * oracle.gap


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "internvl"])
def test_the_input_of_a_gated_mlp_is_received_in_both_halves(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = PathOracle(model, pairs, 0)
    first, moved = oracle.first, 0.0
    more: dict[str, Any] = {"positions": ["last"], "sender_layers": first, "sender_heads": HEAD, "progress": False}
    found = patching.patch_paths(model, pairs, "language.attn", "language.mlp.pre", **more).logit_diff_change
    assert found.receiver_layer.values.tolist() == list(range(model.cfg.n_layers))
    for layer in range(model.cfg.n_layers):
        got = float(found.sel(receiver_layer=layer).squeeze())
        if layer < first:
            assert np.isnan(got)
            continue
        sender = sender_of("z", first, oracle.positions["last"])
        expected = oracle.through(sender, ("mlp.pre", "mlp.pre_linear"), layer, None, freeze_mlp=True)
        assert got == pytest.approx(expected, abs=1e-9 * oracle.gap), layer
        moved = max(moved, abs(expected) / oracle.gap)
    assert moved > 1e-6


@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "smolvlm"])
@pytest.mark.parametrize("receiver", ["logits", "language.attn.v"])
def test_all_parts_together_send_the_other_run(family: str, receiver: str) -> None:
    """What every node writes, sent at once, is the other run's input: 1 of the gap, or a patch of all values there."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    layer = model.cfg.n_layers - 1
    below = {"sender_layers": range(layer)} if receiver != "logits" else {}
    ends = {} if receiver == "logits" else {"receiver_layers": layer, "receiver_heads": None}
    senders = ["language.attn", "language.mlp_out"]
    embedded = patching.Site.of(model, "language.resid_pre", layers=0, positions="all")
    heads, outs = (patching.Site.of(model, name, heads=None, positions="all", **_layers(below)) for name in senders)
    found = patching.patch_paths(
        model, pairs, [embedded, heads, outs], receiver, joint=True, progress=False, **ends
    ).logit_diff_change.squeeze()
    whole_of, heads_of = ("language.resid_post", "each") if receiver == "logits" else ("language.attn.v", None)
    whole = patching.sweep(
        model, pairs, patching.Site.of(model, whole_of, layers=layer, heads=heads_of, positions="all"), progress=False
    ).logit_diff_change.squeeze()  # fmt: skip
    np.testing.assert_allclose(found.values, whole.values, atol=1e-9 * float(np.abs(whole).max()))
    assert np.abs(whole.values).min() > 0


def _layers(below: dict[str, Any]) -> dict[str, Any]:
    return {"layers": below["sender_layers"]} if below else {}


def test_paths_of_several_answer_tokens_equal_a_patch_where_nothing_is_between() -> None:
    """From the last layer's heads the direct path is the whole effect but for the last MLP, which is free here."""
    model = tiny_model("llava").model
    two = next(word for word in ("green apple", "red book", "man is") if len(model.answer_ids("is it red ?", word)) > 1)
    pairs = made_pairs((two, single_tokens(model)[0]))
    last = model.cfg.n_layers - 1
    path = patching.patch_paths(model, pairs, freeze_mlp=False, sender_layers=last, progress=False)
    patch = patching.patch_heads(model, pairs, layers=last, progress=False)
    for name in ("logit_diff_change", "answer_prob", "patching_effect_mismatched"):
        np.testing.assert_allclose(path[name].values, patch[name].values, rtol=0, atol=1e-12)
    assert float(abs(patch.logit_diff_change).max()) > 1e-4


def test_small_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    plain = PathWalk.loads
    monkeypatch.setattr(PathWalk, "loads", lambda walk: (loads.append(len(load)) or load for load in plain(walk)))
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))
    ends: dict[str, Any] = {"receiver": "language.attn.k", "positions": ["object", "image"], "progress": False}
    whole, some = (patching.patch_paths(model, pairs, memory=memory, **ends) for memory in (None, 2**18))
    np.testing.assert_allclose(whole.logit_diff_change, some.logit_diff_change, atol=1e-12)
    assert len(loads) > 2 * len(pairs), "the small one takes several loads a pair"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sender": "vision.attn.q"}, "no sender 'vision.attn.hook_q'; .*'vision.resid_pre', 'vision.attn.z'"),
        ({"sender": "language.attn.q"}, "no sender 'language.attn.hook_q'"),
        ({"receiver": "language.resid_mid"}, "no receiver 'language.resid_mid'|no receiver 'language.hook_resid_mid'"),
        ({"receiver": "vision.attn.q"}, "no receiver 'vision.attn.hook_q'; .*'language.attn.q'"),
        ({"receiver": "vision.output"}, "no path from language to vision.output: `vision` comes before `language`"),
        ({"receiver": "vision.outputs"}, "receiver 'vision.outputs': .*; or vision.output, projector.output, "),
        ({"freeze_layernorm": True}, "freeze_layernorm=True: the norms of a hosted model are Hugging Face's own"),
        (
            {"receiver": "language.attn.q", "sender_layers": 2, "receiver_layers": 2},
            "no path from .*: a receiver comes after its sender",
        ),
    ],
)
def test_paths_that_are_not_there(asked: dict[str, Any], message: str) -> None:
    model = tiny_model("llava").model
    with pytest.raises(ValueError, match=message):
        patching.patch_paths(model, made_pairs(single_tokens(model)), progress=False, **asked)


def test_the_default_is_the_heads_that_look_at_the_image_to_the_logits() -> None:
    blip, pairs = HookedBLIP.mini(), mini_world("states", n=2, seed=0)
    found = patching.patch_paths(blip, pairs, progress=False)
    written = patching.patch_paths(blip, pairs, "text.cross_attn", "text.output", progress=False)
    np.testing.assert_array_equal(found.patching_effect, written.patching_effect)
    model = tiny_model("llava").model
    own = made_pairs(single_tokens(model))
    found = patching.patch_paths(model, own, progress=False)
    written = patching.patch_paths(model, own, "language.attn", "language.output", positions=["last"], progress=False)
    np.testing.assert_array_equal(found.patching_effect, written.patching_effect)


def test_a_store_of_paths_is_resumed_and_has_the_numbers_of_one_call(tmp_path: Path) -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))
    asked: dict[str, Any] = {"receiver": "language.attn.q", "positions": ["last"], "progress": False}
    whole = patching.patch_paths(model, pairs, **asked)
    stored = patching.patch_paths(model, pairs, store=tmp_path / "paths.zarr", **asked)
    again = patching.patch_paths(model, pairs, store=tmp_path / "paths.zarr", **asked)
    for found in (stored, again):
        np.testing.assert_array_equal(found.logit_diff_change, whole.logit_diff_change)
    with pytest.raises(ValueError, match="receiver"):
        patching.patch_paths(model, pairs, store=tmp_path / "paths.zarr", **{**asked, "receiver": "language.attn.k"})


def test_the_graph_of_a_circuit_whose_heads_share_keys_and_values() -> None:
    """Four heads and two of keys and values: an edge by k or v is that of the group, and the result says so."""
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))
    graph = circuits.circuit_graph(
        model, pairs, ["language.attn.L0.H1", "language.attn.L2.H3"], labels=["object", "last"], progress=False
    )
    assert "2 heads share their keys and values" in graph.attrs["note"]
    asked: dict[str, Any] = {"sender_layers": 0, "sender_heads": 1, "receiver_layers": 2, "positions": "all"}
    asked |= {"freeze_mlp": False, "progress": False}
    for via, head in (("q", 3), ("k", 1), ("v", 1)):
        path = patching.patch_paths(
            model, pairs, "language.attn", f"language.attn.{via}", receiver_heads=head, **asked
        )  # fmt: skip
        gap = path.logit_diff_clean - path.logit_diff_corrupt
        expected = float(path.logit_diff_change.squeeze().sum() / gap.sum())
        ends = (graph.source == "language.attn.L0.H1") & (graph.target == "language.attn.L2.H3") & (graph.via == via)
        assert float(graph.effect.values[ends.values].item()) == pytest.approx(expected, abs=1e-12)
    assert {*graph.attrs["roles"]} == {"object", "last"}
