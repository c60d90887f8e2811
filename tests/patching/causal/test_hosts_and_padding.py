"""The wave on a hosted model, on padded inputs, and under a small memory budget."""

import pytest
import torch
from torch import Tensor

from causal_families import Family, made
from forward_oracle import Patch, activations, logits
from notice_lens.models.vlm.hooked_vlm import HookedVLM
from notice_lens.patching import patch_inputs


def metric(logits: Tensor) -> Tensor:
    return logits[..., 7] - logits[..., 9]


def padded(inputs: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Two tokens of padding on a side of the prompt."""

    def with_pads(name: str, value: Tensor) -> Tensor:
        if name not in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            return value
        pads = value.new_zeros(1, 2)
        return torch.cat([pads, value] if side == "left" else [value, pads], 1)

    return {name: with_pads(name, value) for name, value in inputs.items()}


def test_a_hosted_model_gives_what_the_bare_one_gives() -> None:
    family = made("qwen2_vl")
    hosted = HookedVLM.from_hf(family.model)
    found = [
        patch_inputs(model, family.inputs(2), family.inputs(1), metric=metric, positions=[5, -1], progress=False)
        for model in (hosted, family.model)
    ]
    assert found[0].equals(found[1])


def test_hooks_on_a_hosted_model_are_refused() -> None:
    family = made("llava")
    hosted = HookedVLM.from_hf(family.model)
    hosted.language.blocks[1].attn.hook_z.add_hook(lambda tensor, hook: tensor)
    with pytest.raises(ValueError, match=r"there are hooks on the model, at language\.blocks\.1\.attn\.hook_z"):
        patch_inputs(hosted, family.inputs(2), family.inputs(1), metric=metric, progress=False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl"])
def test_padding_is_seen_by_nobody(name: str, side: str) -> None:
    family = made(name)
    padded_family = Family(family.model, lambda seed: padded(family.inputs(seed), side))
    length = family.inputs(1)["input_ids"].shape[1] + 2
    last = length - 1 if side == "left" else length - 3
    pad = 0 if side == "left" else length - 1
    clean, corrupted = padded_family.inputs(2), padded_family.inputs(1)
    positions = [pad, 6, last - 3, last]
    found = patch_inputs(
        family.model, clean, corrupted, metric=metric, positions=positions, layers=[0, 2], heads=[1], progress=False
    )
    assert abs(found.metric.sel(position=pad) - found.metric_corrupted).max() < 1e-14  # rounding
    values = {"z": activations(family.model, clean, "z")}
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer in (0, 2):
        for position in positions[1:]:
            expected = hooked(padded_family, Patch("z", layer, (position,), 1), values, last)
            assert abs(float(found.metric.sel(layer=layer, head=1, position=position)) - expected) < 1e-9 * gap


def hooked(family: Family, patch: Patch, values: dict[str, list[Tensor]], readout: int) -> float:
    """The metric at a read-out that need not be the last position."""
    keep: list[Tensor] = []
    head = family.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: keep.append(args[2]))
    try:
        logits(family.model, family.inputs(1), [patch], values)
    finally:
        handle.remove()
    return float(metric(keep[0][0, readout]))


def test_a_small_memory_budget_changes_nothing() -> None:
    family = made("gemma3")
    clean, corrupted = family.inputs(2), family.inputs(1)
    options = {"metric": metric, "positions": range(14), "progress": False}
    whole, pieces = (
        patch_inputs(family.model, clean, corrupted, memory=memory, **options) for memory in (2**30, 2**16)
    )
    assert abs(whole.metric - pieces.metric).max() < 1e-12


def test_several_layers_of_a_group_in_bfloat16_stay_above_the_noise_floor() -> None:
    family = made("llava", torch.bfloat16)
    found = patch_inputs(
        family.model, family.inputs(2), family.inputs(1), metric=metric, positions={"image": range(2, 6)},
        heads=None, progress=False,
    )  # fmt: skip
    assert found.metric.dtype == "float32"
    assert found.noise_floor < abs(found.metric_clean - found.metric_corrupted)
