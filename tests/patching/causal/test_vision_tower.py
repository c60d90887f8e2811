"""Patches in the vision tower and the projector, against torch's own hooks on Hugging Face's modules."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal.test_pairs import FAMILIES, Oracle, made_pairs, single_tokens
from forward_oracle import decoder_of
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import patching

pytestmark = LIBRARY_WARNINGS
WRITES = (
    ".self_attn.out_proj",
    ".self_attn.projection",
    ".self_attn.o_proj",
    ".attn.proj",
    ".attention.projection_layer",
)
INERT = {"llava", "llava_next", "llava_onevision"}
"""Families whose tower has layers behind the one that is read."""


def projections(hf: nn.Module) -> list[nn.Module]:
    """What attention writes to the stream through, in every layer of the tower."""
    found = {name: module for name, module in hf.named_modules() if ("vision" in name or "visual" in name)}
    return [module for name, module in found.items() if name.endswith(WRITES)]


class Tower:
    """Runs of the tower with z kept or replaced; positions are counted over all of a picture's rows."""

    def __init__(self, hf: nn.Module) -> None:
        self.hf, self.layers = hf, projections(hf)

    def z(self, inputs: Any) -> list[Tensor]:
        kept: list[Tensor] = []
        self.run(inputs, {n: lambda z: kept.append(z.clone()) for n in range(len(self.layers))})
        return kept

    @torch.no_grad()
    def run(self, inputs: Any, changes: dict[int, Callable[[Tensor], Any]]) -> Tensor:
        """The last position's logits."""
        with ExitStack() as hooks:
            for number, change in changes.items():

                def before(_: nn.Module, args: tuple[Any, ...], change: Any = change) -> tuple[Any, ...]:
                    z = args[0].clone()
                    change(z.view(-1, z.shape[-1]))
                    return (z, *args[1:])

                hooks.callback(self.layers[number].register_forward_pre_hook(before).remove)
            return self.hf(**inputs).logits[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_the_tower_equal_forward_passes(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    whole = patching.patch_heads(model, pairs, "vision.attn", progress=False)
    n_patches = model.image_length("vision", pairs[0].clean_image)
    places = [0, 3, n_patches - 1]
    patches = patching.patch_heads(model, pairs, "vision.attn", positions=places, layers=[0, 1], progress=False)
    oracle, tower = Oracle(model, pairs[0], "image"), Tower(model.hf_model)
    assert len(tower.layers) == model.cfg.vision.n_layers
    before = oracle.logit_diff("corrupt", [], 0.0)
    gap, d_head = abs(oracle.logit_diff("clean", [], 0.0) - before), model.cfg.vision.d_head
    moved = 0.0
    for which, name in (("clean", "logit_diff_change"), ("donor", "logit_diff_change_mismatched")):
        z = tower.z(oracle.inputs[which])
        for layer in range(model.cfg.vision.n_layers):
            for head in (0, 1):
                for at in (None, *places):
                    if at is not None and layer > 1:
                        continue

                    def change(own: Tensor, new: Tensor = z[layer], head: int = head, at: int | None = at) -> None:
                        columns = slice(head * d_head, (head + 1) * d_head)
                        lines = slice(None) if at is None else at
                        own[lines, columns] = new[lines, columns]

                    expected = float(oracle.difference(tower.run(oracle.inputs["corrupt"], {layer: change}))) - before
                    found = whole[name] if at is None else patches[name].sel(position=at)
                    found = float(found.sel(layer=layer, head=head).squeeze())
                    assert found == pytest.approx(expected, abs=1e-9 * gap), (which, layer, head, at)
                    moved = max(moved, abs(expected))
    assert moved > 1e-4 * gap, "patches that move nothing prove nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_projector_restores_the_answer(family: str) -> None:
    """With all that it is given of the image from the clean run, the language model is the clean run."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    restored = patching.sweep(model, pairs, "projector.out", progress=False).patching_effect
    if family == "qwen3_vl":
        assert (abs(restored) < 1).any()
    else:
        np.testing.assert_allclose(restored, 1, atol=1e-9)


def test_edits_in_tower_and_language_model_at_once() -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    edits = [patching.Edit("vision.attn", 0, 1), patching.Edit("language.attn", 1, 2, "last")]
    found = patching.run_variants(model, pairs, {"both": edits, "tower": edits[0]}, progress=False)
    oracle, tower = Oracle(model, pairs[0], "image"), Tower(model.hf_model)
    z, d_head = tower.z(oracle.inputs["clean"])[0], model.cfg.vision.d_head

    def in_tower(own: Tensor) -> None:
        own[:, d_head : 2 * d_head] = z[:, d_head : 2 * d_head]

    output = decoder_of(model.hf_model).layers[1].self_attn.o_proj
    kept: list[Tensor] = []
    handle = output.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    tower.run(oracle.inputs["clean"], {})
    handle.remove()
    width = model.cfg.d_head

    def in_language(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        new = args[0].clone()
        new[:, -1, 2 * width : 3 * width] = kept[0][:, -1, 2 * width : 3 * width]
        return (new, *args[1:])

    handle = output.register_forward_pre_hook(in_language)
    expected = float(oracle.difference(tower.run(oracle.inputs["corrupt"], {0: in_tower})))
    handle.remove()
    before = oracle.logit_diff("corrupt", [], 0.0)
    assert found.logit_diff_change.sel(variant="both").item() == pytest.approx(expected - before, abs=1e-9)
    assert abs(found.logit_diff_change.diff("variant").item()) > 1e-6


def test_tables_of_the_tower_and_of_tiles() -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    tables = patching.patch_heads(model, pairs, "vision.attn.pattern", progress=False)
    assert float(abs(tables.logit_diff_change).max()) > 1e-4
    tiles = tiny_model("llava_next").model
    with pytest.raises(ValueError, match="of a picture in 5 tiles: each tile has its own table"):
        patching.patch_heads(tiles, made_pairs(single_tokens(tiles))[:1], "vision.attn.pattern", progress=False)


def test_regions_of_the_tower_are_refused() -> None:
    model = tiny_model("llava").model
    with pytest.raises(ValueError, match="positions of `vision` lie on no grid here; take 'all', 'each' or numbers"):
        patching.patch_heads(model, made_pairs(single_tokens(model)), "vision.attn", positions="regions")


def _outputs(hf: nn.Module, site: str) -> list[tuple[nn.Module, int]]:
    """For every layer of the tower, the module whose output a site is, and its first column."""
    found = []
    for name, module in hf.named_modules():
        if not name.endswith(WRITES) or not ("vision" in name or "visual" in name):
            continue
        attention = name.rpartition(".")[0]
        block = hf.get_submodule(attention.rpartition(".")[0])
        own = hf.get_submodule(attention)
        width = int(module.in_features)  # pyright: ignore
        if site in "qkv":
            fused = getattr(own, "qkv", None)
            found.append((getattr(own, f"{site}_proj"), 0) if fused is None else (fused, "qkv".index(site) * width))
        else:
            found.append((block.mlp if site == "mlp_out" else block, 0))
    return found


@torch.no_grad()
def _output_run(hf: nn.Module, inputs: Any, module: nn.Module, change: Callable[[Tensor], Any]) -> Tensor:
    """The last position's logits of a run in which `change` writes on a module's output, [position, width]."""

    def after(_: nn.Module, __: Any, out: Any) -> Any:
        new = (out[0] if isinstance(out, tuple) else out).contiguous().clone()
        change(new.view(-1, new.shape[-1]))
        return (new, *out[1:]) if isinstance(out, tuple) else new

    # In front: transformers records the tower's states by hooks of its own.
    handle = module.register_forward_hook(after, prepend=True)
    try:
        return hf(**inputs).logits[0, -1]
    finally:
        handle.remove()


@pytest.mark.parametrize("site", ["q", "k", "v", "mlp_out", "resid_post"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_sites_of_the_tower_equal_forward_passes(family: str, site: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    at, with_heads = 3, site in "qkv"
    name = f"vision.attn.{site}" if with_heads else f"vision.{site}"
    found = patching.sweep(
        model, pairs, patching.Site.of(model, name, positions=[at], layers=[0, 1]), progress=False
    )  # fmt: skip
    oracle, hf, d_head = Oracle(model, pairs[0], "image"), model.hf_model, model.cfg.vision.d_head
    before = oracle.logit_diff("corrupt", [], 0.0)
    gap, moved = abs(oracle.logit_diff("clean", [], 0.0) - before), 0.0
    for layer, (module, start) in enumerate(_outputs(hf, site)[:2]):
        kept: list[Tensor] = []
        _output_run(hf, oracle.inputs["clean"], module, lambda out, kept=kept: kept.append(out.clone()))
        columns = slice(start + d_head, start + 2 * d_head) if with_heads else slice(None)

        def change(out: Tensor, kept: list[Tensor] = kept, columns: slice = columns) -> None:
            out[at, columns] = kept[0][at, columns]

        expected = float(oracle.difference(_output_run(hf, oracle.inputs["corrupt"], module, change))) - before
        own = found.logit_diff_change.sel(layer=layer, position=at)
        assert (own.sel(head=1) if with_heads else own).item() == pytest.approx(expected, abs=1e-9 * gap)
        moved = max(moved, abs(expected))
    assert moved > 1e-6 * gap, "patches that move nothing prove nothing"


@pytest.mark.parametrize("site", ["attn_scores", "pattern"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tables_of_the_tower_equal_forward_passes(family: str, site: str) -> None:
    """With a query's scores or pattern of the other run, z is that pattern times the base run's own values.

    The pattern is the model's own hook point, which has to give z of its run from raw values.
    """
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle, hf, layer, head, at = Oracle(model, pairs[0], "image"), model.hf_model, 0, 1, 3
    clean, corrupt = oracle.inputs["clean"], oracle.inputs["corrupt"]
    hook = f"vision.blocks.{layer}.attn.hook_pattern"
    pattern = model.run_with_cache(clean, names_filter=hook)[1][hook]
    if len(pattern) != 1:
        with pytest.raises(ValueError, match="each tile has its own table"):
            patching.patch_heads(model, pairs, f"vision.attn.{site}", layers=layer, progress=False)
        return
    d_head, tower, (module, start) = model.cfg.vision.d_head, Tower(hf), _outputs(hf, "v")[layer]
    values: list[Tensor] = []
    for inputs in (clean, corrupt):
        _output_run(hf, inputs, module, lambda out, kept=values: kept.append(out.clone()))
    columns = slice(head * d_head, (head + 1) * d_head)
    of_head = slice(start + columns.start, start + columns.stop)
    z_of_clean = tower.z(clean)[layer][..., columns].flatten(0, -2)
    torch.testing.assert_close(pattern[0, head] @ values[0][:, of_head], z_of_clean)
    new = pattern[0, head, at] @ values[1][:, of_head]

    def change(z: Tensor) -> None:
        z[at, columns] = new

    before = oracle.logit_diff("corrupt", [], 0.0)
    expected = float(oracle.difference(tower.run(corrupt, {layer: change}))) - before
    asked = patching.Site.of(model, f"vision.attn.{site}", layers=layer, heads=head, positions=[at])
    found = patching.sweep(model, pairs, asked, progress=False).logit_diff_change
    assert found.item() == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 1e-9
