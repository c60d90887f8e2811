"""Attribution on hosted models: against autograd by torch's own hooks, small changes, and what must add up."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from causal.test_vision_tower import projections
from forward_oracle import Patch, attention, decoder_of, hook, places, put
from hosted_pairs import FAMILIES, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, patching
from notice_lens.pairs import MinimalPairs, Noise, mini_world
from notice_lens.patching.attribution import default_sites

pytestmark = LIBRARY_WARNINGS

QUIET: dict[str, Any] = {"progress": False}
SITES = ("z", "v", "attn_out", "mlp_out", "mlp.post", "resid_pre", "resid_post")


class AutogradOracle:
    """Gradients of one pair's logit difference by autograd, with torch's hooks on Hugging Face's modules.

    Args:
        model: The model.
        pairs: The pairs.
        number: Of the pair.
    """

    def __init__(self, model: HookedVLM, pairs: MinimalPairs, number: int) -> None:
        pair, self.hf = pairs[number], model.hf_model
        self.blocks: Any = decoder_of(self.hf).layers
        self.base = model.prepare(pair.corrupt_image, pair.clean_prompt)
        self.other = model.prepare(pair.clean_image, pair.clean_prompt)
        answers = (pair.correct_answer, pair.incorrect_answer)
        self.correct, self.foil = (model.answer_ids(pair.clean_prompt, answer)[0] for answer in answers)
        length = self.base["input_ids"].shape[1]
        self.positions = {"last": [length - 1], "object": list(range(*pairs.token_spans(model)[number]["object"]))}

    def difference(self, inputs: Any) -> Tensor:
        at_last = self.hf(**inputs).logits[0, -1]
        return at_last[self.correct] - at_last[self.foil]

    @property
    def gap(self) -> float:
        with torch.no_grad():
            return float(abs(self.difference(self.other) - self.difference(self.base)))

    def gradients(self, at: list[tuple[Any, str]]) -> tuple[list[Tensor], list[Tensor]]:
        """Values in the base run and gradients, at the inputs or outputs of modules."""
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, number: int) -> Tensor:
            new = tensor.clone()
            kept[number] = new if new.requires_grad else new.requires_grad_()
            return kept[number]

        with ExitStack() as hooks, torch.enable_grad():
            for number, (module, side) in enumerate(at):
                hooks.callback(hook(module, side, partial(keep, number=number)).remove)
            total = self.difference(self.base)
            values = [kept[number] for number in range(len(at))]
            grads = torch.autograd.grad(total, values, allow_unused=True, materialize_grads=True)
        return [one.detach() for one in values], [one.detach() for one in grads]

    def values(self, at: list[tuple[Any, str]]) -> list[Tensor]:
        """Values in the other run."""
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, number: int) -> Tensor:
            kept[number] = tensor.clone()
            return tensor

        with ExitStack() as hooks, torch.no_grad():
            for number, (module, side) in enumerate(at):
                hooks.callback(hook(module, side, partial(keep, number=number)).remove)
            self.hf(**self.other)
        return [kept[number] for number in range(len(at))]


def heads(values: Tensor, width: int) -> Tensor:
    return values.unflatten(-1, (-1, width)).sum(-1)


def stack_names(model: HookedVLM, layer: int) -> str:
    return "cross_attn" if model.block("language", layer).is_cross else "attn"


def name_of(model: HookedVLM, site: str, layer: int) -> str:
    module = stack_names(model, layer)
    return "language." + {"z": f"{module}.z", "v": f"{module}.v", "attn_out": f"{module}_out"}.get(site, site)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_gradients_times_changes(family: str) -> None:
    """Every layer, head, and two roles, where a prompt is longer than the other too."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    for number in range(len(pairs)):
        oracle, own = AutogradOracle(model, pairs, number), pairs[number : number + 1]
        gap, moved = oracle.gap, 0.0
        at = {
            (site, layer): places(block)[site]
            for layer, block in enumerate(oracle.blocks)
            for site in SITES
            if site in places(block) and not (site == "v" and model.block("language", layer).is_cross)
        }
        layers: dict[str, list[int]] = {}
        for site, layer in at:
            layers.setdefault(name_of(model, site, layer), []).append(layer)
        wanted = [
            patching.Site.of(model, name, layers=some, positions=["object", "last"]) for name, some in layers.items()
        ]
        found = patching.attribute(model, own, wanted, neurons=False, **QUIET)
        base, grads = oracle.gradients(list(at.values()))
        other = oracle.values(list(at.values()))
        for (site, layer), here, grad, there in zip(at, base, grads, other, strict=True):
            change = found[name_of(model, site, layer)].logit_diff_change.sel(layer=layer)
            effects = grad * (there - here)
            for role, positions in oracle.positions.items():
                some = effects[0, positions].sum(0)
                expected = heads(some, attention(oracle.blocks[layer]).head_dim) if site in "zv" else some.sum()
                got = change.sel(role=role).values.reshape(-1)
                np.testing.assert_allclose(got, expected.reshape(-1), rtol=0, atol=1e-9 * gap)
                moved = max(moved, float(abs(expected).max()) / gap)
        assert moved > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_and_keys_go_through_the_softmax_as_they_are(family: str) -> None:
    """What z becomes when a query or key is patched, by a forward pass of its own, times the gradient at z."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[1:]
    oracle, moved = AutogradOracle(model, pairs, 0), dict.fromkeys("qk", 0.0)
    blocks = [(layer, block) for layer, block in enumerate(oracle.blocks) if layer in (0, len(oracle.blocks) - 1)]
    for layer, block in blocks:
        z = [places(block)["z"]]
        (base,), (grad,) = oracle.gradients(z)
        module, width = stack_names(model, layer), attention(block).head_dim
        for leaf in "q" if module == "cross_attn" else "qk":
            wanted = patching.Site.of(model, f"language.{module}.{leaf}", layers=layer, positions=["object", "last"])
            found = patching.attribute(model, pairs, wanted, **QUIET)[wanted.name].logit_diff_change
            (other,) = oracle.values([places(block)[leaf]])
            for role, positions in oracle.positions.items():
                for head in found["head"].values.tolist():
                    patch = Patch(leaf, layer, tuple(positions), head)
                    change = partial(put, new=other, patch=patch, d_head=width)
                    kept: list[Tensor] = []
                    with ExitStack() as hooks, torch.no_grad():
                        hooks.callback(hook(*places(block)[leaf], change).remove)
                        hooks.callback(hook(*z[0], lambda tensor: kept.append(tensor) or tensor).remove)  # noqa: B023
                        oracle.hf(**oracle.base)
                    expected = float((grad * (kept[0] - base)).sum())
                    got = float(found.sel(role=role, head=head).squeeze())
                    assert got == pytest.approx(expected, abs=1e-9 * oracle.gap), (leaf, layer, role, head)
                    moved[leaf] = max(moved[leaf], abs(expected) / oracle.gap)
    assert moved["q"] > 1e-6
    assert moved["k"] > 1e-6 or "cross_attn" in {stack_names(model, layer) for layer, _ in blocks}


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_the_tower(family: str) -> None:
    """All patches of a head at once, by autograd at the tower's output projections."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle = AutogradOracle(model, pairs, 0)
    at = [(module, "in") for module in projections(oracle.hf)]
    (base, grads), other = oracle.gradients(at), oracle.values(at)
    found = patching.attribute(model, pairs, "vision.attn.z", **QUIET)["vision.attn.z"].logit_diff_change
    n_heads = model.stack("vision").cfg.n_heads
    for layer, (here, grad, there) in enumerate(zip(base, grads, other, strict=True)):
        each = (grad * (there - here)).reshape(-1, n_heads, grad.shape[-1] // n_heads).sum((0, 2))
        got = found.sel(layer=layer).values.reshape(-1)
        # The norms of Gemma's language model compute in float32, and so do their gradients.
        rtol = 1e-6 if family == "gemma3" else 0
        np.testing.assert_allclose(got, each, rtol=rtol, atol=1e-9 * oracle.gap)
    assert float(abs(found).max()) > 1e-6 * oracle.gap


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "mllama"])
def test_queries_and_keys_of_the_tower(family: str) -> None:
    """What the tower's z becomes when all queries or keys of a head are patched, times its gradient."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle, layer = AutogradOracle(model, pairs, 0), 1
    at = [(projections(oracle.hf)[layer], "in")]
    (base,), (grad,) = oracle.gradients(at)
    for leaf in "qk":
        name = f"vision.blocks.{layer}.attn.hook_{leaf}"
        found = patching.attribute(
            model, pairs, patching.Site.of(model, f"vision.attn.{leaf}", layers=layer, heads=1), **QUIET
        )[f"vision.attn.{leaf}"]
        other = model.run_with_cache(oracle.other, names_filter=name)[1][name]

        def patch(value: Tensor, hook: Any, other: Tensor = other) -> None:
            value[..., 1, :] = other[..., 1, :]

        kept: list[Tensor] = []
        with ExitStack() as hooks, torch.no_grad():
            hooks.callback(hook(*at[0], lambda tensor: kept.append(tensor) or tensor).remove)  # noqa: B023
            model.run_with_hooks(oracle.base, fwd_hooks=[(name, patch)])
        expected = float((grad * (kept[0] - base)).sum())
        assert float(found.logit_diff_change.squeeze()) == pytest.approx(expected, abs=1e-9 * oracle.gap)
        assert abs(expected) > 1e-7 * oracle.gap


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("family", "answers"),
    [("llava", ("red", "green")), pytest.param("gemma3", ("red car", "green"), marks=pytest.mark.large)],
)
def test_a_small_change_has_the_effect_that_a_sweep_measures(
    family: str, answers: tuple[str, str], direction: str
) -> None:
    """Noise of a ten-thousandth of the image embeddings is first order, at every site, for answers of any length.

    Less would drown in rounding: norms of these families compute in float32.
    """
    model = tiny_model(family).model
    pairs = made_pairs(answers)
    noise = Noise("projector.hook_out", 1e-4, samples=2)
    options: dict[str, Any] = {"corruption": noise, "direction": direction, **QUIET}
    sites = [site for site in default_sites(model, "all") if site.stack != "vision"]
    sites += [patching.Site.of(model, f"language.attn.{leaf}", positions="all") for leaf in ("pattern", "attn_scores")]
    found = patching.attribute(model, pairs, sites, neurons=False, **options)
    scale = max(float(abs(own.logit_diff_change).max()) for own in found.children.values())
    alive = 0
    for site in sites:
        exact = patching.sweep(model, pairs, site, controls=(), metrics="logit_diff_change", **options)
        measured, got = exact.logit_diff_change, found[site.name].logit_diff_change
        np.testing.assert_allclose(got, measured.transpose(*got.dims), rtol=0, atol=2e-2 * scale, err_msg=site.name)
        alive += bool(abs(measured).max() > 0.02 * scale)
    assert alive >= 6


@pytest.fixture(scope="module")
def llava() -> HookedVLM:
    return HookedVLM.mini().to(torch.float64)


@pytest.mark.large
def test_integrated_gradients_of_a_site_sum_to_the_patch_of_its_layer(llava: HookedVLM) -> None:
    pairs = mini_world("states", 2, seed=3, world="pictures")
    for name in ("language.attn.z", "language.resid_post", "language.attn.pattern"):
        layers = [2, 5]
        each = patching.Site.of(llava, name, layers=layers, positions="all")
        whole = patching.Site.of(llava, name, layers=layers, positions="all", heads=None if "attn" in name else "each")
        found = patching.attribute(llava, pairs, each, integrated_gradients=24, **QUIET)[each.name].logit_diff_change
        exact = patching.sweep(llava, pairs, whole, controls=(), metrics="logit_diff_change", **QUIET)
        summed = found.sum("head") if "head" in found.dims else found
        gap = abs(exact.logit_diff_clean - exact.logit_diff_corrupt)
        assert float((abs(summed - exact.logit_diff_change) / gap).max()) < 0.01, name


@pytest.mark.parametrize(
    "corruption",
    [
        pytest.param("image", id="image"),
        pytest.param("text", id="text", marks=pytest.mark.large),
        pytest.param(Noise(scale=1.0, samples=1), id="noise", marks=pytest.mark.large),
    ],
)
def test_integrated_gradients_along_the_inputs_sum_to_the_gap_over_every_cut(corruption: Any) -> None:
    """All that a layer of the language model is given is such a cut."""
    model = tiny_model("llava").model
    site = patching.Site.of(model, "language.resid_pre", positions="all")
    options: dict[str, Any] = {"corruption": corruption, "path": "inputs", **QUIET}
    found = patching.attribute(model, made_pairs(), site, integrated_gradients=256, **options)[site.name]
    gap = found.logit_diff_clean - found.logit_diff_corrupt
    assert float((abs(found.logit_diff_change - gap) / abs(gap)).max()) < 0.01


def test_screening_finds_the_heads_that_a_sweep_finds(llava: HookedVLM) -> None:
    pairs = mini_world("states", 4, seed=2, world="pictures")
    found = patching.screen(llava, pairs, share=0.25, sample=5, **QUIET)
    exact = patching.patch_heads(llava, pairs, controls=(), metrics="logit_diff_change", **QUIET).logit_diff_change
    verified = found.verified.values
    assert verified.sum() == 12 + 5
    np.testing.assert_allclose(found.exact.values[:, verified], exact.values[:, verified], rtol=0, atol=1e-12)
    largest = abs(exact).mean("pair").values
    assert found.picked.values[largest == largest.max()].all()


def test_nothing_of_an_attribution_stays_on_the_model(llava: HookedVLM) -> None:
    pairs = mini_world("states", 1, seed=2, world="pictures")
    inputs = llava.prepare(pairs[0].clean_image, pairs[0].clean_prompt)
    before = llava(inputs)
    patching.attribute(llava, pairs, ["language.attn.q", "vision.attn.k"], **QUIET)
    assert torch.equal(llava(inputs), before)
    assert all(parameter.requires_grad for parameter in llava.parameters())
    blocks = [llava.block(stack, 0).attention.steps for stack in ("vision", "language")]
    assert not any(steps.wanted or steps.kept for steps in blocks), "nothing is kept after a run"


def test_sites_that_are_not_there_have_near_names() -> None:
    model = tiny_model("llava").model
    with pytest.raises(ValueError, match="did you mean 'attn.z'"):
        patching.attribute(model, made_pairs(single_tokens(model)), "language.attn.zz", **QUIET)


def test_queries_before_a_norm_over_all_heads_go_along_the_tangent() -> None:
    """In InternVL's tower a head's query moves those of all others, so that no softmax alone tells its effect."""
    model = tiny_model("internvl").model
    assert model.stack("vision").cfg.norm_over_heads
    assert not model.stack("language").cfg.norm_over_heads
    pairs = made_pairs(single_tokens(model))[:1]
    found, tangent = (
        patching.attribute(model, pairs, "vision.attn.q", attention_correction=corrected, **QUIET)["vision.attn.q"]
        for corrected in (True, False)
    )
    np.testing.assert_array_equal(found.logit_diff_change, tangent.logit_diff_change)


def test_a_layer_that_is_not_read_has_no_effect() -> None:
    """LLaVA reads the last but one layer of its tower; the last one has no gradient at all."""
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    last = model.stack("vision").cfg.n_layers - 1
    for more in ({}, {"integrated_gradients": 2}):
        site = patching.Site.of(model, "vision.attn.z", layers=last)
        found = patching.attribute(model, pairs, site, **more, **QUIET)[site.name]
        np.testing.assert_array_equal(found.logit_diff_change, 0)


def test_keys_of_cross_attention_and_tables_of_tiles_have_all_their_positions() -> None:
    """All keys together are the whole table's effect, whatever site is recorded first."""
    model = tiny_model("mllama").model
    pairs = made_pairs(single_tokens(model))[:1]
    sites = [
        patching.Site.of(model, name, positions="all", keys=keys)
        for name, keys in (("language.cross_attn.pattern", "all"), ("language.cross_attn.pattern", "each"))
    ]
    whole, each = (
        patching.attribute(model, pairs, ["language.attn.z", site], **QUIET)["language.cross_attn.pattern"]
        for site in sites
    )
    dims = [dim for dim in each.logit_diff_change.dims if dim not in whole.logit_diff_change.dims]
    np.testing.assert_allclose(each.logit_diff_change.sum(dims), whole.logit_diff_change, rtol=0, atol=1e-12)
    assert float(abs(whole.logit_diff_change).max()) > 0
    tiles = tiny_model("llava_next").model
    pairs = made_pairs(single_tokens(tiles))[:1]
    alone, beside = (
        patching.attribute(tiles, pairs, sites, **QUIET)["vision.attn.pattern"].logit_diff_change
        for sites in ("vision.attn.pattern", ["vision.attn.z", "vision.attn.pattern"])
    )
    np.testing.assert_array_equal(alone, beside)
    assert float(abs(alone).max()) > 0


def test_in_half_precision_a_key_that_did_not_change_has_no_effect() -> None:
    """A text corruption leaves the image's keys in the first layer as they are, to the last bit."""
    model = tiny_model("llava").model
    half = HookedVLM.mini().to(torch.bfloat16)
    assert model.dtype == torch.float64, "the model of the other tests is left alone"
    pairs = mini_world("states", 1, seed=2, world="pictures")
    site = patching.Site.of(half, "language.attn.k", layers=0, positions=["image"])
    found = patching.attribute(half, pairs, site, corruption="text", **QUIET)[site.name]
    np.testing.assert_array_equal(found.logit_diff_change, 0)
