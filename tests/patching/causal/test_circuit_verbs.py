"""Ablation, split, joint patches and faithfulness on hosted models, against forward passes by torch's own hooks."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import tiny_vlms
from attention_oracle import changed_attention
from causal.test_pairs import Oracle
from forward_oracle import Patch, activations, attention, decoder_of
from hosted_pairs import PROMPTS, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits, patching
from notice_lens.pairs import MinimalPairs

pytestmark = LIBRARY_WARNINGS

VERBS_ON = tuple(tiny_vlms.FAMILIES)
QUIET: dict[str, Any] = {"progress": False}
HEADS = (1, 2)


def alike(model: HookedVLM) -> MinimalPairs:
    """Two pairs of the same prompt and other pictures: each is the other's example."""
    correct, foil = single_tokens(model)
    rows = []
    for number in range(2):
        clean, corrupt = (tiny_vlms.picture(10 * number + seed, 56) for seed in (1, 2))
        rows.append({
            "id": f"pair {number}", "task": "states", "clean_image": clean, "corrupt_image": corrupt,
            "clean_prompt": PROMPTS[0], "correct_answer": correct, "incorrect_answer": foil, "corrupt_answer": foil,
            "roles": {"object": "apple"},
        })  # fmt: skip
    return MinimalPairs.from_rows(rows, progress=False)


class Runs:
    """The two pairs of a family, with a layer whose heads see the image.

    Attributes:
        module: The attention of that layer, `language.attn` or `language.cross_attn`.
        layer: The layer: the second one of its kind.
    """

    def __init__(self, family: str) -> None:
        tiny = tiny_model(family)
        self.model, self.hf = tiny.model, tiny.model.hf_model
        is_cross = family == "mllama"
        self.module = "language.cross_attn" if is_cross else "language.attn"
        self.layer = tiny.layers(is_cross=is_cross)[-1 if is_cross else 1]
        self.pairs = alike(self.model)
        self.oracles = [Oracle(self.model, pair, "image") for pair in self.pairs]
        self.names = [f"{self.module}.L{self.layer}.H{head}" for head in HEADS]

    @property
    def whole(self) -> tuple[int, ...]:
        return tuple(range(self.oracles[0].length()))

    def z(self, number: int, which: str) -> list[Tensor]:
        return activations(self.hf, self.oracles[number].inputs[which], "z")

    def expected(self, number: int, base: str, patches: list[Patch], z: list[Tensor] | float) -> float:
        """The change of the logit difference, by a forward pass."""
        values = z if isinstance(z, float) else {"z": z}
        oracle = self.oracles[number]
        return oracle.logit_diff(base, patches, values) - oracle.logit_diff(base, [], 0.0)

    def close(self, number: int, found: Any, expected: float) -> None:
        oracle = self.oracles[number]
        gap = oracle.logit_diff("clean", [], 0.0) - oracle.logit_diff("corrupt", [], 0.0)
        assert float(found) == pytest.approx(expected, abs=1e-9 * max(abs(gap), 1.0))

    def half(self, patterns: str, values: str, number: int) -> list[Tensor]:
        """z of the layer with the pattern of one run and the values of another."""
        kept: dict[int, Tensor] = {}

        def keep(layer: int, stage: str, tensor: Tensor) -> Tensor:
            if stage == "pattern":
                kept[layer] = tensor.clone()
            return tensor

        oracle = self.oracles[number]
        with changed_attention(self.hf, keep):
            oracle.logit_diff(patterns, [], 0.0)
        width = attention(decoder_of(self.hf).layers[self.layer]).head_dim
        # Llama-3.2-Vision's images have a row for each tile.
        v = activations(self.hf, oracle.inputs[values], "v")[self.layer].flatten(0, 1).unflatten(-1, (-1, width))
        v = v.repeat_interleave(kept[self.layer].shape[0] // v.shape[1], 1)
        z = self.z(number, "corrupt")
        z[self.layer] = torch.einsum("hqk,khd->qhd", kept[self.layer], v).flatten(1)[None]
        return z


@pytest.fixture(scope="module", params=VERBS_ON)
def runs(request: pytest.FixtureRequest) -> Runs:
    return Runs(request.param)


def test_the_parts_of_a_head_equal_forward_passes(runs: Runs) -> None:
    found = patching.split(runs.model, runs.pairs, runs.module, layers=runs.layer, heads=HEADS, **QUIET)
    changes, moved = found.logit_diff_change.sel(layer=runs.layer), 0.0
    last = runs.whole[-1:]
    sources = {"pattern": ("clean", "corrupt"), "values": ("corrupt", "clean"), "both": ("clean", "clean")}
    for number in range(len(runs.pairs)):
        for head in HEADS:
            own = changes.isel(pair=number).sel(head=head, role="last")
            expected = {}
            for part, (patterns, values) in sources.items():
                patch = [Patch("z", runs.layer, last, head)]
                expected[part] = runs.expected(number, "corrupt", patch, runs.half(patterns, values, number))
                runs.close(number, own.sel(part=part), expected[part])
            both, pattern, values = (expected[part] for part in ("both", "pattern", "values"))
            runs.close(number, own.sel(part="interaction"), both - pattern - values)
            moved = max(moved, *(abs(one) for one in expected.values()))
    assert moved > 1e-4, "patches that move nothing prove nothing"
    assert patching.split(runs.model, runs.pairs, **QUIET).sizes["head"] == runs.model.cfg.language.n_heads


def test_ablations_equal_forward_passes(runs: Runs) -> None:
    """The mean is that of both pairs, and each pair is the other's example."""
    clean = [runs.z(number, "clean") for number in range(2)]
    mean = [sum(layers) / 2 for layers in zip(*clean, strict=True)]
    site = patching.Site.of(runs.model, runs.module, layers=runs.layer, positions=["last"])
    moved = 0.0
    for value in ("mean", "zero", "resample"):
        found = patching.ablate(runs.model, runs.pairs, site, value=value, **QUIET).logit_diff_change
        both = patching.ablate(runs.model, runs.pairs, joint={"both": runs.names}, value=value, **QUIET)
        for number in range(2):
            z: Any = {"mean": mean, "zero": 0.0, "resample": clean[1 - number]}[value]
            for head in HEADS:
                expected = runs.expected(number, "clean", [Patch("z", runs.layer, runs.whole[-1:], head)], z)
                runs.close(number, found.isel(pair=number).sel(head=head, role="last").squeeze(), expected)
                moved = max(moved, abs(expected))
            patches = [Patch("z", runs.layer, runs.whole, head) for head in HEADS]
            expected = runs.expected(number, "clean", patches, z)
            runs.close(number, both.logit_diff_change.isel(pair=number).sel(variant="both"), expected)
    assert moved > 1e-4


def test_two_heads_at_once_equal_forward_passes_and_their_interaction_is_the_difference(runs: Runs) -> None:
    effects = patching.pairs_of_heads(runs.model, runs.pairs, runs.names, **QUIET)
    expected = xr.zeros_like(effects.logit_diff_change)
    for direction, base, other in (("denoise", "corrupt", "clean"), ("noise", "clean", "corrupt")):
        for number in range(2):
            z = runs.z(number, other)
            for one, two in ((0, 0), (0, 1), (1, 0), (1, 1)):
                patches = [Patch("z", runs.layer, runs.whole, HEADS[at]) for at in dict.fromkeys((one, two))]
                at = {"pair": number, "node": one, "other": two}
                change = runs.expected(number, base, patches, z)
                expected.sel(direction=direction)[at] = change
                runs.close(number, effects.logit_diff_change.sel(direction=direction)[at], change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", circuits.FewClusters)
        found = circuits.interactions(effects)
    gap = float((effects.logit_diff_clean - effects.logit_diff_corrupt).sum())
    for direction, sign in (("denoise", 1), ("noise", -1)):
        share = expected.sel(direction=direction).sum("pair").values * sign / gap
        together = share[0, 1] - share[0, 0] - share[1, 1]
        assert found.interaction.sel(direction=direction).item() == pytest.approx(together, abs=1e-9)
    assert float(abs(expected).max()) > 1e-4


def test_faithfulness_and_completeness_are_those_of_forward_passes(runs: Runs) -> None:
    found = patching.faithfulness(
        runs.model, runs.pairs, runs.names[:1], universe=runs.names, value="other", **QUIET
    )  # fmt: skip
    groups: dict[str, tuple[int, ...]] = {"full": (), "ablated": HEADS, "circuit": HEADS[1:], "rest": HEADS[:1]}
    sums = dict.fromkeys(groups, 0.0)
    for number, oracle in enumerate(runs.oracles):
        z = runs.z(number, "corrupt")
        for name, heads in groups.items():
            patches = [Patch("z", runs.layer, runs.whole, head) for head in heads]
            expected = oracle.logit_diff("clean", patches, {"z": z})
            runs.close(number, found[f"logit_diff_{name}"].isel(pair=number), expected)
            sums[name] += expected
    gap = sums["full"] - sums["ablated"]
    if np.isfinite(found.faithfulness):
        assert float(found.faithfulness) == pytest.approx((sums["circuit"] - sums["ablated"]) / gap, abs=1e-6)
        assert float(found.completeness) == pytest.approx((sums["full"] - sums["rest"]) / gap, abs=1e-6)


def test_a_split_names_the_heads_of_the_model() -> None:
    model = tiny_model("llava").model
    pairs = alike(model)
    with pytest.raises(ValueError, match="'language.mlp.L0' is not a head; .* those of 'vision.attn', 'language.attn'"):
        patching.split(model, pairs, "language.mlp.L0", **QUIET)
    with pytest.raises(ValueError, match="language.hook_mlp_out cannot be split: .* of 'vision.attn', 'language.attn'"):
        patching.split(model, pairs, "language.mlp_out", **QUIET)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_parts_of_a_head_of_the_tower_equal_runs_with_its_z(family: str) -> None:
    """That the tower's patterns times its values are Hugging Face's z is tested with the tower's other sites."""
    model = tiny_model(family).model
    pairs = alike(model)[:1]
    found = patching.split(model, pairs, "vision.attn", layers=0, heads=1, **QUIET).logit_diff_change.squeeze()
    oracle, name = Oracle(model, pairs[0], "image"), "vision.blocks.0.attn.hook_"
    hooks = [f"{name}{leaf}" for leaf in ("pattern", "v")]
    kept = {which: model.run_with_cache(oracle.inputs[which], names_filter=hooks)[1] for which in ("clean", "corrupt")}
    before, moved = oracle.logit_diff("corrupt", [], 0.0), 0.0
    sources = {"pattern": ("clean", "corrupt"), "values": ("corrupt", "clean"), "both": ("clean", "clean")}
    for part, (patterns, values) in sources.items():
        new = kept[patterns][f"{name}pattern"][0, 1] @ kept[values][f"{name}v"][0, :, 1]

        def change(z: Tensor, hook: Any, new: Tensor = new) -> Tensor:
            z = z.clone()
            z[0, :, 1] = new
            return z

        at_last = model.run_with_hooks(oracle.inputs["corrupt"], fwd_hooks=[(f"{name}z", change)])[0, -1]
        expected = float(oracle.difference(at_last.detach())) - before
        assert float(found.sel(part=part)) == pytest.approx(expected, abs=1e-9)
        moved = max(moved, abs(expected))
    assert moved > 1e-4
