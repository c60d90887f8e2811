"""`patching.patch_inputs`: every site against forward passes with torch's own hooks, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_families import N_HEADS, N_KV, Family, made
from forward_oracle import Patch, activations, decoder_of, logits
from notice_lens.errors import check_choice
from notice_lens.patching import patch_inputs

MODULES = ("q", "k", "v", "attn_out", "mlp_out", "mlp.pre", "mlp.post", "resid_pre", "resid_post")
HEADS = {"q": N_HEADS, "k": N_KV, "v": N_KV, "z": N_HEADS}


def difference(logits: Tensor) -> Tensor:
    return logits[..., 7] - logits[..., 9]


def swept(family: Family, site: str, **options: Any) -> Any:
    options = {"metric": difference, "progress": False} | options
    return patch_inputs(family.model, family.inputs(2), family.inputs(1), site, **options)


def self_layers(model: Any) -> list[int]:
    return [number for number, block in enumerate(decoder_of(model).layers) if hasattr(block, "self_attn")]


def cross_layers(model: Any) -> list[int]:
    return [number for number, block in enumerate(decoder_of(model).layers) if hasattr(block, "cross_attn")]


@pytest.mark.parametrize("site", MODULES)
def test_every_site_equals_a_forward_pass_a_patch(family: Family, site: str) -> None:
    positions = [3, -6, -1]
    name = f"language.attn.{site}" if site in HEADS else f"language.{site}"
    found = swept(family, name, positions=positions)
    length = family.inputs(1)["input_ids"].shape[1]
    layers = self_layers(family.model) if site in HEADS or site == "attn_out" else found.layer.values.tolist()
    values: dict[str, list[Tensor]] = {site: activations(family.model, family.inputs(2), site)}
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer in layers:
        for head in range(HEADS.get(site, 1)):
            for position in positions:
                patch = Patch(site, layer, (position % length,), head if site in HEADS else None)
                expected = float(difference(logits(family.model, family.inputs(1), [patch], values)))
                cell = found.metric.sel(layer=layer, position=position % length)
                cell = cell.sel(head=head) if site in HEADS else cell
                assert abs(float(cell) - expected) < 1e-9 * gap, patch
    moved = abs(found.metric - found.metric_corrupted).max()
    assert moved > 1e-3 * gap


def test_heads_of_cross_attention_are_a_site_of_their_own() -> None:
    family = made("mllama")
    found = swept(family, "language.cross_attn", positions=[3, -1])
    assert found.layer.values.tolist() == cross_layers(family.model) == [1, 4]
    values = {"z": activations(family.model, family.inputs(2), "z")}
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer, head, position in [(1, 0, 3), (1, 3, 13), (4, 2, 13), (4, 1, 3)]:
        expected = float(
            difference(logits(family.model, family.inputs(1), [Patch("z", layer, (position,), head)], values))
        )
        assert abs(float(found.metric.sel(layer=layer, head=head, position=position)) - expected) < 1e-9 * gap


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_both_directions(direction: Any) -> None:
    family = made("llava")
    found = swept(family, "language.attn", direction=direction)
    base, other = (1, 2) if direction == "denoise" else (2, 1)
    values = {"z": activations(family.model, family.inputs(other), "z")}
    expected = difference(logits(family.model, family.inputs(base), [Patch("z", 1, (13,), 2)], values))
    assert float(found.metric.sel(layer=1, head=2, position=13)) == pytest.approx(float(expected), abs=1e-12)
    for name, seed in (("metric_clean", 2), ("metric_corrupted", 1)):
        value = difference(logits(family.model, family.inputs(seed), [], 0.0))
        assert float(found[name]) == pytest.approx(float(value), abs=1e-12)


def test_zeros_in_place_of_the_other_run(family: Family) -> None:
    found = swept(family, "language.attn", positions=[-6], source="zero", layers=self_layers(family.model)[:2])
    length = family.inputs(1)["input_ids"].shape[1]
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer in found.layer.values.tolist():
        expected = difference(logits(family.model, family.inputs(1), [Patch("z", layer, (length - 6,), 1)], 0.0))
        assert abs(float(found.metric.sel(layer=layer, head=1).squeeze()) - float(expected)) < 1e-9 * gap


def test_groups_of_positions_and_all_heads_at_once(family: Family) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    groups = {"image": range(2, length - 8), "question": [length - 7, length - 5], "last": -1}
    found = swept(family, "language.attn", positions=groups, heads=None)
    assert found.metric.dims == ("layer", "position")
    assert found.position.values.tolist() == list(groups)
    values = {"z": activations(family.model, family.inputs(2), "z")}
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer in found.layer.values.tolist():
        for name, positions in groups.items():
            at = [positions % length] if isinstance(positions, int) else list(positions)
            expected = difference(logits(family.model, family.inputs(1), [Patch("z", layer, tuple(at))], values))
            assert abs(float(found.metric.sel(layer=layer, position=name)) - float(expected)) < 1e-9 * gap


def test_patching_the_whole_stream_gives_the_other_run(family: Family) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    found = swept(family, "language.resid_post", positions={"all": range(length)})
    last = found.metric.isel(layer=-1)
    assert float(last.squeeze()) == pytest.approx(float(found.metric_clean), abs=1e-12)


def test_the_noise_floor_is_that_of_the_dtype(family: Family) -> None:
    assert swept(family, "language.attn", positions=[-3, -1]).noise_floor < 1e-13


def test_the_result_says_what_was_patched() -> None:
    family = made("llava")
    found = swept(family, "language.attn", positions=[-2, -1], layers=[2, 1], heads=[3])
    assert found.metric.dims == ("layer", "head", "position")
    assert found.layer.values.tolist() == [2, 1]
    assert found.position.values.tolist() == [12, 13]
    assert found.token_id.values.tolist() == family.inputs(1)["input_ids"][0, -2:].tolist()
    assert found.attrs["site"] == "language.attn.hook_z"
    assert found.attrs["direction"] == "denoise"
    whole = swept(family, "language.attn", positions=[-1, -2])
    same = whole.metric.sel(layer=[2, 1], head=[3], position=[12, 13])
    assert np.abs(same.values - found.metric.values).max() < 1e-13


def test_the_model_is_left_as_it_was() -> None:
    family = made("llava")
    before = logits(family.model, family.inputs(1), [], 0.0)

    def hooks() -> int:
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in family.model.modules())

    of_transformers = hooks()

    def broken(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(family, "language.attn", metric=broken)
    swept(family, "language.mlp.post")
    assert family.model.config._attn_implementation == "sdpa"
    assert hooks() == of_transformers
    assert torch.equal(before, logits(family.model, family.inputs(1), [], 0.0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"site": "language.attn.zz"}, r"zz.*did you mean 'attn.z'"),
        ({"site": "text.attn"}, r"no stack 'text'.*'language'"),
        ({"layers": 9}, r"layer 9 asked for.*layers 0 to 3"),
        ({"heads": 4}, r"head 4 asked for.*heads 0 to 3"),
        ({"site": "language.attn.k", "heads": 2}, r"key-value head 2 asked for.*key-value heads 0 to 1"),
        ({"site": "language.mlp_out", "heads": 2}, r"heads 2 asked for; language.hook_mlp_out has no heads"),
        ({"positions": [14]}, r"position 14 asked for; the inputs have positions 0 to 13"),
        ({"positions": [3, -11]}, r"each once"),
        ({"positions": []}, r"positions \[\] asked for; expected one or more"),
        ({"metric": lambda logits: logits}, r"shape \[1?\d*, 400\].*expected one number a row"),
        ({"memory": -1}, r"memory=-1"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        swept(made("llava"), **{"site": "language.attn"} | options)


def test_choices_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="no direction 'denoising'; did you mean 'denoise'"):
        check_choice("direction", "denoising", ("denoise", "noise"))


def test_keys_of_cross_attention_are_no_positions() -> None:
    with pytest.raises(ValueError, match="cross-attention's keys and values are the image's"):
        swept(made("mllama"), "language.cross_attn.k")


def test_inputs_that_do_not_correspond() -> None:
    family = made("llava")
    clean, corrupted = family.inputs(2), family.inputs(1)
    ids = corrupted["input_ids"]

    def with_ids(new: Tensor) -> dict[str, Tensor]:
        return {**corrupted, "input_ids": new, "attention_mask": torch.ones_like(new)}

    def refused(inputs: Any, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            patch_inputs(family.model, clean, inputs, metric=difference, progress=False)

    refused(
        with_ids(torch.cat([ids[:, :3], ids[:, 2:]], 1)), ValueError, "4 image tokens, the corrupted ones 5.*resize"
    )
    refused(with_ids(ids[:, :-1]), ValueError, "14 positions, the corrupted ones 13")
    refused(with_ids(ids.roll(1, 1)), ValueError, "image is at other positions")
    refused(with_ids(ids.repeat(2, 1)), ValueError, "one example")
    refused({"pixel_values": clean["pixel_values"]}, TypeError, "input_ids")
    refused({**corrupted, "labels": ids}, ValueError, "labels")


def test_models_that_are_refused() -> None:
    family = made("llava")
    inputs = family.inputs(1)
    with pytest.raises(TypeError, match="expected a HookedVLM or a Hugging Face.*got str"):
        patch_inputs("llava", inputs, inputs, metric=difference)  # pyright: ignore[reportArgumentType]
    block = decoder_of(family.model).layers[1]
    handle = block.mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"there are hooks on the model, at .*layers\.1\.mlp"):
        patch_inputs(family.model, inputs, inputs, metric=difference)
    handle.remove()
    with pytest.raises(ValueError, match="training mode"):
        patch_inputs(family.model.train(), inputs, inputs, metric=difference)
